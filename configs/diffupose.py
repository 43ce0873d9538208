"""DiffuPose (Choi et al., IROS 2023) on a dataset of your choice, named after a colon.

    python -m diffpose_jax.train --config configs/diffupose.py:synthetic --workdir runs/diffupose
    python -m diffpose_jax.train --config configs/diffupose.py:cmu --workdir runs/diffupose_cmu
    python -m diffpose_jax.train --config configs/diffupose.py:human36m,gt --workdir runs/diffupose_h36m_gt
    python -m diffpose_jax.train --config configs/diffupose.py:human36m,cpn --workdir runs/diffupose_h36m_cpn
    python -m diffpose_jax.train --config configs/diffupose.py:human36m,hr --workdir runs/diffupose_h36m_hr

Expect for `cmu` about 43 minutes on one core of a 2-core machine and 55 mm for one hypothesis on the valid split; the
test subjects are in experiments/RESULTS.md. `human36m` is the paper's recipe; its figure, 49.4 mm (10 hypotheses,
HRNet, by the release's own protocol), has not been reproduced here yet, for want of the data.

`cmu` and `human36m` read `data/cmu.npz` and `data/human36m_<input>.npz`, which `diffpose_jax.prepare` makes.
"""

from ml_collections import ConfigDict

from diffpose_jax.config import base_config


def get_config(argument: str = "synthetic") -> ConfigDict:
    """The paper's recipe (width 384, batch 2048, 310,000 steps) for human36m, an hour on two cores for cmu."""
    config = base_config()
    dataset, _, detections = argument.partition(",")
    config.name = f"diffupose {argument}"
    if dataset == "human36m":
        config.data.source = f"data/human36m_{detections or 'gt'}.npz"
        config.training.update(steps=310_000, batch_size=2048, learning_rate=4e-5, ema_decay=0.9995)
        if detections == "hr":  # HRNet's files have no Neck/Nose
            config.data.layout = "h36m16"
        config.training.update(log_every=500, validate_every=5000, checkpoint_every=5000)
    elif dataset in ("cmu", "synthetic"):
        config.data.source = "data/cmu.npz" if dataset == "cmu" else "synthetic"
        _small(config)
    else:
        raise ValueError(f"expected synthetic, cmu, human36m,gt or human36m,cpn; found {argument!r}")
    return config


def _small(config: ConfigDict) -> None:
    config.lifter.update(width=128, joint_weights="uniform")
    config.training.update(
        steps=24_000,
        batch_size=256,
        learning_rate=2e-3,
        decay="cosine",
        warmup_steps=500,
        clip_norm=1.0,
        ema_decay=0.999,
        log_every=200,
        validate_every=4000,
        checkpoint_every=2000,
        valid_windows=512,
    )
    config.diffusion.update(sampling_steps=20)
    config.evaluation.update(stride=5)

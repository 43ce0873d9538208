"""The supervised Modulated GCN (Zou & Tang, ICCV 2021), the lifter that DiffuPose's denoiser grew from.

    python -m diffpose_jax.train --config configs/modulated_gcn.py:synthetic,small --workdir runs/modulated_gcn
    python -m diffpose_jax.train --config configs/modulated_gcn.py:cmu,hour --workdir runs/modulated_gcn_cmu
    python -m diffpose_jax.train --config configs/modulated_gcn.py:human36m,gt --workdir runs/modulated_gcn_gt

`gt` is the release's program for ground-truth keypoints (16 joints, width 128, no flips; it claims 38.25 mm), anything
else its program for detections (17 joints, width 384; 51.3 mm claimed), without the second stage that needs ground
truth at test time. Neither has been reproduced here yet, for want of the data. `cmu,hour` takes 50 minutes on one core
and reaches 59.4 mm, see experiments/RESULTS.md.
"""

from ml_collections import ConfigDict

from diffpose_jax.presets import start, train_epochs, train_small


def get_config(argument: str = "synthetic") -> ConfigDict:
    """The releases' recipes, or smaller ones."""
    config, chosen = start("modulated_gcn", "modulated_gcn", argument)
    config.evaluation.update(hypotheses=1)
    if chosen.size:
        # The released program for detections without its dropout: the attention and the loss on distances serve best.
        config.lifter.update(variant="benchmark", loss="distance_and_absolute")
        train_small(config, 32_000 if chosen.size == "hour" else 4000, 256, 2e-3)
        config.evaluation.update(stride=5)
    elif chosen.keypoints == "gt":
        config.data.update(layout="h36m16" if chosen.dataset == "human36m" else config.data.layout, flip=False)
        train_epochs(config, 50, 64)
        config.training.update(learning_rate=1e-3, decay="exponential", clip_norm=1.0)
        config.evaluation.flip = "none"
    else:
        config.lifter.update(variant="benchmark", width=384, dropout=0.2, loss="distance_and_absolute")
        # 30 epochs of both the frames and their mirror images; the rate falls by a tenth every four epochs.
        train_epochs(config, 30, 256, mirrored=True)
        config.training.update(learning_rate=5e-3, optimizer="amsgrad")
        config.training.update(decay="exponential", decay_rate=0.9, decay_every=0, decay_epochs=8)
        config.evaluation.flip = "average"
    if not chosen.size:
        config.training.update(log_every=500, validate_every=5000, checkpoint_every=5000)
    return config

"""DiffuPose (Choi et al., IROS 2023): one frame, modulated GCN, many hypotheses.

    python -m diffpose_jax.train --config configs/diffupose.py:synthetic,small --workdir runs/diffupose
    python -m diffpose_jax.train --config configs/diffupose.py:cmu,hour --workdir runs/diffupose_cmu
    python -m diffpose_jax.train --config configs/diffupose.py:human36m,hr --workdir runs/diffupose_h36m_hr
    python -m diffpose_jax.train --config configs/diffupose.py:humaneva,gt --workdir runs/diffupose_humaneva

After the colon: the data set, its 2D input, and for two cores `small` (minutes), `hour` (43 minutes on one core for
cmu: 55.6 mm for the mean of 10, see experiments/RESULTS.md) or `day`, the reference model for people as any camera
sees them. Without a size it is the paper's recipe, whose figure, 49.4 mm (10 hypotheses, HRNet, by the release's own
protocol), has not been reproduced here yet, for want of the data. The recipe for HumanEva-I is the paper's text, with
three actions (`prepare humaneva --actions Walking,Jog,Box`): the released program cannot run it.
"""

from ml_collections import ConfigDict

from diffpose_jax.presets import start, train_day, train_epochs, train_small


def get_config(argument: str = "synthetic") -> ConfigDict:
    """The paper's recipe (width 384, on Human3.6M batch 2048, 310,000 steps), or a smaller one."""
    config, chosen = start("diffupose", "diffupose", argument)
    if chosen.size:
        config.lifter.update(width=128, joint_weights="uniform")
        # Of 100: error of the mean and energy score within 1 % of the whole chain's (RESULTS.md), 16 times as fast.
        config.diffusion.update(sampling_steps=6)
        train_small(config, 24_000 if chosen.size == "hour" else 3000, 256, 2e-3)
        config.evaluation.update(stride=5)
        if chosen.size == "day":
            config.diffusion.update(predict="v")  # it learns faster than the noise and keeps the spread, see RESULTS.md
            train_day(config, 256, 2e-3)
        return config
    # The release steps its average by 0.995 every tenth step: 0.9995 per step.
    config.training.update(learning_rate=4e-5, ema_decay=0.9995, log_every=500)
    # The release adds up the gradients of two mini-batches, and an epoch has every frame as it is and mirrored.
    if chosen.dataset == "humaneva":
        train_epochs(config, 1000, 2 * 128, mirrored=True)
    else:
        train_epochs(config, 200, 2 * 1024, mirrored=True)
    if chosen.dataset == "human36m":
        config.training.update(steps=310_000, validate_every=5000, checkpoint_every=5000)
    config.evaluation.flip = "average"
    return config

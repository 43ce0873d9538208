"""DiffPose (Gong et al., CVPR 2023) for video: MixSTE's estimate and features are the context of every frame.

    python -m diffpose_jax.train --config configs/mixste.py:synthetic,small --workdir runs/mixste
    python -m diffpose_jax.train --config configs/diffpose_video.py:synthetic,small --workdir runs/diffpose_video \
        --config.lifter.context=runs/mixste

The context is the work directory of a trained (or converted) lifter of sequences on the same keypoints; its frames are
those of a window. The words `heatmaps`, `paper` and `release` mean what they do in `configs/diffpose_frame.py`.

Published for Human3.6M, 243 frames: 36.9 mm with CPN (users of the released weights find 39.5), 18.9 mm with
ground-truth 2D; not reproduced here yet, for want of the data.
"""

from ml_collections import ConfigDict

from diffpose_jax.presets import Argument, set_diffpose, start, train_epochs, train_small

RECIPES = {"release": "diffpose_release", "heatmaps": "diffpose", "paper": "diffpose"}


def get_config(argument: str = "synthetic") -> ConfigDict:
    """The method, or what its release computes, in the recipe of the release or a small one."""
    config, chosen = start("diffpose", "diffpose_video", argument, RECIPES)
    config.data.windows = "tiled"
    config.evaluation.update(batch_size=8)
    if chosen.recipe == "release":
        _release(config, chosen)
    else:
        set_diffpose(config, chosen)
    if chosen.size:
        config.lifter.update(width=64, num_layers=3, dropout=0.1)
        train_small(config, 3000, 16, 1e-3)
        return config
    # The release's batch is 1024 single frames: four windows of 243.
    train_epochs(config, 80, 4)
    config.training.update(learning_rate=1e-3, clip_norm=1.0, ema_decay=0.999, ema_kind="constant")
    config.training.update(decay="exponential", decay_rate=0.9, decay_every=0, decay_epochs=61)
    return config


def _release(config: ConfigDict, chosen: Argument) -> None:
    config.evaluation.update(hypotheses=1, flip="average")
    config.lifter.update(centre_estimate=False, mixture_spread=False)
    # CPN: one step, at 0. Ground truth: 6 and 0.
    steps, timesteps = (2, 12) if chosen.keypoints == "gt" else (1, 6)
    config.diffusion.update(sampling_steps=steps, num_timesteps=timesteps)
    config.data.flip = bool(chosen.size)

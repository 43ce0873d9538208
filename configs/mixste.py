"""MixSTE (Zhang et al., CVPR 2022): sequences of 2D keypoints to sequences of poses, supervised.

    python -m diffpose_jax.train --config configs/mixste.py:synthetic,small --workdir runs/mixste
    python -m diffpose_jax.train --config configs/mixste.py:human36m,cpn,243 --workdir runs/mixste_cpn

After the colon: the data set, its 2D input, the frames of a window (243), and `small` for two cores. Published for
Human3.6M, CPN: 40.9 mm (243 frames), 42.4 (81); ground-truth 2D: 21.6 (243). None has been reproduced here yet, for
want of the data. `--config.lifter.width=64` with 27 frames is the context of DiffHPE-Wrapper.
"""

from ml_collections import ConfigDict

from diffpose_jax.presets import set_frames, start, train_epochs, train_small


def get_config(argument: str = "synthetic") -> ConfigDict:
    """The release's recipe, or a small one."""
    config, chosen = start("mixste", "mixste", argument)
    config.data.windows = "tiled"
    config.evaluation.update(hypotheses=1)
    if chosen.size:
        set_frames(config, chosen.frames or 27)
        config.lifter.update(width=64, num_layers=3, drop_path=0.0)
        train_small(config, 3000, 16, 1e-3)
        return config
    frames = chosen.frames or 243
    set_frames(config, frames)
    # The release counts its batch of 1024 in frames, and every clip comes straight and mirrored in one epoch.
    train_epochs(config, 120, max(1, 1024 // frames), mirrored=True, decay_rate=0.99)
    config.training.update(learning_rate=4e-5, weight_decay=0.1, ema_decay=0.0)
    config.evaluation.flip = "average"
    # The paper weighs the velocity error by 1.0, the release by 2.0; the release also multiplies gradients by the loss:
    # config.training.scale_by_loss.
    return config

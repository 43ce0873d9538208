"""PoseFormer (Zheng et al., ICCV 2021): the pose of the middle frame of a sequence, supervised.

    python -m diffpose_jax.train --config configs/poseformer.py:synthetic,small --workdir runs/poseformer
    python -m diffpose_jax.train --config configs/poseformer.py:human36m,cpn,81 --workdir runs/poseformer_cpn

After the colon: the data set, its 2D input, the frames of a window (81), and `small` for two cores. Published for
Human3.6M, 81 frames: 44.3 mm with CPN, 31.3 mm with ground-truth 2D; not reproduced here yet, for want of the data.
"""

from ml_collections import ConfigDict

from diffpose_jax.presets import set_frames, start, train_epochs, train_small


def get_config(argument: str = "synthetic") -> ConfigDict:
    """The release's recipe, or a small one."""
    config, chosen = start("poseformer", "poseformer", argument)
    config.evaluation.update(hypotheses=1)
    if chosen.size:
        set_frames(config, chosen.frames or 9)
        config.lifter.update(width=16, num_layers=2, drop_path=0.0)
        train_small(config, 4000, 64, 1e-3)
        return config
    set_frames(config, chosen.frames or 81)
    config.evaluation.flip = "average"
    train_epochs(config, 200, 512, mirrored=True, decay_rate=0.99)
    # README of the release: 4e-4 for ground-truth 2D, 4e-5 for CPN; its default is 1e-4.
    config.training.update(learning_rate=4e-4 if chosen.keypoints == "gt" else 4e-5, weight_decay=0.1, ema_decay=0.0)
    return config

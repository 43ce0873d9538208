"""DiffHPE-2D (Rommel et al., ICCV workshops 2023): diffusion of pose sequences conditioned on the 2D keypoints.

    python -m diffpose_jax.train --config configs/diffhpe_2d.py:synthetic,small --workdir runs/diffhpe_2d

Published for Human3.6M, CPN, 27 frames: 51.8 mm (mean of 5); not reproduced here yet, for want of the data.
"""

from ml_collections import ConfigDict

from diffpose_jax.presets import set_frames, start, train_epochs, train_small


def get_config(argument: str = "synthetic") -> ConfigDict:
    """The release's recipe, or a small one."""
    config, chosen = start("diffhpe", "diffhpe_2d", argument)
    set_frames(config, chosen.frames or 27)
    config.data.windows = "random"
    config.evaluation.update(hypotheses=5)
    if chosen.size:
        config.lifter.update(width=32, num_layers=6, dropout=0.0)
        train_small(config, 3000, 16, 2e-3)
        return config
    config.data.flip = False
    config.evaluation.flip = "none"
    # The paper says batch 200, learning rate 8.0e-4 and dropout 0.03.
    train_epochs(config, 1000, 100)
    config.lifter.dropout = 0.032
    config.training.update(
        learning_rate=0.0008083464402314577, weight_decay=1e-6, weight_decay_kind="l2", ema_decay=0.0
    )
    # Validation, and with it the plateau's patience, counts every fifth epoch; the release judges the best noise loss
    # on its validation set so far.
    config.training.update(decay="plateau", plateau_error="loss", plateau_feed="best", validate_epochs=5)
    return config

"""D3DP (Shan et al., ICCV 2023): many sequences of poses by x0 prediction, aggregated joint by joint.

    python -m diffpose_jax.train --config configs/d3dp.py:synthetic,small --workdir runs/d3dp
    python -m diffpose_jax.train --config configs/d3dp.py:human36m,cpn,243 --workdir runs/d3dp_cpn

Published for Human3.6M, 243 frames, 20 hypotheses, 10 steps: CPN 39.5 mm aggregated by reprojection (with the true root
position), ground-truth 2D 19.6 mm; not reproduced here yet, for want of the data.
"""

from ml_collections import ConfigDict

from diffpose_jax.presets import set_frames, start, train_epochs, train_small


def get_config(argument: str = "synthetic") -> ConfigDict:
    """The release's recipe, or a small one."""
    config, chosen = start("d3dp", "d3dp", argument)
    config.data.windows = "tiled"
    if chosen.size:
        set_frames(config, chosen.frames or 27)
        config.lifter.update(width=64, num_layers=3, drop_path=0.0)
        config.diffusion.update(sampling_steps=5)
        train_small(config, 3000, 16, 1e-3)
        config.evaluation.update(hypotheses=5)
        return config
    frames = chosen.frames or 243
    set_frames(config, frames)
    train_epochs(config, 400, max(1, 1024 // frames), mirrored=True, decay_rate=0.993)
    # The release also multiplies gradients by the loss: config.training.scale_by_loss.
    config.training.update(learning_rate=6e-5, weight_decay=0.1, ema_decay=0.0)
    config.evaluation.update(hypotheses=20, flip="average", batch_size=1)
    return config

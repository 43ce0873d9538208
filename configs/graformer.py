"""GraFormer (Zhao et al., CVPR 2022) in the size DiffPose uses it: one frame, supervised.

    python -m diffpose_jax.train --config configs/graformer.py:synthetic,small --workdir runs/graformer
    python -m diffpose_jax.train --config configs/graformer.py:human36m,cpn --workdir runs/graformer_cpn

It is DiffPose's context for single frames. DiffPose's table gives it 51.8 mm for CPN and 35.2 mm for ground-truth 2D on
Human3.6M; how those weights were trained is not published, so the recipe is ours.
"""

from ml_collections import ConfigDict

from diffpose_jax.presets import start, train_epochs, train_small


def get_config(argument: str = "synthetic") -> ConfigDict:
    """A recipe of our own: Adam with cosine decay, as many frames as DiffPose's denoiser sees."""
    config, chosen = start("graformer", "graformer", argument)
    config.evaluation.update(hypotheses=1)
    if chosen.size:
        config.lifter.update(width=64, num_layers=3, dropout=0.1)
        train_small(config, 4000, 256, 1e-3)
        return config
    train_epochs(config, 80, 1024)
    config.training.update(learning_rate=1e-3, decay="cosine", clip_norm=1.0, ema_decay=0.999)
    return config

"""DiffuPose on embedded motion, small enough for two CPU cores.

python -m diffpose_jax.train --config configs/quickstart.py --workdir runs/quickstart
"""

from ml_collections import ConfigDict

from diffpose_jax.config import base_config


def get_config() -> ConfigDict:
    """The main job in minutes: width 128, 20 of the 100 reverse steps at evaluation."""
    config = base_config()
    config.name = "quickstart"
    config.lifter.update(width=128, joint_weights="uniform")
    config.diffusion.update(sampling_steps=20)
    config.training.update(
        steps=2400,
        batch_size=256,
        learning_rate=2e-3,
        decay="cosine",
        warmup_steps=100,
        ema_decay=0.998,
        log_every=100,
        validate_every=800,
        checkpoint_every=800,
        valid_windows=512,
    )
    config.evaluation.update(hypotheses=10, stride=5)
    return config

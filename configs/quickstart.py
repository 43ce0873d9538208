"""DiffuPose on embedded motion, small enough for two CPU cores.

    python -m diffpose_jax.train --config configs/quickstart.py --workdir runs/quickstart

Expect 80 s of training on two cores, 56 mm for one hypothesis on the valid split, and 46 mm for the mean of ten on the
test people (mean pose 182 mm, nearest neighbour in 2D 70 mm). The input is person-centred (53 mm with raw screen
coordinates). The network predicts v, a blend of noise and pose, where the paper predicts the noise: in so few steps it
gets further.
"""

from ml_collections import ConfigDict

from diffpose_jax.registry import config_for


def get_config() -> ConfigDict:
    """The main job in minutes: width 128, a tenth of the 100 reverse steps and of the test frames at evaluation."""
    config = config_for("diffupose")
    config.name = "quickstart"
    config.lifter.update(width=128, joint_weights="uniform")
    config.data.view = "person"
    config.diffusion.update(predict="v", sampling_steps=10)
    config.training.update(
        steps=3000,
        batch_size=128,
        learning_rate=2e-3,
        decay="cosine",
        warmup_steps=100,
        ema_decay=0.998,
        log_every=100,
        validate_every=500,
        checkpoint_every=500,
        valid_frames=512,
    )
    config.evaluation.update(hypotheses=10, stride=10)
    return config

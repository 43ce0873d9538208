"""The mixture density network (Li and Lee, CVPR 2019) on the residual MLP: hypotheses without diffusion.

    python -m diffpose_jax.train --config configs/mixture_density.py:synthetic,small --workdir runs/mixture_density

The row that a diffusion has to beat in tables about distributions: a pose's density is a mixture of five Gaussians.
"""

from ml_collections import ConfigDict

from diffpose_jax.presets import start, train_day, train_small


def get_config(argument: str = "synthetic,small") -> ConfigDict:
    """A recipe for two cores: of a minute, or (`day`) that of the reference models."""
    config, chosen = start("mixture_density", "mixture_density", argument)
    train_small(config, 4000, 256, 3e-3)
    if chosen.size == "day":
        train_day(config, 256, 1e-3)
    return config

"""DiffuPose with a residual MLP as its denoiser: a fifteenth of the modulated GCN's work, for real-time rates.

    python -m diffpose_jax.train --config configs/diffupose_mlp.py:synthetic,small --workdir runs/diffupose_mlp

Takes the arguments of `configs/diffupose.py`. No paper has this denoiser; the network predicts v, a blend of noise and
pose, and poses may reach 1.5 m from the root, which raised arms do.
"""

from ml_collections import ConfigDict

from diffpose_jax.presets import config_beside


def get_config(argument: str = "synthetic") -> ConfigDict:
    """DiffuPose's recipe with the other denoiser."""
    config = config_beside(__file__, "diffupose")(argument)
    config.name = f"diffupose_mlp {argument}"
    config.lifter.update(variant="mlp", width=512)
    config.diffusion.update(predict="v", clip=1.5)
    return config

"""DiffuPose with the U-Net denoiser of the paper's ablation (2.99 M parameters, our reconstruction).

    python -m diffpose_jax.train --config configs/diffupose_unet.py:synthetic,small --workdir runs/diffupose_unet

The paper gives 58.1 mm for it on Human3.6M (HRNet), where the graph network has 50.7; not reproduced here yet,
for want of the data.

Takes the arguments of `configs/diffupose.py`.
"""

from ml_collections import ConfigDict

from diffpose_jax.presets import config_beside


def get_config(argument: str = "synthetic") -> ConfigDict:
    """DiffuPose's recipe with the other denoiser, everything else equal."""
    config = config_beside(__file__, "diffupose")(argument)
    config.name = f"diffupose_unet {argument}"
    config.lifter.update(variant="unet", width=24)
    return config

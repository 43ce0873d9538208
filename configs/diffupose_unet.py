"""DiffuPose with the U-Net denoiser of the paper's ablation (2.99 M parameters, our reconstruction).

    python -m diffpose_jax.train --config configs/diffupose_unet.py:cmu --workdir runs/diffupose_unet

The paper gives 58.1 mm for it on Human3.6M (HRNet), where the graph network has 50.7. Neither its run time nor its
error has been measured here yet.

Takes the arguments of `configs/diffupose.py`: synthetic, cmu, human36m,gt and human36m,cpn.
"""

import importlib.util
from pathlib import Path

from ml_collections import ConfigDict

_spec = importlib.util.spec_from_file_location("diffupose_config", Path(__file__).with_name("diffupose.py"))
_diffupose = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_diffupose)


def get_config(argument: str = "synthetic") -> ConfigDict:
    """DiffuPose's recipe with the other denoiser, everything else equal."""
    config = _diffupose.get_config(argument)
    config.name = f"diffupose_unet {argument}"
    config.lifter.update(variant="unet", width=24)
    return config

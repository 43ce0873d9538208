"""Lifting 2D human keypoints to distributions of 3D poses with diffusion models.

    import diffpose_jax as dp

    model = dp.load("runs/quickstart")
    result = model.lift(keypoints, layout="coco17", image_size=(1920, 1080), hypotheses=20)
    result.poses, result.hypotheses, result.spread  # [M, J, 3], [M, H, J, 3], [M, J] in metres

One shape language throughout: `[H, B, F, J, C]` for hypotheses, batch, frames, joints, channels, leading axes dropped
when absent. Metres inside, millimetres in reports; camera frame x right, y down, z forward. What is named here is
loaded when it is first used: importing the package does not import JAX.
"""

import sys
from types import ModuleType

import lazy_loader

__version__ = "0.2.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


class _Package(ModuleType):
    """The package itself: importing the program `diffpose_jax.train` must not put a module in the function's place."""

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in __all__ and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package

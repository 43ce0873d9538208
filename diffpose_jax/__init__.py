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
from importlib import import_module
from types import ModuleType
from typing import Any

__version__ = "0.2.0"

_HOMES = {
    "config": ("Options", "option"),
    "data.archives": ("load_archive", "save_archive"),
    "data.clips": ("Clip", "ClipSet"),
    "data.sets.keypoints": ("read_keypoints",),
    "data.windows": ("Batch",),
    "errors": ("UserError",),
    "evaluate": ("evaluate",),
    "lifters.base": ("Aux", "Lifter", "Sampling"),
    "mixtures.fitting": ("FitOptions", "fit_mixture", "fit_mixtures"),
    "mixtures.mixture": ("Mixture",),
    "model": ("Model", "Result", "load"),
    "registry": ("build_lifter", "config_for"),
    "skeleton": ("Skeleton", "get_skeleton"),
    "training.loop": ("train",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = list(_HOME_OF)


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Package(ModuleType):
    """The package itself: importing the program `diffpose_jax.train` must not put a module in the function's place."""

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in _HOME_OF and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package

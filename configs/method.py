"""Any method, by its name or, from outside the package, by its import path.

    python -m diffpose_jax.train --config configs/method.py:mypackage.mymethod,synthetic,small --workdir runs/mymethod

After the colon: the method, then as in the other configs the data set, its 2D input, the frames of a window and a size.
Without a method the flag --config.lifter.name=mypackage.mymethod names it, and all its options are at their defaults.
"""

from ml_collections import ConfigDict

from diffpose_jax.presets import set_frames, start, train_small


def get_config(argument: str = "") -> ConfigDict:
    """The method's own defaults, or with a size a recipe for two cores."""
    if not argument:
        return ConfigDict({"lifter": {"name": ""}})
    method, _, text = argument.partition(",")
    config, chosen = start(method, f"method:{method}", text or "synthetic")
    if "frames" in config.lifter:
        set_frames(config, chosen.frames or config.lifter.frames)
    if chosen.size:
        train_small(config, 3000, 1024 // config.lifter.get("frames", 4), 1e-3)
    return config

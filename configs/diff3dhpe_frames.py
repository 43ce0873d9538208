"""Diff3DHPE with a transformer over frames in place of MixSTE: sequences on two cores.

    python -m diffpose_jax.train --config configs/diff3dhpe_frames.py:synthetic,small --workdir runs/diff3dhpe_frames
    python -m diffpose_jax.train --config configs/diff3dhpe_frames.py:cmu,day --workdir runs/diff3dhpe_frames_day

Takes the arguments of `configs/diff3dhpe_mixste.py`. No paper has this network; everything else is Diff3DHPE's. `day`
is the reference model of sequences, for people as any camera sees them.
"""

from ml_collections import ConfigDict

from diffpose_jax.presets import config_beside, train_day, train_small


def get_config(argument: str = "synthetic") -> ConfigDict:
    """Diff3DHPE's recipe with the other network."""
    config = config_beside(__file__, "diff3dhpe_mixste")(argument)
    config.name = f"diff3dhpe_frames {argument}"
    config.lifter.update(backbone="frames", width=256, num_layers=4, drop_path=0.0)
    if config.training.steps:
        train_small(config, 6000, 32, 1e-3)
    if argument.endswith("day"):
        train_day(config, 128, 1e-3)
        # Nine frames are 0.18 s: three tokens for a window of 27, so that a core sees three times as many windows.
        config.lifter.update(frames_per_token=9, width=384)
        config.data.windows = "random"
        config.lifter.scale = 0.25
        config.diffusion.clip = 6.0  # of that scale: 1.5 m
    return config

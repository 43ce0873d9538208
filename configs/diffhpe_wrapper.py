"""DiffHPE-Wrapper (Rommel et al., ICCV workshops 2023): diffusion conditioned on a frozen lifter's features.

    python -m diffpose_jax.train --config configs/diffhpe_wrapper.py:synthetic,small --workdir runs/diffhpe_wrapper \
        --config.lifter.context=runs/mixste

The context is the work directory of a trained (or converted) lifter of 27 frames, see `configs/mixste.py`. Published
for Human3.6M, CPN: 51.2 mm (mean of 5) over a MixSTE of width 64 that has 54.8; not reproduced here yet, for want
of the data.
"""

from ml_collections import ConfigDict

from diffpose_jax.presets import config_beside, parse_argument


def get_config(argument: str = "synthetic") -> ConfigDict:
    """The release's recipe of DiffHPE-2D with the numbers of the Wrapper, or a small one."""
    config = config_beside(__file__, "diffhpe_2d")(argument)
    config.name = f"diffhpe_wrapper {argument}"
    config.lifter.context = "runs/mixste"  # without one it would be DiffHPE-2D
    if not parse_argument(argument).size:
        # The paper says batch 200, learning rate 2.7e-4 and dropout 0.27.
        config.lifter.dropout = 0.2703806090969092
        config.training.learning_rate = 0.0002701385346296177
    return config

"""DiffHPE-Wrapper (Rommel et al., ICCV workshops 2023): diffusion conditioned on a frozen lifter's features.

    python -m diffpose_jax.train --config configs/diffhpe_wrapper.py:synthetic,small --workdir runs/diffhpe_wrapper \
        --config.lifter.context=runs/mixste

The context is the work directory of a trained (or converted) lifter of 27 frames, see `configs/mixste.py`. Published
for Human3.6M, CPN: 51.2 mm (mean of 5) over a MixSTE of width 64 that has 54.8; not reproduced here yet, for want
of the data.
"""

from ml_collections import ConfigDict

from diffpose_jax.presets import HUMAN36M_FRAMES, set_frames, start, train_epochs, train_small


def get_config(argument: str = "synthetic") -> ConfigDict:
    """The release's recipe, or a small one."""
    config, chosen = start("diffhpe", "diffhpe_wrapper", argument)
    set_frames(config, chosen.frames or 27)
    config.data.windows = "random"
    config.evaluation.update(hypotheses=5)
    if chosen.size:
        config.lifter.update(width=32, num_layers=6, dropout=0.0)
        train_small(config, 3000, 16, 2e-3)
        return config
    config.data.flip = False
    config.evaluation.flip = False
    # The paper says batch 200, learning rate and dropout 2.7e-4, 0.27.
    epoch = train_epochs(config, 1000, HUMAN36M_FRAMES // config.lifter.frames, 100)
    config.lifter.dropout = 0.2703806090969092
    config.training.update(
        learning_rate=0.0002701385346296177, weight_decay=1e-6, weight_decay_kind="l2", ema_decay=0.0
    )
    # Validation, and with it the plateau's patience, counts every fifth epoch; the release judges the best loss so far.
    config.training.update(decay="plateau", validate_every=5 * epoch, checkpoint_every=5 * epoch)
    return config

"""DiffPose (Gong et al., CVPR 2023) for single frames: draws from heatmaps' distributions, denoised.

    python -m diffpose_jax.train --config configs/residual_mlp.py:synthetic,small --workdir runs/residual_mlp
    python -m diffpose_jax.train --config configs/diffpose_frame.py:synthetic,small --workdir runs/diffpose \
        --config.lifter.context=runs/residual_mlp

The context is the work directory of a trained (or converted) lifter of single frames on the same keypoints.
More words after the data set:

* `heatmaps`: the distribution H_K that poses are diffused towards is that of a detector's heatmaps, simulated for the
  embedded motion (train the context with --config.data.heatmaps then) and otherwise read from data/NAME_heatmaps.npz,
  see `prepare mixtures`. Without it keypoints are all there is, and H_K is the context's own uncertainty.
* `paper`: with heatmaps, the paper to the letter. The default differs from it in three options: the loss compares poses
  instead of next poses (diffusion.predict), components are drawn by responsibility instead of weight
  (lifter.component), and the network's input and output are relative to a Gaussian posterior (lifter.preconditioning).
  It takes all timesteps. What each is worth: docs/methods/diffpose.md.
* `release`: what the released code computes.

Afterwards `python -m diffpose_jax.calibrate --workdir runs/diffpose` finds the temperature at which coverage is
nominal.

Published for Human3.6M: 49.7 mm with CPN, 31.6 mm with ground-truth 2D; not reproduced here yet, for want of
the data.
"""

from ml_collections import ConfigDict

from diffpose_jax.presets import Argument, set_diffpose, start, train_epochs, train_small

RECIPES = {"release": "diffpose_release", "heatmaps": "diffpose", "paper": "diffpose"}


def get_config(argument: str = "synthetic") -> ConfigDict:
    """The method, or what its release computes, in the recipe of the release or a small one."""
    config, chosen = start("diffpose", "diffpose_frame", argument, RECIPES)
    if chosen.recipe == "release":
        _release(config, chosen)
    else:
        set_diffpose(config, chosen)
    if chosen.size:
        config.lifter.update(width=64, num_layers=3, dropout=0.1)
        train_small(config, 3000, 256, 1e-3)
        return config
    train_epochs(config, 80, 1024)
    # The YAML's 2e-5 is overwritten by the command line's 1e-3. The release keeps an average and never evaluates it: 0
    # does the same. The paper gives no recipe.
    config.training.update(learning_rate=1e-3, clip_norm=1.0, ema_decay=0.999, ema_kind="constant")
    config.training.update(decay="exponential", decay_rate=0.9, decay_every=0, decay_epochs=61)
    return config


def _release(config: ConfigDict, chosen: Argument) -> None:
    config.evaluation.update(hypotheses=1)
    # CPN: two steps, 12 and 0. Ground truth: 6 and 0.
    config.diffusion.update(sampling_steps=2, num_timesteps=12 if chosen.keypoints == "gt" else 24)
    config.data.flip = bool(chosen.size)
    if not chosen.size:  # no flips, neither in training nor at test
        config.evaluation.flip = "none"

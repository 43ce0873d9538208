"""Train a lifter: `python -m diffpose_jax.train --config configs/quickstart.py --workdir runs/quickstart`.

Running the same command again continues. Any key of the config can be set: `--config.training.steps=2000`. SIGTERM and
SIGINT save a checkpoint, then the program ends with exit code 143 or 130. Of two programs that would train in one work
directory the second one ends at once.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from absl import flags, logging
from ml_collections import ConfigDict, config_flags

from diffpose_jax import cli
from diffpose_jax.cluster import join_cluster

if TYPE_CHECKING:
    from diffpose_jax.training.loop import Summary


def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines the flags of this program; not at import, where several programs would claim the same names."""
    help_text = "Path of a config file, with arguments after a colon."
    config_flags.DEFINE_config_file("config", None, help_text, flag_values=values)
    help_text = "Work directory whose best weights training starts from: --config.training.init_from in short."
    flags.DEFINE_string("init_from", None, help_text, flag_values=values)
    help_text = (
        "Work directory of a teacher whose hypotheses are learned in fewer steps: --config.training.distil in short."
    )
    flags.DEFINE_string("distil", None, help_text, flag_values=values)
    help_text = "Also train so many versions without a fold of the subjects each, for use as a context."
    flags.DEFINE_integer("cross_fit", None, help_text, lower_bound=2, flag_values=values)
    flags.DEFINE_string("workdir", None, "Directory for checkpoints, metrics and results.", flag_values=values)


def main(argv: list[str], given: flags.FlagValues = flags.FLAGS) -> int:
    """Reads the flags, trains, and says where everything is."""
    cli.require(argv, given, "config", "workdir")
    logging.set_verbosity(logging.WARNING)
    if given.init_from is not None:
        given.config.training.init_from = given.init_from
    if given.distil is not None:
        given.config.training.distil = given.distil
    summary = _train(given.config, given.workdir, given.cross_fit)
    if summary.stopped:
        print(f"stopped at step {summary.step}; a checkpoint is saved; the same command continues from there")
    else:
        print(f"trained {summary.step} steps; {_best(summary)}")
    print(f"checkpoints: {given.workdir}/best, {given.workdir}/checkpoints   "
          f"metrics: {given.workdir}/metrics.jsonl, {given.workdir}/tensorboard")  # fmt: skip
    return 128 + summary.signal if summary.stopped else 0


def _best(summary: Summary) -> str:
    if math.isnan(summary.best_mpjpe):
        return "the data have no valid split: nothing was selected, the last weights are kept as the best"
    return f"best valid MPJPE {summary.best_mpjpe:.1f} mm at step {summary.best_step}"


def _train(config: ConfigDict, workdir: str, folds: int | None) -> Summary:
    if config.get("training", {}).get("distributed", False):
        join_cluster("config.training.distributed")
    # Imported here because jax.distributed must come before anything that touches a device.
    from diffpose_jax.training.cross_fit import cross_fit
    from diffpose_jax.training.loop import train

    return train(config, workdir) if folds is None else cross_fit(config, workdir, folds)


if __name__ == "__main__":
    define_flags()
    cli.run(main)

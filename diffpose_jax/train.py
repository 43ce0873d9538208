"""Train a lifter: `python -m diffpose_jax.train --config configs/quickstart.py --workdir runs/quickstart`.

Running the same command again continues. Any key of the config can be set: `--config.training.steps=2000`.
"""

from __future__ import annotations

import jax
from absl import flags, logging
from ml_collections import config_flags

from diffpose_jax import cli
from diffpose_jax.errors import UserError

_CONFIG = config_flags.DEFINE_config_file("config", None, "Path of a config file, with arguments after a colon.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Directory for checkpoints, metrics and results.")


def main(argv: list[str]) -> int:
    """Reads the flags, trains, and says where everything is."""
    if len(argv) > 1:
        raise UserError(f"unexpected argument {argv[1]!r}; flags begin with --")
    for name, flag in (("config", _CONFIG), ("workdir", _WORKDIR)):
        if flag.value is None:
            raise UserError(f"--{name}: required, found none")
    config, workdir = _CONFIG.value, _WORKDIR.value
    logging.set_verbosity(logging.WARNING)
    if config.get("training", {}).get("distributed", False):
        jax.distributed.initialize()
    from diffpose_jax.training.loop import train  # after jax.distributed, which must come before any use of JAX

    summary = train(config, workdir)
    if summary.stopped:
        print(f"stopped at step {summary.step}; a checkpoint is saved; the same command continues from there")
    else:
        print(f"trained {summary.step} steps; best valid MPJPE {summary.best_mpjpe:.1f} mm at step {summary.best_step}")
    print(f"checkpoints: {workdir}/best, {workdir}/checkpoints   metrics: {workdir}/metrics.jsonl, {workdir}/tensorboard")
    return 0


if __name__ == "__main__":
    cli.run(main)

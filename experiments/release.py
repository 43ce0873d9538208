"""Make a released model of a trained work directory: `python experiments/release.py --workdir W --name sequence`.

Writes config, weights in half precision, calibration and record of keypoints to `diffpose_jax/pretrained/NAME`, beside
the model card `card.md`, which is written by hand and stays.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from diffpose_jax.config import copy_config
from diffpose_jax.records import read_record
from diffpose_jax.workdir.calibration import CALIBRATION, write_calibration
from diffpose_jax.workdir.releases import WEIGHTS, drop_folds, write_release
from diffpose_jax.workdir.trained import load_trained

SHIPPED = Path(__file__).resolve().parents[1] / "diffpose_jax" / "pretrained"


def main(arguments: list[str]) -> int:
    """Writes the release."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=Path, required=True, help="the trained work directory, calibrated")
    parser.add_argument("--name", required=True, help="name of the release")
    parser.add_argument("--source", default="data/cmu.npz", help="how the config calls the data trained on")
    given = parser.parse_args(arguments)
    trained = load_trained(given.workdir, calibrated=False)
    config = copy_config(trained.config, data={"source": given.source}, training={"init_from": "", "distil": ""})
    if config.lifter.get("context"):
        config.lifter.context = f"runs/{Path(config.lifter.context).name}"
    config, variables = drop_folds(config, trained.variables)
    card = SHIPPED / given.name / "card.md"
    text = card.read_text() if card.is_file() else ""
    directory = write_release(given.workdir, SHIPPED / given.name, config, variables, trained.step)
    if text:
        card.write_text(text)
    _forget_paths(directory / CALIBRATION, given.name)
    with np.load(directory / WEIGHTS) as weights:
        count = sum(weights[name].size for name in weights.files)
    size = (directory / WEIGHTS).stat().st_size
    print(f"{directory}: step {trained.step}, {count / 1e6:.2f} million numbers, {size / 1e6:.2f} MB")
    return 0


def _forget_paths(calibration: Path, name: str) -> None:
    """Names the work directory in the record of a calibration as anybody would call it."""
    if calibration.is_file():
        found = read_record(calibration, "calibration")
        found["command"] = f"python -m diffpose_jax.calibrate --workdir runs/{name}"
        write_calibration(calibration.parent, found)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

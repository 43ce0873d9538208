"""Hidden joints: `python experiments/studies/occlusion.py --data data/cmu.npz --models pretrained:supervised,runs/x`.

Every model is measured with nothing hidden and with the four patterns of DiffHPE (section 5.2 and table 4): any joint,
left arm and right leg of single frames, the right leg for a while, whole frames for a while. Errors, symmetry of the
body and constancy of limbs stand beside each other, and what every model has less than the first one, on the same
frames. Lifters that were trained with a pattern are given as further work directories: train x test. How constant limbs
are is measured over neighbouring frames, so with `--stride 1` only.
"""

from __future__ import annotations

import sys
from functools import partial

import numpy as np
import study

PATTERNS = ("none", "random", "arm_leg", "leg_gap", "frame_gap")
METRICS = {"mpjpe": "MPJPE (mm)", "symmetry_gap": "symmetry gap (mm)", "segment_std": "segment std (mm)"}


def main(arguments: list[str]) -> int:
    """Measures, and writes occlusion.md and occlusion.png."""
    given = study.parse(__doc__, arguments)
    measured = study.measure([study.grid_of(given, occlusions=PATTERNS)], given)
    parts: list = ["Mean of the hypotheses, by pattern; in brackets the 95 % interval over subjects."]
    lines: dict = {}
    for metric, title in METRICS.items():
        found = {
            study.label(model): [_value(measured, metric, model, pattern) for pattern in PATTERNS]
            for model in given.models
        }
        if all(np.isnan(value) for row in found.values() for value, _ in row):
            continue
        lines[metric] = found
        parts.append(([title, *PATTERNS], [[name, *map(study.cell, found)] for name, found in lines[metric].items()]))
    first, *others = given.models
    for metric in ("mpjpe", "symmetry_gap"):
        header = [f"{METRICS[metric]} less {study.label(first)}", *PATTERNS]
        parts.append((header, [_row(measured, metric, model, first) for model in others]))
    study.write_table(given.output / "occlusion.md", parts)
    panels = [partial(study.draw_lines, places=PATTERNS, lines=lines[metric], labels=("hidden", METRICS[metric]))
              for metric in lines]  # fmt: skip
    study.draw(given.output / "occlusion.png", panels)
    return 0


def _value(measured: study.Measured, metric: str, model: str, pattern: str) -> tuple:
    return measured.value(metric, workdir=model, occlusion=pattern, aggregation="mean")


def _row(measured: study.Measured, metric: str, model: str, first: str) -> list[str]:
    cells = []
    for pattern in PATTERNS:
        setting = {"occlusion": pattern, "aggregation": "mean"}
        found = measured.difference({"workdir": model, **setting}, {"workdir": first, **setting}, metric)
        cells.append(found.text())
    return [study.label(model), *cells]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

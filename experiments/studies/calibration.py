"""Whether distributions are honest: `python experiments/studies/calibration.py --data data/cmu.npz --models runs/a`.

All models on the same frames and the same input, which they have to know from training: how often the truth lies in the
central regions of their hypotheses (50 and 90 % should), their energy score and CRPS, with exact keypoints, with
those of a simulated detector and with a leg that is never seen. Reliability is drawn for all levels.
"""

from __future__ import annotations

import sys
from functools import partial

import numpy as np
import study
from matplotlib.axes import Axes

INPUTS = {"exact": ("exact", "none"), "detected": (1.0, "none"), "leg never seen": ("exact", "leg")}
SCORES = ("energy_score", "crps")


def main(arguments: list[str]) -> int:
    """Measures, and writes calibration.md and calibration.png."""
    given = study.parse(__doc__, arguments)
    wanted = ["exact"] if given.quick else list(INPUTS)
    grids = [
        study.grid_of(given, inputs=[INPUTS[name][0]], occlusions=[INPUTS[name][1]], aggregations=["mean"])
        for name in wanted
    ]
    measured = study.measure(grids, given)
    parts: list = ["Coverage in %, scores in mm; in brackets the 95 % interval over subjects."]
    curves: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for name in wanted:
        strength, occlusion = INPUTS[name]
        setting = {"input": 0.0 if strength == "exact" else strength, "occlusion": occlusion}
        body, curves[name] = [], {}
        for model in given.models:
            rows = [row for row in measured.select(workdir=model, **setting) if "coverage" in row]
            if not rows:  # a single pose has no distribution
                continue
            found = {float(level): float(np.mean([row["coverage"]["all"][level] for row in rows]))
                     for level in rows[0]["coverage"]["all"]}  # fmt: skip
            curves[name][study.label(model)] = sorted(found.items())
            scores = [study.cell(measured.value(score, workdir=model, aggregation="mean", **setting))
                      for score in SCORES]  # fmt: skip
            body.append([study.label(model), *(f"{100 * share:.0f}" for share in found.values()), *scores])
        levels = [f"{float(level):.0%}" for level, _ in next(iter(curves[name].values()), [])]
        parts.append(([name, *levels, "energy score", "CRPS"], body))
    study.write_table(given.output / "calibration.md", parts)
    study.draw(given.output / "calibration.png", [partial(_draw_curves, name=name, curves=curves[name])
                                                  for name in wanted])  # fmt: skip
    return 0


def _draw_curves(axis: Axes, name: str, curves: dict[str, list[tuple[float, float]]]) -> None:
    axis.plot([0, 1], [0, 1], color="gray", linewidth=1, label="as it should be")
    for label, points in curves.items():
        axis.plot(*zip(*points, strict=True), marker="o", label=label)
    axis.set_xlabel("nominal share")
    axis.set_ylabel("share of joints inside")
    axis.set_title(name)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Reverse steps and hypotheses: `python experiments/studies/steps.py --data data/cmu.npz --models runs/a,runs/b`.

Every model is measured with few and many hypotheses N at its own number of reverse steps (DiffuPose, table 4), and with
few and many steps S at one number of hypotheses (Diff3DHPE, figure 5; DiffPose's N and K): the error of one hypothesis,
of the mean of all, and of the best one, which is told by the ground truth, and the energy score of all together.
"""

from __future__ import annotations

import sys
from functools import partial
from typing import Any

import study

COUNTS, STEPS = (1, 2, 5, 10, 20), (1, 2, 5, 10, 25, 50)
COLUMNS = {"one": ("mpjpe", "first"), "mean": ("mpjpe", "mean"), "best (oracle)": ("mpjpe", "oracle_best"),
           "energy score": ("energy_score", "first")}  # fmt: skip


def main(arguments: list[str]) -> int:
    """Measures, and writes steps.md and steps.png."""
    given = study.parse(__doc__, arguments, steps=",".join(map(str, STEPS)), counts=",".join(map(str, COUNTS)))
    counts, steps = ([int(one) for one in text.split(",")] for text in (given.counts, given.steps))
    if given.quick:
        counts, steps = [1, 2], [1, 2]
    measured = study.measure(
        [study.grid_of(given, hypotheses=counts), study.grid_of(given, steps=steps)], given
    )  # fmt: skip
    varied = {"hypotheses": (counts, {"steps": None}), "steps": (steps, {"hypotheses": given.hypotheses})}
    parts: list = ["MPJPE and energy score in mm; in brackets the 95 % interval over subjects."]
    panels = []
    for field, (values, fixed) in varied.items():
        lines: dict[str, Any] = {}
        body = []
        for model in (one for one in given.models if _is_stochastic(measured, one)):
            cells = [[_value(measured, column, model, {field: value, **fixed}) for column in COLUMNS]
                     for value in values]  # fmt: skip
            body += [[study.label(model), str(value), *map(study.cell, row)]
                     for value, row in zip(values, cells, strict=True)]  # fmt: skip
            lines |= {f"{study.label(model)}, {name}": [row[place] for row in cells]
                      for place, name in enumerate(("one", "mean"))}  # fmt: skip
        parts.append((["model", field, *COLUMNS], body))
        panels.append(partial(study.draw_lines, places=values, lines=lines, labels=(field, "MPJPE (mm)")))
    study.write_table(given.output / "steps.md", parts)
    study.draw(given.output / "steps.png", panels)
    return 0


def _is_stochastic(measured: study.Measured, model: str) -> bool:
    return any(row["stochastic"] for row in measured.select(workdir=model))


def _value(measured: study.Measured, column: str, model: str, setting: dict[str, Any]) -> tuple:
    metric, aggregation = COLUMNS[column]
    return measured.value(metric, workdir=model, aggregation=aggregation, **setting)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

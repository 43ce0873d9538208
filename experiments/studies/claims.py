"""What the papers say, measured: `python experiments/studies/claims.py --data data/cmu.npz --heatmaps data/hm.npz`.

Every claim of `experiments/data/claims.json` has two sides. Those of released models are measured. For the others both
sides are trained, from every seed and with the same processor time (`--seconds`; 0: none is trained, kept ones count).
A verdict is the 95 % interval of the paired difference, over subjects and seeds: confirmed or refuted where it does not
contain zero, otherwise undecided at this budget, as it is where a side is worse than the mean pose. Where a section of
RESULTS.md recorded more seeds than `--trainings`, that stands for a claim, with Welch's interval of two means.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import study
from scipy import special

EXPERIMENTS = Path(__file__).resolve().parents[1]
sys.path.append(str(EXPERIMENTS))
FIELDS = {"occlusion": "occlusions", "steps": "steps", "hypotheses": "hypotheses"}
NOT_MEASURED = "not measured"
# A lifter with a larger error, mm, has not learned to lift: the mean pose has about as much on the CMU test people.
LEARNED = 210.0
UNLEARNED = "a side has not learned to lift in so short a time"
# Recorded means have one decimal.
ROUNDING = 0.05
# What makes a training quick that only shows that it works.
QUICK = {"lifter.width": 32, "lifter.num_layers": 1, "training.batch_size": 32, "training.valid_frames": 32}


def main(arguments: list[str]) -> int:
    """Trains and measures what is wanted and not there yet, and writes claims.md."""
    given = study.parse(__doc__, arguments, heatmaps="", seconds=0.0, trainings=1)
    content = json.loads((EXPERIMENTS / "data" / "claims.json").read_text())
    claims = [one for one in content["claims"] if one.get("quick") or not given.quick]
    trainings = Trainings(content["trainings"], given)
    sides = {id(one): trainings.resolve(one) for one in claims}
    grids = [_grid(side, given) for both in sides.values() for side in both or ()]
    measured = study.measure(grids, given) if grids else None
    body = [_row(claim, sides[id(claim)], measured) for claim in claims]
    header = ["paper", "says", "published", "metric", "difference here", "verdict", "measured with"]
    title = "# What the papers say, and what was measured here"
    study.write_table(given.output / "claims.md", [title, _describe(given, body), (header, body)])
    return 0


def _row(claim: Mapping[str, Any], sides: list[dict[str, Any]] | None, measured: Any) -> list[str]:
    more, cells = claim.get("more", False), ["-", NOT_MEASURED, claim.get("why", "-")]
    if sides:
        found = measured.difference(*sides, claim["metric"])
        trainings = f"{found.seeds} training{'s' if found.seeds > 1 else ''} of each"
        limit = ", for other subjects" if found.seeds == 1 else ""
        verdict = judge(found, more) + limit if _has_learned(sides, measured) else f"undecided: {UNLEARNED}"
        why = f"; {claim['why']}" if "why" in claim else ""
        cells = [found.text(), verdict, f"{found.subjects} subjects, {trainings}{why}"]
    elif recorded := claim.get("recorded"):
        found = compare_recorded(recorded)
        source = f"{found.seeds} seeds, the same subjects: results, {recorded['section']}"
        cells = [found.text(), f"{judge(found, more)}, for other seeds", source]
    return [claim["paper"], claim["says"], claim["published"], claim["metric"].replace("_", " "), *cells]


def _has_learned(sides: list[dict[str, Any]], measured: Any) -> bool:
    workdirs = [(side, path) for side in sides for path in np.atleast_1d(side["workdir"])]
    return all(measured.value("mpjpe", **{**side, "workdir": str(path)})[0] < LEARNED for side, path in workdirs)


def judge(found: study.Difference, more: bool) -> str:
    """The verdict of a difference that should be below zero, or above it where `more` is better."""
    if found.interval is None:
        return "undecided: no interval"
    low, high = (-found.interval[1], -found.interval[0]) if more else found.interval
    return "confirmed" if high < 0 else "refuted" if low > 0 else "undecided at this budget"


def compare_recorded(recorded: Mapping[str, Any]) -> study.Difference:
    """First minus second of two means over seeds, each `[mean, standard deviation, seeds]`, with Welch's interval."""
    (mean, std, count), (other, other_std, other_count) = recorded["first"], recorded["second"]
    parts = np.array([std**2 / count, other_std**2 / other_count])
    freedom = parts.sum() ** 2 / (parts**2 / [count - 1, other_count - 1]).sum()
    half = float(special.stdtrit(freedom, 0.975) * np.sqrt(parts.sum())) + 2 * ROUNDING
    return study.Difference(mean - other, (mean - other - half, mean - other + half), 0, min(count, other_count))


class Trainings:
    """The trainings that claims name, each made once from every seed and kept in OUTPUT/trained."""

    def __init__(self, described: Mapping[str, Any], given: argparse.Namespace):
        self._described, self._given = described, given
        self._models = {study.label(model): model for model in given.models}
        self._folder = given.output / "trained"

    def resolve(self, claim: Mapping[str, Any]) -> list[dict[str, Any]] | None:
        """Both sides as fields of a row, with the work directories of all seeds; None where one is not there."""
        sides: list[dict[str, Any]] = []
        recorded = claim.get("recorded")
        if recorded and min(recorded["first"][2], recorded["second"][2]) > self._given.trainings:
            return None
        for side in (claim.get("first"), claim.get("second")):
            if side is None:
                return None
            fields = {name: value for name, value in side.items() if name not in ("run", "model")}
            workdirs = self._find(side)
            if workdirs is None:
                return None
            usual = {"aggregation": "mean", "occlusion": "none", "steps": None, "hypotheses": self._given.hypotheses}
            sides.append({**usual, **self._choose_data(side), **fields, "workdir": workdirs})
        return sides

    def _find(self, side: Mapping[str, Any]) -> list[str] | None:
        if "model" in side:
            return [self._models[side["model"]]] if side["model"] in self._models else None
        found = [self._train(side["run"], seed) for seed in range(self._given.trainings)]
        return None if None in found else [str(path) for path in found]

    def _choose_data(self, side: Mapping[str, Any]) -> dict[str, Any]:
        """What a side is trained and measured on: keypoints as the data have them, or estimates of heatmaps."""
        if "run" in side and self._described[side["run"]].get("data") == "heatmaps":
            return {"data": self._given.heatmaps, "input": None}
        return {"data": self._given.data, "input": 0.0}

    def _train(self, name: str, seed: int) -> Path | None:
        """The work directory of a training, None where it is not there and none is wanted."""
        described, given = self._described[name], self._given
        data = self._choose_data({"run": name})["data"]
        file = name.replace(", ", "_").replace(" ", "_")
        workdir: Path = self._folder / f"{file}-{seed}"
        if (workdir / "trained").exists():
            return workdir
        if not given.seconds or not data:
            return None
        from budget import small_config, train_for

        changes = dict(described.get("changes", {}))
        if given.quick:
            changes |= QUICK
        config = small_config(described["config"], data, seed, changes)
        if "context" in described:
            config.lifter.context = str(self._train(described["context"], seed))
        self._folder.mkdir(parents=True, exist_ok=True)
        cost = self._folder / f"{file}.seconds_per_step"
        train_for(given.seconds * described.get("budget", 1), config, workdir, cost)
        (workdir / "trained").touch()
        return workdir


def _grid(side: Mapping[str, Any], given: argparse.Namespace) -> Any:
    varied = {FIELDS[name]: [value] for name, value in side.items() if name in FIELDS}
    place = {"data": [side["data"]], "inputs": [side["input"]], "workdirs": side["workdir"]}
    return study.grid_of(given, **place, aggregations=["first", "mean"], **varied)


def _describe(given: argparse.Namespace, body: list[list[str]]) -> str:
    counts = {verdict: sum(row[5].startswith(verdict) for row in body)
              for verdict in ("confirmed", "refuted", "undecided", NOT_MEASURED)}  # fmt: skip
    budget = f"{given.seconds:g} s of processor time for each training; " if given.seconds else ""
    return (f"{', '.join(f'{count} {verdict}' for verdict, count in counts.items())}. {budget}every {given.stride}th "
            f"frame of the test split of {Path(given.data).name}, {given.hypotheses} hypotheses. The difference is the "
            "first minus the second, in mm or in points of %, in brackets its 95 % interval.")  # fmt: skip


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

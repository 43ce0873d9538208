"""The reference models measured: `python experiments/reference_models.py --data data/cmu.npz --models frame,sequence`.

Every model (a released one or a work directory) lifts the same frames of people that it was not trained on (split
`test`) with exact keypoints, with simulated detections, with joints hidden as in training, and with a leg never seen,
and of people that it was trained on. Each row has the mean of 20 hypotheses (MPJPE, P-MPJPE, also of the joints that
were seen alone, and of the same joints where nothing is hidden, with the difference), one hypothesis, the energy score
of whole poses, limb lengths, coverage of the 50 and 90 % regions and of the conformal 90 % regions, of joints that were
seen and of others. Beside it stands the Gaussian of that mean, with the covariance of its errors on the calibration
split. Brackets hold the 95 % interval of a bootstrap over people.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import logging

from diffpose_jax.config import copy_config
from diffpose_jax.evaluation.aggregation import ALL
from diffpose_jax.evaluation.chosen_frames import predict_frames
from diffpose_jax.evaluation.distributions import distribution_row, measure_hypotheses, regions_by_visibility
from diffpose_jax.evaluation.error_gaussian import ErrorGaussian
from diffpose_jax.evaluation.hiding import hide_for
from diffpose_jax.evaluation.intervals import format_interval, subject_interval
from diffpose_jax.evaluation.jobs import Job
from diffpose_jax.evaluation.measure import Measured
from diffpose_jax.evaluation.metrics import p_mpjpe, spread
from diffpose_jax.lifters.base import Sampling
from diffpose_jax.registry import load_dataset
from diffpose_jax.workdir.trained import Trained, load_trained


class Condition(NamedTuple):
    """The split that is lifted, the strength of the detector's errors, and the pattern that hides joints."""

    split: str
    strength: float = 0.0
    occlusion: str = "none"


Lifted = tuple[Measured, np.ndarray]  # the frames of a condition, and their hypotheses `[M, H, J, 3]`, m

CONDITIONS = {
    "exact": Condition("test"),
    "detected": Condition("test", strength=1.0),
    "partly hidden": Condition("test", occlusion="partial"),
    "leg never seen": Condition("test", occlusion="leg"),
    "people of training, exact": Condition("train"),
}


def main(arguments: list[str]) -> int:
    """Measures what is not measured yet and prints the table."""
    logging.set_verbosity(logging.WARNING)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="archive made by `prepare cmu`")
    parser.add_argument("--models", required=True, help="names of released models, or work directories, with commas")
    parser.add_argument("--stride", type=int, default=50, help="every n-th frame of a clip is measured")
    parser.add_argument("--hypotheses", type=int, default=20)
    parser.add_argument("--split", default="test", help="'valid' compares what is still to be chosen")
    noise = "'clip' lifts as `predict` does: one noise per clip, windows that overlap and are blended"
    parser.add_argument("--noise", choices=("frame", "clip"), default="frame", help=noise)
    parser.add_argument("--only", nargs="+", choices=CONDITIONS, default=list(CONDITIONS), metavar="CONDITION")
    parser.add_argument("--output", type=Path, default=Path("runs/reference_models"))
    given = parser.parse_args(arguments)
    given.output.mkdir(parents=True, exist_ok=True)
    rows = [row for model in given.models.split(",") for row in _measure(model, given)]
    table = _table(rows)
    (given.output / "reference_models.md").write_text(table)
    print(table + f"\ntable: {given.output / 'reference_models.md'}")
    return 0


def _measure(model: str, given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    trained = load_trained(model)
    amount = f"{given.stride}-{given.hypotheses}-{given.noise}" + ("" if given.split == "test" else f"-{given.split}")

    @functools.cache  # what is seen of people with hidden joints is compared with them seen whole
    def lift(condition: str) -> Lifted:
        return _lift(trained, condition, given)

    for condition in given.only:
        name = f"{Path(model).name.replace(':', '-')}-{trained.step}-{amount}-{condition.replace(' ', '_')}"
        path = given.output / f"{name}.json"
        if not path.exists():
            label = f"{Path(model).name}, {condition}" + (", as predict lifts" if given.noise == "clip" else "")
            path.write_text(json.dumps(list(_rows(trained, lift, condition, label)), indent=1))
        yield from json.loads(path.read_text())


def _rows(trained: Trained, lift: Callable[[str], Lifted], condition: str, label: str) -> Iterator[dict[str, Any]]:
    measured, drawn = lift(condition)
    row = _row(measured, label, drawn, trained)
    if CONDITIONS[condition].occlusion != "none":
        row["seen"] = _compare_seen(measured, drawn, lift("exact")[1])
    yield row
    if trained.calibration is not None and trained.calibration.errors is not None:
        gaussian = ErrorGaussian(trained.calibration.errors, measured.clips.skeleton.root)
        drawn = gaussian.draw(drawn.mean(axis=1), drawn.shape[1])
        yield _row(measured, f"{label}: Gaussian of that mean", drawn, None)


def _lift(trained: Trained, condition: str, given: argparse.Namespace) -> Lifted:
    """The frames of a condition, and their hypotheses `[M, H, J, 3]`, m."""
    split, strength, occlusion = CONDITIONS[condition]
    measured_split = given.split if split == "test" else split
    recorded = {"source": given.data, "detector_strength": strength, "cameras": "recorded", "bodies": 0.0}
    config = copy_config(trained.config, data=recorded)
    clips = load_dataset(config.data, [measured_split])[measured_split]
    sampling = Sampling(given.hypotheses, trained.temperature or 1.0, flip="half", noise=given.noise)
    job = Job(sampling, (ALL,), 256, config.seed, occlusion)
    clips, job = hide_for(trained.lifter, clips, job)
    # The training split is much larger: as many of its frames.
    stride = given.stride * (1 if split == "test" else 7)
    measured = Measured.of(clips, stride, "standard")
    return measured, predict_frames(condition, trained.lifter, trained.variables, clips, measured.indices, job)[ALL]


def _compare_seen(measured: Measured, drawn: np.ndarray, of_whole_people: np.ndarray) -> dict[str, Any]:
    """By how much the error of seen joints exceeds that of the same joints with nothing hidden, mm.

    Returns:
        'more', with its 'interval' over people, and 'whole', the error with nothing hidden.
    """
    seen = measured.clips.seen[measured.indices]
    hidden, whole = (_error(measured, hypotheses) for hypotheses in (drawn, of_whole_people))
    interval = subject_interval(np.where(seen, hidden - whole, np.nan), measured.subjects)
    return {"whole": float(whole[seen].mean()), "more": float((hidden - whole)[seen].mean()), "interval": interval}


def _error(measured: Measured, hypotheses: np.ndarray) -> np.ndarray:
    """The distance `[M, J]`, mm, of the mean of hypotheses from the truth."""
    distance = np.linalg.norm(hypotheses.mean(axis=1) - np.asarray(measured.frames.poses), axis=-1)
    return 1000 * np.asarray(distance)


def _row(measured: Measured, name: str, hypotheses: np.ndarray, trained: Trained | None) -> dict[str, Any]:
    row = distribution_row(measured, name, name, measure_hypotheses(measured, [hypotheses]))
    truth, mean = np.asarray(measured.frames.poses), hypotheses.mean(axis=1)
    error = _error(measured, hypotheses)
    seen = measured.clips.seen[measured.indices]
    row["scores"] |= {
        "mpjpe": float(error.mean()),
        "mpjpe_seen": float(error[seen].mean()),
        "p_mpjpe": 1000 * float(np.mean(np.asarray(p_mpjpe(mean.astype(np.float32), truth)))),
        "one": 1000 * float(np.linalg.norm(hypotheses[:, 0] - truth, axis=-1).mean()),
    }
    if trained is not None and trained.calibration is not None and trained.calibration.regions is not None:
        std = np.asarray(spread(np.moveaxis(hypotheses, 1, 0)))
        row["conformal"], _ = regions_by_visibility(measured, trained.calibration.regions, mean, std)
    return row


def _table(rows: list[dict[str, Any]]) -> str:
    head = ("mean of 20", "seen joints", "more than with nothing hidden", "P-MPJPE", "one", "energy", "limb lengths",
            "50 / 90 %", "seen", "not seen", "conformal 90 %, not seen")  # fmt: skip
    lines = ["| | " + " | ".join(head) + " |", "|---|" + "---:|" * len(head)]
    for row in rows:
        scores, interval = row["scores"], row["scores_interval"].get("energy_score")
        energy = f"{scores['energy_score']:.0f}" + (f" [{interval[0]:.0f}, {interval[1]:.0f}]" if interval else "")
        shares = [_shares(row["coverage"], kind) for kind in ("all", "seen", "not seen")]
        conformal = row.get("conformal", {})
        held = " / ".join(f"{100 * conformal[kind]['0.9']:.0f}" for kind in ("all", "not seen") if kind in conformal)
        mean, seen, *others = (f"{scores[name]:.1f}" for name in ("mpjpe", "mpjpe_seen", "p_mpjpe", "one"))
        limbs = f"{scores['limb_length_error']:.1f}"
        cells = [row["label"], mean, seen, _format_more(row.get("seen")), *others, energy, limbs, *shares, held]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _format_more(seen: dict[str, Any] | None) -> str:
    if seen is None:
        return ""
    share = seen["more"] / seen["whole"]
    return f"{seen['more']:.1f}{format_interval(seen['interval'])}, {share:.1%} of {seen['whole']:.1f}"


def _shares(coverage: dict[str, dict[str, float]], kind: str) -> str:
    return " / ".join(f"{100 * coverage[kind][level]:.0f}" for level in ("0.5", "0.9")) if kind in coverage else ""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

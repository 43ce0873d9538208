"""DiffPose taken apart: `python experiments/ablation.py --data data/cmu_heatmaps.npz --output runs/ablation`.

Every variant trains from every seed for as many steps as the same processor time buys, with the same frozen context, on
motion whose keypoints are the estimates of simulated heatmaps, and is measured on the same test frames without flips,
as it is and calibrated on valid. Other methods see the same keypoints. Confused joints are rare: for their coverage
frames that have any are measured on top. Each run is kept in OUTPUT/<name>-<seed>.json, so that a repeated command goes
on where it stopped and processes with different --seeds can share an output; OUTPUT/ablation.md is the table of all
of them, mean and standard deviation over seeds.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from absl import logging
from budget import small_config, train_for
from ml_collections import ConfigDict

from diffpose_jax.data.clip import VISIBILITY
from diffpose_jax.data.clips import ClipSet
from diffpose_jax.evaluation.aggregation import ALL
from diffpose_jax.evaluation.calibration import LEVELS, coverage, mahalanobis_rank
from diffpose_jax.evaluation.chosen_frames import predict_frames
from diffpose_jax.evaluation.jobs import Job, strided_frames
from diffpose_jax.evaluation.spread_fit import fit_spread
from diffpose_jax.evaluation.timed_lifting import Limit
from diffpose_jax.lifters.base import Lifter, Sampling, Variables
from diffpose_jax.lifters.wrappers import with_scales
from diffpose_jax.registry import build_lifter, load_dataset
from diffpose_jax.workdir.trained import load_trained

CONFUSED = VISIBILITY.index("confused")
HYPOTHESES = 20
COUNTS = (1, 5, 20)
CALIBRATION_FRAMES = 512
CALIBRATION_SECONDS = 300.0
CALIBRATED = "calibrated"


class Variant(NamedTuple):
    """A config file, what it changes, and how else it is sampled: name -> changes, '' for as it is."""

    config: str
    changes: Mapping[str, Any] = {}
    sampled: Mapping[str, Mapping[str, Any]] = {"": {}}
    context: bool = True


VARIANTS: dict[str, Variant] = {
    "mixture": Variant(
        "diffpose_frame:heatmaps",
        sampled={
            "": {},
            "from the estimate": {"lifter.start": "estimate"},
            "from noise": {"lifter.start": "noise"},
            "10 steps": {"diffusion.sampling_steps": 10},
            "50 steps": {"diffusion.sampling_steps": 50},
        },
    ),
    "prior": Variant("diffpose_frame:heatmaps", {"lifter.component": "weight"}),
    "gaussian": Variant("diffpose_frame:heatmaps", {"lifter.base": "gaussian"}),
    "normal": Variant(
        "diffpose_frame:heatmaps",
        {"lifter.base": "normal", "lifter.start": "noise"},
        sampled={"": {}, "50 steps": {"diffusion.sampling_steps": 50}},
    ),
    "release": Variant("diffpose_frame:release"),
    "no features": Variant("diffpose_frame:heatmaps", {"lifter.features": False}),
    "diagonal": Variant("diffpose_frame:heatmaps", {"lifter.covariance": "diagonal"}),
    "no_preconditioning": Variant("diffpose_frame:heatmaps", {"lifter.preconditioning": "none"}),
    "paper": Variant(
        "diffpose_frame:heatmaps",
        {"diffusion.predict": "next", "lifter.component": "weight", "lifter.preconditioning": "none"},
        sampled={"": {}, "50 steps": {"diffusion.sampling_steps": 50}},
    ),
    "next pose": Variant("diffpose_frame:heatmaps", {"diffusion.predict": "next"}),
    "noise": Variant("diffpose_frame:heatmaps", {"diffusion.predict": "eps"}),
    "DiffuPose": Variant("diffupose", context=False),
    "DiffHPE-2D": Variant("diffhpe_2d:9", context=False),
    "Diff3DHPE": Variant("diff3dhpe_mixste:9", context=False),
    "D3DP": Variant("d3dp:9", context=False),
}


def main(arguments: list[str]) -> int:
    """Trains and measures what is not measured yet, then writes the table of all there is."""
    logging.set_verbosity(logging.WARNING)
    given = _parse(arguments)
    clips: dict[str, ClipSet] = {}
    for seed in given.seeds.split(","):
        for name in given.only.split(",") if given.only else VARIANTS:
            path = given.output / f"{name}-{seed}.json"
            if not path.exists():
                config = _config(VARIANTS[name], given, int(seed))
                clips = clips or load_dataset(config.data, ["valid", "test"])
                path.write_text(json.dumps(_run(name, config, given, clips), indent=1))
    table = _tables(given.output)
    (given.output / "ablation.md").write_text(table)
    print(table + f"\ntable: {given.output / 'ablation.md'}")
    return 0


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="archive with mixtures, made by `prepare mixtures`")
    parser.add_argument("--context", required=True, help="work directory of a graformer trained on the same archive")
    parser.add_argument("--seconds", type=float, default=90, help="training time of each, in processor seconds")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--stride", type=int, default=100, help="every n-th frame of the test split is measured")
    parser.add_argument("--confused", type=int, default=100, help="frames with confused joints measured on top")
    parser.add_argument("--only", default="", help="some of the variants, with commas")
    parser.add_argument("--output", type=Path, default=Path("runs/ablation"))
    given = parser.parse_args(arguments)
    given.output.mkdir(parents=True, exist_ok=True)
    return given


def _config(variant: Variant, given: argparse.Namespace, seed: int) -> ConfigDict:
    """The variant's config in its small size on the given data; steps are set when their cost is known."""
    config = small_config(variant.config, given.data, seed, {})
    if variant.context:
        config.lifter.context = given.context
    return _changed(config, variant.changes)


def _changed(config: ConfigDict, changes: Mapping[str, Any]) -> ConfigDict:
    config = ConfigDict(config.to_dict())
    config.update_from_flattened_dict(dict(changes))
    return config


def _run(name: str, config: ConfigDict, given: argparse.Namespace, clips: dict[str, ClipSet]) -> dict[str, Any]:
    """Trains a variant and measures every way it is sampled, and the first one calibrated: `{way: figures}`."""
    workdir = given.output / f"{name}-{config.seed}".replace(" ", "_")
    steps = train_for(given.seconds, config, workdir, given.output / f"{name}.seconds_per_step")
    trained = load_trained(workdir)
    found = {}
    for way, changes in VARIANTS[name].sampled.items():
        lifter = build_lifter(_changed(trained.config, changes)) if changes else trained.lifter
        found[way] = _measure(lifter, trained.variables, clips["test"], given)
    if not trained.lifter.stochastic:
        return {"steps": steps, "ways": found}
    job, reverse = _job(trained.lifter, ALL), trained.config.diffusion
    limit, count = Limit(CALIBRATION_SECONDS), reverse.sampling_steps or reverse.steps
    fit = fit_spread(trained.lifter, trained.variables, clips["valid"], CALIBRATION_FRAMES, job, limit, count)
    lifter = with_scales(trained.lifter, fit.scales)
    found[CALIBRATED] = _measure(lifter, trained.variables, clips["test"], given, fit.temperature)
    scales = None if fit.scales is None else fit.scales._asdict()
    return {"steps": steps, "ways": found,
            "calibration": {"temperature": fit.temperature, "scales": scales, "why": fit.why}}  # fmt: skip


def _job(lifter: Lifter, output: str, temperature: float = 1.0) -> Job:
    return Job(Sampling(HYPOTHESES, temperature), (output,), batch_size=256 // lifter.frames)


def _measure(
    lifter: Lifter, variables: Variables, test: ClipSet, given: argparse.Namespace, temperature: float = 1.0
) -> dict[str, float]:
    """Errors in mm of the mean and of the best of the first N hypotheses, and coverage in percent by kind of joint."""
    strided, confused = strided_frames(test, given.stride), np.flatnonzero((test.visibility == CONFUSED).any(axis=1))
    confused = confused[np.linspace(0, len(confused) - 1, min(given.confused, len(confused))).astype(int)]
    frames = np.union1d(strided, confused)
    poses = predict_frames("test", lifter, variables, test, frames, _job(lifter, ALL, temperature))
    hypotheses, target = np.moveaxis(poses[ALL], 1, 0), test.poses[frames]
    chosen = np.isin(frames, strided)
    figures = {}
    for count in COUNTS:
        figures[f"mean of {count}"] = _mpjpe(hypotheses[:count].mean(axis=0), target)[chosen].mean()
        figures[f"best of {count}"] = _mpjpe(hypotheses[:count], target[None]).min(axis=0)[chosen].mean()
    ranks = np.asarray(mahalanobis_rank(jnp.asarray(hypotheses), jnp.asarray(target)))[:, 1:]
    kinds = test.visibility[frames][:, 1:]
    for code, kind in enumerate(VISIBILITY):
        counted = (kinds == code) & (chosen[:, None] | (code == CONFUSED))
        figures[f"{kind} joints"] = counted.sum()
        for level, share in coverage(ranks[counted]).items():
            figures[f"{kind} {level:.0%}"] = 100 * share
    return {name: float(value) for name, value in figures.items()}


def _mpjpe(poses: np.ndarray, target: np.ndarray) -> np.ndarray:
    return 1000 * np.linalg.norm(poses - target, axis=-1).mean(axis=-1)


def _tables(output: Path) -> str:
    """MPJPE, and coverage in percent: mean ± standard deviation over seeds, a line for every way to sample."""
    errors = ["mean of 1", "mean of 5", "mean of 20", "best of 5", "best of 20"]
    shares = [[f"{kind} {level:.0%}" for level in LEVELS] for kind in VISIBILITY]
    first = ["| MPJPE (mm) | seeds | steps | " + " | ".join(errors) + " |", "|---|---:|---:|" + "---:|" * len(errors)]
    nominal = " / ".join(f"{level:.0%}" for level in LEVELS)
    second = [f"| coverage (%), nominal {nominal} | " + " | ".join(VISIBILITY) + " |"]
    second += ["|---|" + "---:|" * len(VISIBILITY)]
    for name in VARIANTS:
        runs = [json.loads(path.read_text()) for path in sorted(output.glob(f"{name}-[0-9]*.json"))]
        for way in runs[0]["ways"] if runs else ():
            found = [run for run in runs if way in run["ways"]]
            label = _label(name, way, found)
            cells = [_over_seeds(found, way, column) for column in errors]
            first.append(f"| {label} | {len(found)} | {runs[0]['steps']} | " + " | ".join(cells) + " |")
            cells = [" / ".join(_over_seeds(found, way, column) for column in pair) for pair in shares]
            second.append(f"| {label} | " + " | ".join(cells) + " |")
    return "\n".join([*first, "", *second]) + "\n"


def _label(name: str, way: str, runs: Sequence[Mapping[str, Any]]) -> str:
    if way != CALIBRATED:
        return f"{name}, {way}" if way else name
    return f"{name}, calibrated ({np.mean([run['calibration']['temperature'] for run in runs]):.2f})"


def _over_seeds(runs: Sequence[Mapping[str, Any]], way: str, column: str) -> str:
    values = [run["ways"][way][column] for run in runs]
    return f"{np.mean(values):.1f}" + (f" ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else "")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

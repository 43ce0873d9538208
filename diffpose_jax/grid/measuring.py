"""Measuring one unit: its frames are lifted in chunks that are kept on disk, then measured together.

A chunk is always lifted by itself, whether the unit was interrupted or not, so that its numbers are the same bit for
bit.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from diffpose_jax.data.clips import ClipSet
from diffpose_jax.errors import UserError
from diffpose_jax.evaluation.aggregation import RANK, SCORED
from diffpose_jax.evaluation.chosen_frames import predict_frames
from diffpose_jax.evaluation.measure import Measured, aggregation_row
from diffpose_jax.evaluation.prepared import Prepared
from diffpose_jax.evaluation.scores import SCORES
from diffpose_jax.grid import sharing
from diffpose_jax.grid.checks import Planned, identify_data, identify_lifter
from diffpose_jax.grid.store import Store, read_chunk, write_arrays
from diffpose_jax.grid.units import DISTRIBUTION
from diffpose_jax.provenance import describe_run
from diffpose_jax.registry import load_dataset
from diffpose_jax.workdir.trained import Trained, load_trained

Say = Callable[[str], None]


def measure_unit(planned: Planned, store: Store, say: Say) -> dict[str, Any]:
    """Measures a unit, writes its result and returns it.

    Args:
        planned: The unit.
        store: The output folder, in which chunks of an earlier attempt may be.
        say: Called with lines for the user.

    Raises:
        UserError: The unit cannot be measured; `OutputError` where the folder cannot be written.
    """
    unit, grid, started = planned.unit, planned.grid, time.monotonic()
    trained, prepared = _prepare(planned)
    measured, job = prepared.measured, prepared.job
    poses = _predict(planned, prepared, trained, store, say)
    rows = [aggregation_row(measured, name, job.sampling.hypotheses, poses[name]) for name in prepared.chosen]
    record = {
        "unit": unit.describe(),
        "configuration": planned.configuration,
        "stochastic": planned.stochastic,
        "frames": len(measured.indices),
        **prepared.described,
        "notes": prepared.notes,
        **unit.evaluation(grid.batch_size).measure_distributions(trained, prepared, poses),
        "rows": rows,
        "seconds": round(time.monotonic() - started, 3),
        "made": describe_run(),
    }
    store.write(unit.name, record, _values_of_frames(prepared, poses), grid.predictions)
    return record


def prepare_chunk(planned: Planned, number: int) -> Callable[[], Any]:
    """Prepares a chunk of a unit, and returns what lifts it, in a process of a cluster that follows another."""
    trained, prepared = _prepare(planned)
    frames = list(_split_frames(prepared.measured, trained, planned.grid.chunk_frames))[number]
    lifter, variables, clips = trained.lifter, trained.variables, prepared.measured.clips
    return partial(predict_frames, planned.unit.name, lifter, variables, clips, frames, prepared.job)


def _prepare(planned: Planned) -> tuple[Trained, Prepared]:
    unit = planned.unit
    evaluation = unit.evaluation(planned.grid.batch_size)
    trained = _load_trained(unit.workdir, planned.lifter)
    clips = _load_split(_Data(evaluation.data_section(trained.config)), unit.split, planned.data)
    return trained, evaluation.prepare(trained, clips)


def _values_of_frames(prepared: Prepared, poses: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What comparisons read: `{'aggregation/metric': [M]}` in m or shares, the frames and their subjects."""
    measured = prepared.measured
    found = {"frame": np.asarray(measured.indices), "subject": np.asarray(measured.subjects)}
    for name in prepared.chosen:
        found |= {f"{name}/{metric}": value for metric, value in measured.measure(poses[name]).items()}
    if RANK in poses:
        found |= {f"{DISTRIBUTION}/{name}": poses[SCORED][:, place] for place, name in enumerate(SCORES)}
    return found


def _predict(planned: Planned, prepared: Prepared, trained: Trained, store: Store, say: Say) -> dict[str, np.ndarray]:
    """The outputs of all frames, `{output: [M, ...]}`, from chunks on disk and those that are missing."""
    unit, grid, measured, job = planned.unit, planned.grid, prepared.measured, prepared.job
    configuration = f"{planned.configuration} {job.batch_size} {grid.chunk_frames} {','.join(job.outputs)}"
    folder, parts = store.chunk_folder(unit.name), list(_split_frames(measured, trained, grid.chunk_frames))
    names = [folder / f"{number:06d}.npz" for number in range(len(parts))]
    for stranger in set(folder.glob("*.npz")) - set(names):
        stranger.unlink()
    chunks, resumed = [], 0
    for number, (path, frames) in enumerate(zip(names, parts, strict=True)):
        found = read_chunk(path, configuration) if path.exists() else None
        if found is None:
            if path.exists():
                say(f"{path}: damaged or of another configuration; lifted again")
            label = f"{unit.name} {number + 1}/{len(parts)}"
            sharing.name_chunk(unit.name, number)
            found = predict_frames(label, trained.lifter, trained.variables, measured.clips, frames, job)
            write_arrays(path, _describe_chunk(measured.clips, frames, found, configuration))
        else:
            resumed += 1
        chunks.append(found)
    if resumed:
        say(f"{unit.title}: goes on, {resumed} of {len(parts)} chunks were done")
    return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in job.outputs}


def _describe_chunk(
    clips: ClipSet, frames: np.ndarray, found: Mapping[str, np.ndarray], configuration: str
) -> dict[str, np.ndarray]:
    clip = clips.frame_clip()[frames]
    place = {"frame": frames, "clip": clip, "frame_of_clip": frames - clips.clip_start[clip]}
    return {"configuration": np.asarray(configuration), **place, **found}


def _split_frames(measured: Measured, trained: Trained, size: int) -> Any:
    """The measured frames in chunks of `size`, or of as many as a window has: smaller ones lift windows over again."""
    size = max(size, trained.lifter.frames)
    for first in range(0, len(measured.indices), size):
        yield measured.indices[first : first + size]


class _Data:
    """The `data` section of a config as a key: equal sections load equal splits."""

    def __init__(self, section: ConfigDict):
        self.section = section

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Data) and self.section.to_json() == other.section.to_json()

    def __hash__(self) -> int:
        return hash(self.section.to_json())


# Units that follow each other mostly share their lifter and their data. Hours may have passed since these were checked,
# in which somebody trained further or prepared the data anew: the result would be said to be of something else.
@lru_cache(maxsize=2)
def _load_split(data: _Data, split: str, identity: str) -> ClipSet:
    clips = load_dataset(data.section, [split])[split]
    if identify_data(data.section.source) != identity:
        raise UserError(f"{data.section.source}: expected the data that were checked, found others; run the job again")
    return clips


@lru_cache(maxsize=2)
def _load_trained(workdir: str, identity: str) -> Trained:
    trained = load_trained(workdir)
    if identify_lifter(workdir, trained) != identity:
        raise UserError(f"{workdir}: expected the weights that were checked, found others; run the job again")
    return trained

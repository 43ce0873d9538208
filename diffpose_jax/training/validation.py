"""Validation on the valid split, and the checkpoints that a run keeps: the newest, and the best by validation.

Where there is no valid split nothing is selected: the latest variables are kept as the best.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from matplotlib.figure import Figure
from ml_collections import ConfigDict

from diffpose_jax.data.clips import ClipSet
from diffpose_jax.data.windows import Batch, DeviceClips, Windows, device_clips, gather
from diffpose_jax.errors import UserError
from diffpose_jax.evaluation.jobs import Job, predict_windows, spread_windows
from diffpose_jax.evaluation.metrics import n_mpjpe, p_mpjpe
from diffpose_jax.lifters.base import Lifter, Sampling, ValidatingLifter, Variables
from diffpose_jax.parallel import assert_replicated
from diffpose_jax.registry import build_lifter
from diffpose_jax.training.skips import ADVICE
from diffpose_jax.training.state import TrainState
from diffpose_jax.viz.sheet import draw_comparison
from diffpose_jax.workdir.checkpoints import Checkpoints, template_of

# Logged beside the MPJPE, for curves; nothing is selected by them.
_MORE_METRICS: Mapping[str, Callable[[jax.Array, jax.Array], jax.Array]] = {
    "p_mpjpe": jax.jit(p_mpjpe),
    "n_mpjpe": jax.jit(n_mpjpe),
}


class Validated(NamedTuple):
    """What a validation found.

    Attributes:
        measures: Mean errors by name, mm; 'mpjpe' selects the best variables.
        poses: The poses `[M, J, 3]`, m.
        frames: Their indices in the split, `[M]`.
    """

    measures: dict[str, float]
    poses: np.ndarray
    frames: np.ndarray


class Validation(NamedTuple):
    """Windows of the valid split on the device, and how they are lifted.

    Attributes:
        lifter: The method.
        clips: The frames of the split.
        windows: Windows that are evenly spread over it.
        job: How they are lifted: the mean of `valid_hypotheses`, always with the same noise.
    """

    lifter: Lifter
    clips: DeviceClips
    windows: Windows
    job: Job

    @classmethod
    def of(cls, config: ConfigDict, clips: ClipSet) -> Validation:
        """The validation that a config asks for, with as many windows as have `valid_frames` frames to lift."""
        lifter, data = build_lifter(config), config.data
        sampling = Sampling(config.training.valid_hypotheses)
        size = config.evaluation.batch_size
        job = Job(sampling, ("mean",), size, config.seed, data.occlusion, data.occlusion_rate, config.evaluation.memory)
        windows = spread_windows(lifter, clips, config.training.valid_frames)
        return cls(lifter, device_clips(clips), windows, job)

    def measure(self, variables: Variables) -> Validated:
        """The errors of the windows' poses."""
        poses, frames = predict_windows(self.lifter, variables, self.clips, self.windows, self.job)
        found, target = poses["mean"], np.asarray(self.clips.poses)[frames]
        measures = {"mpjpe": float(1000 * np.mean(np.linalg.norm(found - target, axis=-1)))}
        for name, metric in _MORE_METRICS.items():
            measures[name] = float(1000 * np.mean(metric(jnp.asarray(found), jnp.asarray(target))))
        return Validated(measures, found, frames)

    def draw(self, validated: Validated, step: int, count: int = 6) -> Figure:
        """Poses beside the truth, of frames that are evenly spread over what was validated."""
        rows = np.linspace(0, len(validated.frames) - 1, min(count, len(validated.frames))).astype(int)
        truth = np.asarray(self.clips.poses)[validated.frames[rows]]
        title = f"step {step}: MPJPE {validated.measures['mpjpe']:.1f} mm"
        return draw_comparison(validated.poses[rows], truth, self.lifter.skeleton, title)

    def loss(self, variables: Variables) -> float:
        """The loss on the windows, as a lifter that has one for validation measures it, always with the same noise."""
        lifter, key = self.lifter, jax.random.key(self.job.seed)
        assert isinstance(lifter, ValidatingLifter)  # checked before training
        batches = spread_batches(self.clips, self.windows, lifter.frames)
        compute = _compile_loss(lifter)  # type: ignore[arg-type]  # mypy: protocols have no __hash__
        return float(np.mean([compute(variables, key, batch) for batch in batches]))


@lru_cache(maxsize=2)
def _compile_loss(lifter: ValidatingLifter) -> Callable:
    return jax.jit(lifter.valid_loss)


def spread_batches(clips: DeviceClips, windows: Windows, frames: int, limit: int = 8192) -> Iterator[Batch]:
    """Batches of one size from windows that are evenly spread over a split.

    Args:
        clips: The split, on the device.
        windows: Its windows.
        frames: Frames F of a window.
        limit: About how many frames there are in all batches together.
    """
    count = min(max(1, limit // frames), len(windows.start))
    size = min(max(1, 512 // frames), count)
    ids = np.linspace(0, len(windows.start) - 1, count).astype(np.int32)
    # Whole batches only, so that one compiled function serves all.
    for part in np.split(ids[: count // size * size], count // size):
        yield gather(clips, windows, jnp.asarray(part), frames)


class CheckpointManager:
    """Saves the newest states, to continue from, and the averaged variables with the lowest error on the valid split.

    Args:
        workdir: The work directory.
        keep: How many of the newest states are kept.
        validation: Measures the error; None where there is no valid split.
        config: The config of the run.
    """

    def __init__(self, workdir: Path, keep: int, validation: Validation | None, config: ConfigDict | None = None):
        self._newest = Checkpoints(workdir / "checkpoints", keep, config)
        self._best = Checkpoints(workdir / "best", 1, config)
        self._validation = validation
        self._validated: Validated | None = None
        self.best_mpjpe, self.best_step = float("inf"), -1

    @property
    def selects(self) -> bool:
        """Whether there is a valid split to select the best by."""
        return self._validation is not None

    def restore(
        self, create: Callable[[], TrainState], create_as: Callable[[Mapping | None], TrainState] | None = None
    ) -> tuple[int, TrainState]:
        """The step and state of the newest checkpoint that can be read, or step 0 and the state that `create` makes.

        Args:
            create: Makes the state at step 0.
            create_as: Makes that of a run with another config, None where a checkpoint does not say which; its
                optimiser's state may have other names for the same leaves.
        """
        if not self._newest.steps():
            return 0, jax.jit(create)()
        template = template_of(create)
        saved = template if create_as is None else lambda config: template_of(lambda: create_as(config))
        restored = self._newest.restore_newest(saved)
        assert restored is not None  # there is one, and where none can be read it has raised
        step, state, note = restored
        state = jax.tree.unflatten(jax.tree.structure(template), jax.tree.leaves(state))
        self._find_best(create, note)
        return step, state

    def _find_best(self, create: Callable[[], TrainState], note: Mapping[str, Any]) -> None:
        """Takes the best error from the variables that are there: the note may be of others, saved since or lost."""
        try:
            found = self._best.restore_newest(template_of(lambda: create().ema_variables()))
        except UserError as damage:
            logging.warning("%s; the next validation selects anew", damage)
            self._best.set_all_aside("it is damaged")
            found = None
        if found is None:
            if note.get("best_step", -1) >= 0:
                logging.warning("the best variables, of step %d, are lost", note["best_step"])
            return
        self.best_step, error = found[0], found[2].get("valid_mpjpe_mm")
        self.best_mpjpe = error if self.selects and error is not None else note.get("best_mpjpe", float("nan"))

    def validate(self, step: int, state: TrainState) -> float:
        """Measures the averaged variables, saves them where they are the best so far, and returns their error in mm.

        Without a valid split they are saved, and the error is NaN.
        """
        check_finite(state, step)
        if self._validation is None:
            self.best_mpjpe, self.best_step = float("nan"), step
            self._best.replace(step, state.ema_variables())
            return self.best_mpjpe
        validated = self._validation.measure(state.ema_variables())
        error = validated.measures["mpjpe"]
        if not np.isfinite(error):
            raise UserError(f"step {step}: the MPJPE on the valid split is {error}; the last checkpoint is kept; look "
                            f"at the poses of the valid split, or {ADVICE}")  # fmt: skip
        self._validated = validated
        if error < self.best_mpjpe:
            self.best_mpjpe, self.best_step = error, step
            self._best.replace(step, state.ema_variables(), {"valid_mpjpe_mm": error})
        return error

    def valid_measures(self) -> dict[str, float]:
        """What the last validation measured, by the names of the log."""
        assert self._validated is not None
        return {f"valid_{name}_mm": value for name, value in self._validated.measures.items()}

    def draw_validated(self, step: int) -> Figure:
        """Poses of the last validation beside the truth."""
        assert self._validation is not None
        assert self._validated is not None
        return self._validation.draw(self._validated, step)

    def valid_loss(self, state: TrainState) -> float:
        """The loss of the averaged variables on the valid split."""
        assert self._validation is not None
        return self._validation.loss(state.ema_variables())

    def best_text(self) -> str:
        """The lowest error so far and its step, for a progress report."""
        return f"best {self.best_mpjpe:.1f} mm at step {self.best_step}"

    def save(self, step: int, state: TrainState) -> None:
        """Saves the state to continue from, in the background.

        Its note names the best step, so that one has to be on disk before. Raises AssertionError where the copies of
        the state on the devices differ, UserError where a number in it is not finite.
        """
        assert_replicated(state)
        check_finite(state, step)
        self._best.wait()
        self._newest.save(step, state, {"best_mpjpe": self.best_mpjpe, "best_step": self.best_step})

    def set_aside_from(self, step: int) -> None:
        """Moves the checkpoints of a step and of later ones, from which training diverges, to `damaged/`."""
        self._newest.set_aside_from(step, "training diverges from it")

    def close(self) -> None:
        """Waits until everything is on disk."""
        try:
            self._newest.close()
        finally:
            self._best.close()


def check_finite(state: TrainState, step: int) -> None:
    """Raises UserError where a number of the state is NaN or infinite; those of the schedule 'plateau' may be."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(state._replace(plateau=None)):
        if jnp.issubdtype(leaf.dtype, jnp.inexact) and not np.isfinite(np.asarray(leaf, np.float32)).all():
            name = jax.tree_util.keystr(path)
            raise UserError(f"step {step}: {name} is not finite any more and is not saved; {ADVICE}")

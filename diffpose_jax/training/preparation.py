"""What a training run is made of before its first step: splits, data on the device, records, frozen variables."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from diffpose_jax.data.augmentation import augment
from diffpose_jax.data.clips import ClipSet
from diffpose_jax.data.plausibility import load_record, measure_keypoints, save_record
from diffpose_jax.data.windows import centred_windows, device_clips, gather, training_windows
from diffpose_jax.errors import UserError
from diffpose_jax.keys import example_keys
from diffpose_jax.lifters.base import Lifter, MeasuringLifter, Variables
from diffpose_jax.lifters.cross_fitted import frame_folds
from diffpose_jax.registry import load_dataset
from diffpose_jax.sections import DataOptions
from diffpose_jax.training.step import TrainData
from diffpose_jax.training.validation import Validation, spread_batches


def load_splits(config: ConfigDict) -> dict[str, ClipSet]:
    """The splits `train` and, where the data have it, `valid`, without the subjects that the config leaves out.

    Raises UserError where a subject is unknown, or a split has no frames or no poses.
    """
    splits = load_dataset(config.data, ["train", "valid"], optional=["valid"])
    if left_out := [name for name in config.data.leave_out.split(",") if name]:
        train = splits["train"]
        if unknown := sorted(set(left_out) - set(train.subject)):
            raise UserError(f"config.data.leave_out: expected subjects of {', '.join(sorted(set(train.subject)))}, "
                            f"found {', '.join(unknown)}")  # fmt: skip
        splits["train"] = train.select(i for i, name in enumerate(train.subject) if name not in left_out)
    for split, clips in splits.items():
        if not clips.num_frames or clips.poses is None:
            found = "no frames" if not clips.num_frames else "no 3D poses"
            raise UserError(f"{config.data.source}: expected 3D poses to train with in split {split}, found {found}")
    return splits


def make_data(clips: ClipSet, lifter: Lifter, options: DataOptions, folds: Sequence[Sequence[str]]) -> TrainData:
    """The training split on the device, and its windows.

    Args:
        clips: The split.
        lifter: The method, for the frames of a window.
        options: The options of the data section.
        folds: The subjects of each fold of a cross-fitted context; none without one.
    """
    on_device = device_clips(clips, root=options.cameras == "random")
    if folds:
        on_device = on_device._replace(fold=frame_folds(clips, folds))
    return TrainData(on_device, training_windows(clips, lifter.frames, options.windows))


def keep_record(workdir: Path, train: ClipSet, data: DataOptions) -> None:
    """Writes what the keypoints are like that a run is trained on, unless it is known."""
    if jax.process_index() == 0 and load_record(workdir) is None:
        save_record(measure_keypoints(_film_as_trained(train, data)), workdir)


def _film_as_trained(clips: ClipSet, data: DataOptions) -> ClipSet:
    """The frames of the training split with keypoints as training has them: filmed anew where cameras are random."""
    if data.cameras != "random":
        return clips
    windows, count = centred_windows(clips, 1), clips.num_frames
    batch = gather(device_clips(clips, root=True), windows, jnp.arange(count, dtype=jnp.int32), 1)
    keys = example_keys(jax.random.key(0), batch.index)
    filmed = jax.jit(augment, static_argnums=(2, 3))(keys, batch, clips.skeleton, data.bodies)
    return dataclasses.replace(clips, keypoints=np.asarray(filmed.keypoints)[:, 0], detected=False)


def freeze_context(lifter: Lifter, context: Variables, train: TrainData, valid: Validation | None) -> Variables:
    """The frozen variables of a run: the context's, and what the lifter measures with them before training.

    Args:
        lifter: The method.
        context: The variables of its context.
        train: The training split.
        valid: The split that the context was not trained on, None where there is none.

    Raises:
        UserError: The lifter measures errors, and there are no people that its context has not seen.
    """
    if not isinstance(lifter, MeasuringLifter):
        return context
    if valid is None and train.clips.fold is None:
        raise UserError("config.data.source: expected a valid split to measure the context's errors on, or a context "
                        "trained with --cross_fit, found neither")  # fmt: skip
    # Versions of a cross-fitted context have not seen the subjects that they estimate.
    unseen = valid or train
    return lifter.measure(
        context,
        spread_batches(train.clips, train.windows, lifter.frames),
        spread_batches(unseen.clips, unseen.windows, lifter.frames),
    )

"""Keypoint files of this package: their bytes become checked arrays in pixels, in a named joint layout.

Files of 2D detectors have readers of their own (`formats.keypoint_tools`).

One recording is a set of these entries; in a `.npz` file they are the members, in a `.json` file the keys of an object:

    keypoints    [T, J, 2] or [T, J, 3] pixels, x to the right and y down from the top left corner; a third channel is
                 the score. [J, 2] or [J, 3] is a single image. [P, T, J, ...] holds P persons, one clip each.
    image_size   [width, height] of the image in pixels
    layout       the name of the joint order: coco17, blazepose33, halpe26, body25, openpose18, coco_wholebody133,
                 h36m17, h36m16, humaneva15, mpi_inf_3dhp17
    scores       optional [T, J] (or [P, T, J]): confidence of every joint, not negative; 1 where none is given
    fps          optional frames per second; 50 if not given
    subject      optional name of the person; the name of the file if not given
    action       optional name of what is done

A JSON file may also be a list of such objects. `layout` may be left out of the file and given by the caller instead.

A joint was not seen where its coordinates or its score are NaN or null, where null stands in place of the joint or of
the whole frame, or where its score is below a threshold: `MIN_SCORE` where the caller says nothing else, and 0 always
is. What then stands in its place is not read.

Nothing in either format is executed; pickled members other than plain data are refused.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from diffpose_jax.errors import UserError
from diffpose_jax.formats.image_sizes import check_image_size
from diffpose_jax.formats.npz import read_npz
from diffpose_jax.skeleton import SKELETONS, Skeleton

KEYS = ("keypoints", "image_size", "layout", "scores", "fps", "subject", "action")
DEFAULT_FPS = 50.0
# Detectors give every joint some place. Of the simulated detector, whose scores fall with the scale of the error
# (`data.detector.keypoint_noise`), a score of 0.1 means about 18 cm: more than half of a forearm.
MIN_SCORE = 0.1


class KeypointClip(NamedTuple):
    """The 2D keypoints of one person in T frames of one recording, as a detector found them."""

    keypoints: np.ndarray  # [T, J, 2] pixels, x right, y down; (0, 0) where a joint was not seen
    scores: np.ndarray | None  # [T, J] confidence, 0 where a joint was not seen; None: all were, no scores are known
    image_size: np.ndarray  # [2] width, height in pixels
    skeleton: Skeleton  # the layout of J joints
    fps: float
    subject: str
    action: str
    start: int = 0  # the frame of the recording that the first one is


def read_keypoint_file(
    path: str | os.PathLike, layout: str | None = None, min_score: float = MIN_SCORE
) -> list[KeypointClip]:
    """Reads a `.npz` or `.json` keypoint file (its entries: the module's docstring), one clip per person.

    Args:
        path: The file.
        layout: Name of the joint order; needed where the file names none.
        min_score: A joint of a lower score, or of 0, was not seen.

    Raises:
        UserError: The file is missing, damaged or of another kind, an entry is missing, unknown, of the wrong shape or
            infinite, no joint was seen, or the file names another layout than the caller.
    """
    path = Path(path)
    return parse_recordings(path, _read_recordings(path), layout, min_score)


def parse_recordings(path: Path, recordings: list[Any], layout: str | None, min_score: float) -> list[KeypointClip]:
    """Checks the recordings of a file that has been read, and gives their clips, one per person of each.

    Args:
        path: The file, for names and messages.
        recordings: The entries of each recording.
        layout: Name of the joint order; needed where the entries name none.
        min_score: A joint of a lower score, or of 0, was not seen.

    Raises:
        UserError: as `parse_recording`.
    """
    clips = []
    for index, entries in enumerate(recordings):
        where = str(path) if len(recordings) == 1 else f"{path}, clip {index}"
        if not isinstance(entries, Mapping):
            raise UserError(f"{where}: expected an object with {', '.join(KEYS)}, found {type(entries).__name__}")
        subject = path.stem if len(recordings) == 1 else f"{path.stem}-{index}"
        clips += parse_recording(where, entries, layout, subject, min_score)
    return clips


def parse_recording(
    where: str, entries: Mapping[str, Any], layout: str | None, default_subject: str, min_score: float = MIN_SCORE
) -> list[KeypointClip]:
    """Checks the entries of one recording and gives one clip per person.

    Args:
        where: What an error names: the file, and the recording's index in it.
        entries: The entries that the module's docstring lists, arrays or nested lists.
        layout: Name of the joint order; needed where the entries name none.
        default_subject: Name of the person where the entries have none.
        min_score: A joint of a lower score, or of 0, was not seen.

    Returns:
        One clip per person. Where there are several, their names end in `-0`, `-1`, ...

    Raises:
        UserError: An entry is missing, unknown, of the wrong shape or infinite, or no joint was seen.
    """
    if unknown := sorted(set(map(str, entries)) - set(KEYS)):
        raise UserError(f"{where}: expected the keys {', '.join(KEYS)}, found '{unknown[0]}'")
    keypoints = parse_array(where, entries, "keypoints", ndims=(2, 3, 4))
    if keypoints is None:
        raise UserError(f"{where}: expected 'keypoints', found {', '.join(map(str, entries)) or 'nothing'}")
    if keypoints.shape[-1] not in (2, 3):
        raise UserError(f"{where}: expected keypoints of shape [T, J, 2 or 3], found {list(keypoints.shape)}")
    skeleton = _parse_layout(where, entries, layout, keypoints.shape[-2])
    if keypoints.size == 0:
        raise UserError(f"{where}: expected at least one frame, found keypoints of shape {list(keypoints.shape)}")
    _refuse_infinity(where, "keypoints", keypoints)
    persons = keypoints.reshape((-1, *keypoints.shape[-3:]) if keypoints.ndim > 2 else (1, 1, *keypoints.shape))
    scores = _parse_scores(where, entries, persons)
    seen = _find_seen(where, persons, scores, min_score)
    size = _parse_image_size(where, entries, persons[..., :2][seen])
    persons = np.where(seen[..., None], persons[..., :2], 0.0)
    scores = None if scores is None and seen.all() else np.where(seen, 1.0 if scores is None else scores, 0.0)
    fps = float(_parse_single(where, entries, "fps", DEFAULT_FPS, (int, float)))
    if not 0 < fps < np.inf:
        raise UserError(f"{where}: expected a positive fps, found {fps:g}")
    subject = _parse_single(where, entries, "subject", default_subject, (str,))
    action = _parse_single(where, entries, "action", "keypoints", (str,))
    names = [subject] if len(persons) == 1 else [f"{subject}-{index}" for index in range(len(persons))]
    return [
        KeypointClip(person, None if scores is None else scores[index], size, skeleton, fps, name, action)
        for index, (person, name) in enumerate(zip(persons, names, strict=True))
    ]


def _read_recordings(path: Path) -> list[Any]:
    if not path.is_file():
        raise UserError(f"{path}: expected a keypoint file, found no such file")
    if path.suffix == ".npz":
        return [read_npz(path)]
    if path.suffix != ".json":
        raise UserError(f"{path}: expected a keypoint file (.npz or .json), found suffix '{path.suffix}'")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: expected JSON, found {type(error).__name__}: {error}") from error
    if content == []:
        raise UserError(f"{path}: expected at least one clip, found an empty list")
    return content if isinstance(content, list) else [content]


def parse_array(where: str, entries: Mapping[str, Any], key: str, ndims: tuple[int, ...]) -> np.ndarray | None:
    """An entry as a float64 array; None where there is none.

    Args:
        where: What an error names.
        entries: The entries of a recording, arrays or nested lists; a `null` in lists is NaN.
        key: The entry's name.
        ndims: The numbers of dimensions that it may have.

    Raises:
        UserError: for text, lists of unequal length, or another number of dimensions.
    """
    if key not in entries:
        return None
    try:
        array = np.asarray(_expand_nulls(entries[key], _list_shape(entries[key])), dtype=np.float64)
    except (ValueError, TypeError) as error:
        raise UserError(f"{where}: expected {key} as an array of numbers, found lists of unequal length or text") from (
            error
        )
    if array.ndim not in ndims:
        expected = " or ".join(map(str, ndims))
        raise UserError(f"{where}: expected {key} of {expected} dimensions, found shape {list(array.shape)}")
    return array


def _parse_single(where: str, entries: Mapping[str, Any], key: str, default: Any, types: tuple[type, ...]) -> Any:
    value = entries.get(key, default)
    value = value.item() if isinstance(value, np.ndarray) and value.size == 1 else value
    if not isinstance(value, types) or isinstance(value, bool):
        kind = "text" if str in types else "a number"
        raise UserError(f"{where}: expected {kind} as {key}, found {type(value).__name__}")
    return value


def _list_shape(value: Any) -> tuple[int, ...]:
    """The lengths of nested lists along their first deepest branch; () of anything else."""
    if not isinstance(value, list):
        return ()
    return len(value), *max(map(_list_shape, value), key=len, default=())


def _expand_nulls(value: Any, shape: tuple[int, ...]) -> Any:
    """Nested lists in which a null in place of a list, such as a joint or a frame, has become lists of NaN."""
    if value is None:
        return np.full(shape, np.nan).tolist()
    return [_expand_nulls(part, shape[1:]) for part in value] if isinstance(value, list) and len(shape) > 1 else value


def _find_seen(where: str, persons: np.ndarray, scores: np.ndarray | None, min_score: float) -> np.ndarray:
    """Which joints of keypoints `[P, T, J, C]` were seen, `[P, T, J]` bool; each person has to be, in some frame."""
    seen = np.isfinite(persons[..., :2]).all(axis=-1)
    if scores is not None:
        seen &= (scores >= min_score) & (scores > 0)  # false for NaN
    if not seen.any(axis=(1, 2)).all():
        highest = "" if scores is None or np.isnan(scores).all() else f", scores of {np.nanmax(scores):.3g} at most"
        raise UserError(f"{where}: expected joints that were seen (finite, score of at least {min_score:g}), "
                        f"found none of a person{highest}")  # fmt: skip
    return seen


def _refuse_infinity(where: str, key: str, array: np.ndarray) -> None:
    bad = np.argwhere(np.isinf(array))
    if len(bad):
        raise UserError(f"{where}: expected finite {key}, found {array[tuple(bad[0])]} at index {bad[0].tolist()}")


def _parse_layout(where: str, entries: Mapping[str, Any], layout: str | None, joints: int) -> Skeleton:
    fitting = ", ".join(name for name, skeleton in SKELETONS.items() if skeleton.num_joints == joints) or "none"
    named = _parse_single(where, entries, "layout", layout, (str,)) if layout or "layout" in entries else None
    if named is None:
        raise UserError(f"{where}: expected the name of a layout, found none (layouts of {joints} joints: {fitting})")
    if layout is not None and named != layout:
        raise UserError(f"{where}: expected layout {layout} as asked for, found {named} in the file")
    if named not in SKELETONS:
        raise UserError(f"{where}: expected a layout of {', '.join(SKELETONS)}, found '{named}'")
    expected = SKELETONS[named].num_joints
    if joints != expected:
        raise UserError(
            f"{where}: expected {expected} joints in layout {named}, found {joints} (layouts of {joints}: {fitting})"
        )
    return SKELETONS[named]


def _parse_image_size(where: str, entries: Mapping[str, Any], seen: np.ndarray) -> np.ndarray:
    """The size `[2]` of the image, pixels, in which the keypoints `[K, 2]` were seen."""
    size = parse_array(where, entries, "image_size", ndims=(1,))
    if size is None:
        raise UserError(f"{where}: expected 'image_size' as [width, height] in pixels, found none")
    if size.shape != (2,) or not (np.isfinite(size).all() and (size > 0).all()):
        raise UserError(f"{where}: expected image_size as [width, height] in pixels, found {size.tolist()}")
    check_image_size(where, size, seen)
    return size


def _parse_scores(where: str, entries: Mapping[str, Any], persons: np.ndarray) -> np.ndarray | None:
    """The scores `[P, T, J]` of keypoints `[P, T, J, C]`: the entry of that name, else their third channel."""
    scores = persons[..., 2] if persons.shape[-1] == 3 else None
    given = parse_array(where, entries, "scores", ndims=(1, 2, 3))
    if given is not None:
        if given.size != persons[..., 0].size or given.shape != persons.shape[3 - given.ndim : 3]:
            expected = list(persons.shape[:3] if len(persons) > 1 else persons.shape[1:3])
            raise UserError(f"{where}: expected scores of shape {expected}, found {list(given.shape)}")
        scores = given.reshape(persons.shape[:3])
    if scores is not None:
        _refuse_infinity(where, "scores", scores)
        if (scores < 0).any():
            raise UserError(f"{where}: expected scores of 0 or more, found {np.nanmin(scores):g}")
    return scores

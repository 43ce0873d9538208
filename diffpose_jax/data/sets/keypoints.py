"""A user's own 2D keypoints, from any detector, in a named layout.

One clip is a set of these entries; in a `.npz` file they are the members, in a `.json` file the keys of an object:

    keypoints    [T, J, 2] or [T, J, 3] pixels, x to the right and y down from the top left corner; a third channel is
                 the score. [J, 2] or [J, 3] is a single image. [P, T, J, ...] holds P persons, one clip each.
    image_size   [width, height] of the image in pixels
    layout       the name of the joint order: coco17, blazepose33, h36m17, h36m16, humaneva15, mpi_inf_3dhp17
    scores       optional [T, J] (or [P, T, J]): confidence of every joint, not negative
    fps          optional frames per second; 50 if not given
    subject      optional name of the person; the name of the file if not given
    action       optional name of what is done

A JSON file may also be a list of such objects, one clip each. `layout` may be left out of the file and given by the
caller instead. Missing joints have no place here: a NaN or null is an error, not an occlusion. Nothing in either format
is executed; pickled members other than plain data are refused.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from diffpose_jax.data.clips import Clip, ClipSet
from diffpose_jax.errors import UserError
from diffpose_jax.formats.npz import read_npz
from diffpose_jax.geometry import normalise_screen
from diffpose_jax.skeleton import H36M_17, SKELETONS, Skeleton, convert_layout, layout_matrix

KEYS = ("keypoints", "image_size", "layout", "scores", "fps", "subject", "action")
DEFAULT_FPS = 50.0


def load_keypoints(
    path: str | os.PathLike, *, layout: str | None = None, target: Skeleton = H36M_17
) -> dict[str, ClipSet]:
    """Reads a keypoint file as a data set of one split, `test`, without 3D poses. See `read_keypoints`."""
    return {"test": read_keypoints(path, layout=layout, target=target)}


def read_keypoints(path: str | os.PathLike, *, layout: str | None = None, target: Skeleton = H36M_17) -> ClipSet:
    """Reads a keypoint file (formats: the module's docstring) and converts it to the `target` layout.

    Gives keypoints `[N, J, 2]` in normalised image units and, where the file has them, scores `[N, J]`; a joint that is
    constructed from others has the lowest of their scores. Poses, roots and cameras are None. Raises UserError.
    """
    path = Path(path)
    entries = _read_entries(path)
    clips = []
    for number, entry in enumerate(entries):
        where = str(path) if len(entries) == 1 else f"{path}, clip {number}"
        if not isinstance(entry, Mapping):
            raise UserError(f"{where}: expected an object with {', '.join(KEYS)}, found {type(entry).__name__}")
        if unknown := sorted(set(map(str, entry)) - set(KEYS)):
            raise UserError(f"{where}: expected the keys {', '.join(KEYS)}, found '{unknown[0]}'")
        clips += _clips(where, entry, layout, target, path.stem if len(entries) == 1 else f"{path.stem}-{number}")
    if len({clip.scores is None for clip in clips}) > 1:
        raise UserError(f"{path}: expected scores in all clips or in none, found them in some")
    return ClipSet.build(clips, target)


def _read_entries(path: Path) -> list[Any]:
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


def _clips(where: str, entry: Mapping[str, Any], layout: str | None, target: Skeleton, name: str) -> list[Clip]:
    keypoints = _numbers(where, entry, "keypoints", ndims=(2, 3, 4))
    if keypoints is None:
        raise UserError(f"{where}: expected 'keypoints', found {', '.join(map(str, entry)) or 'nothing'}")
    if keypoints.shape[-1] not in (2, 3):
        raise UserError(f"{where}: expected keypoints of shape [T, J, 2 or 3], found {list(keypoints.shape)}")
    source = _layout(where, entry, layout, keypoints.shape[-2])
    if keypoints.size == 0:
        raise UserError(f"{where}: expected at least one frame, found keypoints of shape {list(keypoints.shape)}")
    _refuse_missing(where, "keypoints", keypoints)
    size = _image_size(where, entry, keypoints)

    persons = keypoints.reshape((-1, *keypoints.shape[-3:]) if keypoints.ndim > 2 else (1, 1, *keypoints.shape))
    scores = _scores(where, entry, persons)
    normalised = normalise_screen(persons[..., :2], size).astype(np.float32)
    fps = float(_single(where, entry, "fps", DEFAULT_FPS, (int, float)))
    if not 0 < fps < np.inf:
        raise UserError(f"{where}: expected a positive fps, found {fps:g}")
    subject = _single(where, entry, "subject", name, (str,))
    action = _single(where, entry, "action", "keypoints", (str,))
    return [
        Clip(
            convert_layout(normalised[person], source, target),
            None,
            None,
            subject if len(persons) == 1 else f"{subject}-{person}",
            action,
            fps=fps,
            scores=None if scores is None else _convert_scores(scores[person], source, target),
        )
        for person in range(len(persons))
    ]


def _scores(where: str, entry: Mapping[str, Any], persons: np.ndarray) -> np.ndarray | None:
    """The scores `[P, T, J]` of keypoints `[P, T, J, C]`: the entry of that name, else their third channel."""
    scores = persons[..., 2] if persons.shape[-1] == 3 else None
    given = _numbers(where, entry, "scores", ndims=(1, 2, 3))
    if given is not None:
        if given.size != persons[..., 0].size or given.shape != persons.shape[3 - given.ndim : 3]:
            expected = list(persons.shape[:3] if len(persons) > 1 else persons.shape[1:3])
            raise UserError(f"{where}: expected scores of shape {expected}, found {list(given.shape)}")
        scores = given.reshape(persons.shape[:3])
    if scores is not None:
        _refuse_missing(where, "scores", scores)
        if (scores < 0).any():
            raise UserError(f"{where}: expected scores of 0 or more, found {scores.min():g}")
    return scores


def _convert_scores(scores: np.ndarray, source: Skeleton, target: Skeleton) -> np.ndarray:
    used = layout_matrix(source, target) != 0
    return np.where(used, scores[..., None, :], np.inf).min(axis=-1).astype(np.float32)


def _numbers(where: str, entry: Mapping[str, Any], key: str, ndims: tuple[int, ...]) -> np.ndarray | None:
    if key not in entry:
        return None
    try:
        array = np.asarray(entry[key], dtype=np.float64)
    except (ValueError, TypeError) as error:
        raise UserError(f"{where}: expected {key} as an array of numbers, found lists of unequal length or text") from (
            error
        )
    if array.ndim not in ndims:
        expected = " or ".join(map(str, ndims))
        raise UserError(f"{where}: expected {key} of {expected} dimensions, found shape {list(array.shape)}")
    return array


def _refuse_missing(where: str, key: str, array: np.ndarray) -> None:
    bad = np.argwhere(~np.isfinite(array))
    if len(bad):
        raise UserError(f"{where}: expected finite {key}, found {array[tuple(bad[0])]} at index {bad[0].tolist()}")


def _single(where: str, entry: Mapping[str, Any], key: str, default: Any, types: tuple[type, ...]) -> Any:
    value = entry.get(key, default)
    value = value.item() if isinstance(value, np.ndarray) and value.size == 1 else value
    if not isinstance(value, types) or isinstance(value, bool):
        kind = "text" if str in types else "a number"
        raise UserError(f"{where}: expected {kind} as {key}, found {type(value).__name__}")
    return value


def _layout(where: str, entry: Mapping[str, Any], layout: str | None, joints: int) -> Skeleton:
    fitting = ", ".join(name for name, skeleton in SKELETONS.items() if skeleton.num_joints == joints) or "none"
    named = _single(where, entry, "layout", layout, (str,)) if layout or "layout" in entry else None
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


def _image_size(where: str, entry: Mapping[str, Any], keypoints: np.ndarray) -> np.ndarray:
    size = _numbers(where, entry, "image_size", ndims=(1,))
    if size is None:
        raise UserError(f"{where}: expected 'image_size' as [width, height] in pixels, found none")
    if size.shape != (2,) or not (np.isfinite(size).all() and (size > 0).all()):
        raise UserError(f"{where}: expected image_size as [width, height] in pixels, found {size.tolist()}")
    reach = np.abs(keypoints[..., :2]).max()
    if reach <= 2 and size.min() > 20:
        raise UserError(f"{where}: expected keypoints in pixels, found none beyond {reach:.3g} (normalised already?)")
    return size

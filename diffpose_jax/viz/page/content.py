"""What the page is given: the people of a video as JSON, whose arrays are base64 of small integers."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from diffpose_jax.errors import UserError
from diffpose_jax.people import LiftedPerson, LiftedVideo
from diffpose_jax.viz.uncertainty import STOPS, measure_uncertainty

# A missing number is stored as the type's lowest value where it is signed, as its highest where it is not.
_MISSING = {"int16": -32768, "uint16": 65535}
_HIGHEST = {"int16": 32767, "uint16": 65534}

# Bytes of all hypotheses together, before base64 makes a third more of them.
HYPOTHESES_BYTES = 6_000_000
_NUMBER_BYTES = 2


def pack(array: np.ndarray, kind: str, scale: float = 1.0) -> dict[str, Any]:
    """Store an array as base64 of little-endian integers or floats.

    Args:
        array: The numbers; what is not finite is missing.
        kind: `int16` or `uint16`, which store `array / scale` rounded and limited to their range, `uint8`, `int32` or
            `float32`.
        scale: The unit of the stored integers.

    Returns:
        The kind, shape, scale and base64 text; `unpack` is its inverse, as `decodeArray` of the page is.
    """
    values = np.asarray(array, np.float64) / scale
    if kind in _MISSING:
        low = -_HIGHEST[kind] if kind == "int16" else 0
        rounded = np.clip(np.round(np.nan_to_num(values)), low, _HIGHEST[kind])
        values = np.where(np.isfinite(values), rounded, _MISSING[kind])
    data = values.astype(np.dtype(kind).newbyteorder("<")).tobytes()
    return {"kind": kind, "shape": list(np.shape(array)), "scale": scale, "data": base64.b64encode(data).decode()}


def unpack(packed: Mapping[str, Any]) -> np.ndarray:
    """Read an array that `pack` stored, float64 with NaN for what was missing."""
    kind = packed["kind"]
    stored = np.frombuffer(base64.b64decode(packed["data"]), np.dtype(kind).newbyteorder("<"))
    values = stored.astype(np.float64) * packed["scale"]
    if kind in _MISSING:
        values[stored == _MISSING[kind]] = np.nan
    return values.reshape(packed["shape"])


def describe_video(video: LiftedVideo, truth: Mapping[str, np.ndarray] | None = None) -> dict[str, Any]:
    """Gather all that the page shows, except for the film.

    Args:
        video: The people.
        truth: By a person's name, the true joints `[T, J, 3]` m in the camera's frame, absolute or root-relative; NaN
            where they are not known.

    Returns:
        What JSON can hold.

    Raises:
        UserError: Somebody in `truth` is not in the video, or its shape is not that of the poses.
    """
    truth = dict(truth or {})
    _check_truth(video, truth)
    scale = measure_uncertainty(video)
    kept, stride = limit_hypotheses(video, HYPOTHESES_BYTES)
    people = [
        _describe_person(video, person, truth.get(person.name), kept, stride) | {"uncertainty": pack(mm, "uint16", 0.5)}
        for person, mm in zip(video.people, (values[::stride] for values in scale.values), strict=True)
    ]
    return {
        "source": video.source,
        "imageSize": [int(length) for length in video.image_size],
        "times": pack(np.asarray(video.times) - (video.times[0] if len(video.times) else 0), "float32"),
        "focal": float(video.focal),
        "world": np.asarray(video.world, np.float64).ravel().tolist(),
        "floor": float(video.floor),
        "stride": stride,
        "scale": {"label": scale.label, "top": scale.top, "stops": list(STOPS)},
        "settings": {str(name): _show(value) for name, value in video.settings.items()},
        "people": people,
    }


def limit_hypotheses(video: LiftedVideo, budget: int) -> tuple[int, int]:
    """How many hypotheses of every person fit into `budget` bytes, and the step between the frames that are kept."""
    one = sum(person.poses.size for person in video.people) * _NUMBER_BYTES
    most = max((person.hypotheses.shape[1] for person in video.people), default=0)
    # The aggregate costs as much as a hypothesis; where not even five fit, frames are left out.
    stride = max(1, math.ceil(min(5, most) * one / budget))
    return min(most, budget * stride // max(one, 1)), stride


def _describe_person(
    video: LiftedVideo, person: LiftedPerson, truth: np.ndarray | None, kept: int, stride: int
) -> dict[str, Any]:
    skeleton, rows = person.skeleton, slice(None, None, stride)
    root = person.root @ video.world.T - np.array([0.0, 0.0, video.floor])
    poses = video.in_world(person) - root[:, None]
    hypotheses = np.asarray(person.hypotheses)[rows, :kept] @ video.world.T
    if truth is not None:
        # The truth stands where the lifted root stands: errors are root-relative, as MPJPE is.
        relative = (truth - truth[:, skeleton.root, None]) @ video.world.T
        truth = relative + poses[:, skeleton.root, None]
    regions = {"radius50": person.radius_50, "radius90": person.radius_90}
    return {
        "name": person.name,
        "frames": pack(person.frames[rows], "int32"),
        "joints": [joint.replace("_", " ") for joint in skeleton.joints],
        "parents": list(skeleton.parents),
        "left": list(skeleton.left),
        "right": list(skeleton.right),
        "hypothesesMade": int(person.hypotheses.shape[1]),
        "root": pack(root[rows], "float32"),
        "rootStd": pack(person.root_std[rows], "float32"),
        "poses": pack(poses[rows], "int16", 0.001),
        "hypotheses": pack(hypotheses, "int16", 0.001),
        "keypoints": pack(person.keypoints[rows], "int16", max(video.image_size) / 16000),
        "seen": pack(person.seen[rows], "uint8"),
        "spread": pack(person.spread[rows], "uint16", 0.0005),
        **{name: None if one is None else pack(one[rows], "uint16", 0.0005) for name, one in regions.items()},
        "truth": None if truth is None else pack(truth[rows], "int16", 0.001),
    }


def _check_truth(video: LiftedVideo, truth: Mapping[str, np.ndarray]) -> None:
    shapes = {person.name: person.poses.shape for person in video.people}
    for name, joints in truth.items():
        if name not in shapes:
            raise UserError(f"truth: expected some of {', '.join(shapes) or 'nobody'}, found {name!r}")
        if np.shape(joints) != shapes[name]:
            raise UserError(f"truth of {name}: expected the shape {shapes[name]}, found {np.shape(joints)}")


def _show(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)

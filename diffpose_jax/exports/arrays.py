"""People of a video as one `.npz` file that holds all that is known, and is read back without loss.

Members of person i begin with `person_i_`: the arrays of `LiftedPerson` by name, and `world`, the positions in the
world `[T, J, 3]` (m, z up, floor at 0). `meta` is a JSON text: source, names, layouts and settings.
"""

from __future__ import annotations

import json
import os
from typing import IO, Any

import numpy as np

from diffpose_jax.errors import UserError
from diffpose_jax.formats.npz import read_npz
from diffpose_jax.people import LiftedPerson, LiftedVideo
from diffpose_jax.skeleton import Skeleton

FORMAT = "diffpose_jax people 1"
_OPTIONAL = ("radius_50", "radius_90")


def write_arrays(stream: IO[bytes], video: LiftedVideo) -> None:
    """Writes all arrays of a video, compressed."""
    arrays: dict[str, np.ndarray] = {
        "times": np.asarray(video.times),
        "image_size": np.array(video.image_size),
        "focal": np.array(video.focal),
        "world": np.asarray(video.world),
        "floor": np.array(video.floor),
    }
    for index, person in enumerate(video.people):
        parts = {name: value for name, value in person._asdict().items() if isinstance(value, np.ndarray)}
        arrays |= {f"person_{index}_{name}": value for name, value in parts.items()}
        arrays[f"person_{index}_world"] = video.in_world(person)
    meta = {
        "format": FORMAT,
        "source": video.source,
        "people": [{"name": person.name, "skeleton": _describe(person.skeleton)} for person in video.people],
        "settings": video.settings,
        "units": "metres, seconds, pixels; poses and hypotheses relative to the root, camera: x right, y down, z away",
    }
    arrays["meta"] = np.array(json.dumps(meta, default=str))
    np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]  # numpy's stub takes a keyword for allow_pickle


def read_arrays(path: str | os.PathLike) -> LiftedVideo:
    """Reads what `write_arrays` wrote. Raises UserError where the file is of another kind or damaged."""
    found = read_npz(path)
    try:
        meta = json.loads(str(found["meta"]))
        if meta["format"] != FORMAT:
            raise UserError(f"{path}: expected the format '{FORMAT}', found '{meta['format']}'")
        people = tuple(_parse_person(found, index, about) for index, about in enumerate(meta["people"]))
        width, height = (int(size) for size in found["image_size"])
        return LiftedVideo(
            meta["source"],
            (width, height),
            found["times"],
            float(found["focal"]),
            found["world"],
            float(found["floor"]),
            people,
            meta["settings"],
        )
    except (KeyError, ValueError, TypeError) as error:
        raise UserError(f"{path}: expected an .npz file of lifted people, found {error!r}") from error


def _describe(skeleton: Skeleton) -> dict[str, Any]:
    return {name: getattr(skeleton, name) for name in ("name", "joints", "parents", "left", "right")}


def _parse_person(found: dict[str, Any], index: int, about: dict[str, Any]) -> LiftedPerson:
    layout: dict[str, Any] = {name: part if name == "name" else tuple(part) for name, part in about["skeleton"].items()}
    arrays = [name for name in LiftedPerson._fields if name not in ("name", "skeleton")]
    parts: dict[str, Any] = {name: found.get(f"person_{index}_{name}") for name in _OPTIONAL}
    parts |= {name: found[f"person_{index}_{name}"] for name in arrays if name not in _OPTIONAL}
    return LiftedPerson(name=about["name"], skeleton=Skeleton(**layout), **parts)

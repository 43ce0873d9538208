"""People in 3D while a camera films them: `diffpose lift --live`, on a page of this machine.

Every frame is looked at once: people are found and followed, a single-frame lifter gives hypotheses and their spread,
and `viz.live_page` shows the newest. Nothing is smoothed, and left and right are as the detector gives them.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from diffpose_jax.errors import UserError
from diffpose_jax.live_lifting import LiveLifter, LivePeople
from diffpose_jax.model import Model
from diffpose_jax.skeleton import Skeleton
from diffpose_jax.video.detectors import get_detector
from diffpose_jax.video.finding import PeopleFinder
from diffpose_jax.video.frames import Frame, open_frames
from diffpose_jax.video.tracking import Body
from diffpose_jax.viz.live_page import LivePage

# Longer side, in pixels, of the frames that people are looked for in: a person's crop has 256 in the end.
_LONGEST = 960
_HALF_LIFE = 0.9  # of the rate that the page shows, per frame


@dataclasses.dataclass(frozen=True)
class LiveOptions:
    """How a live picture is lifted and shown.

    Attributes:
        hypotheses: Poses drawn for each frame.
        seed: Seed of all noise; None: that of the model.
        focal: Focal length in pixels; None: by the metadata of the file, else that of a phone's main camera.
        people: 'all', 'largest', or the identity of one, such as 'person 1' or 1.
        detector: Import path of another detector than BlazePose.
        threads: Threads of BlazePose's networks.
        port: Port of the page; 0: any that is free.
        seconds: When to stop; None: at the end of the source, or when interrupted.
    """

    hypotheses: int = 20
    seed: int | None = None
    focal: float | None = None
    people: str = "all"
    detector: str | None = None
    threads: int = 2
    port: int = 8765
    seconds: float | None = None

    def __post_init__(self) -> None:
        if self.focal is not None and not 0 < self.focal < np.inf:
            raise UserError(f"focal: expected a positive number of pixels, found {self.focal}")


class Pace:
    """How much time a live picture spends on what.

    Attributes:
        frames: How many so far.
        spent: Seconds by what they were spent on; waiting for a file's own time is not among them.
        rate: Frames per second lately, with all waiting.
    """

    def __init__(self) -> None:
        self.frames, self.spent, self.rate = 0, {"read": 0.0, "find": 0.0, "lift": 0.0, "show": 0.0}, 0.0
        self._begin = self._before = self._mark = time.monotonic()

    @property
    def elapsed(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self._begin

    def note(self, what: str | None) -> None:
        """The time since the last note was spent on that; None: waiting."""
        now = time.monotonic()
        if what is not None:
            self.spent[what] += now - self._mark
        self._mark = now

    def count(self) -> None:
        """One more frame is done."""
        now = time.monotonic()
        rate = 1 / max(now - self._before, 1e-6)
        self.rate = rate if not self.frames else _HALF_LIFE * self.rate + (1 - _HALF_LIFE) * rate
        self.frames, self._before = self.frames + 1, now

    def describe(self) -> str:
        """One line for the terminal."""
        each = {what: 1000 * seconds / max(self.frames, 1) for what, seconds in self.spent.items()}
        parts = ", ".join(f"{what} {milliseconds:.1f}" for what, milliseconds in each.items())
        possible = self.frames / max(sum(self.spent.values()), 1e-6)
        return (
            f"{self.frames} frames in {self.elapsed:.1f} s; milliseconds per frame: {parts}; "
            f"{possible:.1f} frames per second possible"
        )


def show_live(source: str | os.PathLike, model: Model, options: LiveOptions = LiveOptions()) -> Pace:
    """Lifts and shows the frames of a camera, or of a file at its own speed, until it ends or is interrupted.

    Args:
        source: `camera:0`, or whatever else `open_frames` reads.
        model: A lifter of single frames.
        options: How.

    Raises:
        UserError: The source cannot be read, the model is not of single frames, or the port is taken.
    """
    frames = open_frames(source, longest=_LONGEST)
    detector = None if options.detector is None else get_detector(options.detector)
    finder = PeopleFinder(frames.image_size, detector, heatmaps=False, threads=options.threads, remember=False)
    focal = options.focal or frames.focal
    lifter = LiveLifter(model, finder.skeleton, frames.image_size, options.hypotheses, options.seed, focal)
    films = not str(source).startswith("camera:")
    with LivePage(options.port) as page:
        print(f"live: {page.address} shows {frames.source} (Ctrl-C ends)", flush=True)
        pace = Pace()
        try:
            for frame in _until(iter(frames), pace, options.seconds):
                pace.note("read")
                found = _choose(finder.update(frame), options.people)
                pace.note("find")
                names, people = lifter.lift(found)
                pace.note("lift")
                page.show(frame.image, describe_frame(frames, frame, lifter.skeleton, names, people, pace.rate))
                pace.note("show")
                pace.count()
                if films:  # at the speed of the film, as a camera would give it
                    time.sleep(max(0.0, frame.time - pace.elapsed))
                    pace.note(None)
        except KeyboardInterrupt:
            pass
    return pace


def _until(frames: Iterator[Frame], pace: Pace, seconds: float | None) -> Iterator[Frame]:
    for frame in frames:
        yield frame
        if seconds is not None and pace.elapsed >= seconds:
            return


def _choose(bodies: Mapping[int, Body], people: str) -> Mapping[int, Body]:
    """The bodies of those who are asked for; nobody where the one is not in the picture."""
    if people == "all" or not bodies:
        return bodies
    if people == "largest":
        areas = {name: float(np.prod(body.box[2:] - body.box[:2])) for name, body in bodies.items()}
        return {name: bodies[name] for name in [max(areas, key=lambda name: areas[name])]}
    return {name: body for name, body in bodies.items() if people in (str(name), _name(name))}


def _name(identity: int) -> str:
    return f"person {identity}"


def describe_frame(
    frames: Any, frame: Frame, skeleton: Skeleton, names: list[int], people: LivePeople | None, rate: float
) -> dict[str, Any]:
    """What the page draws of a frame, as JSON takes it: pixels, and whole millimetres in the camera's frame.

    Args:
        frames: The source.
        frame: The frame.
        skeleton: The joints of the poses.
        names: Identities of the people.
        people: The people, None where there is nobody.
        rate: Frames per second.
    """
    described = {
        "source": os.path.basename(frames.source),
        "time": frame.time,
        "rate": rate,
        "size": list(frames.image_size),
        "bones": [list(bone) for bone in skeleton.bones],
        "people": [],
    }
    if people is None:
        return described
    placed, drawn = people.poses + people.root[:, None], people.hypotheses + people.root[:, None, None]
    columns = {
        "keypoints": people.keypoints,
        "pose": 1000 * placed,
        "hypotheses": 1000 * drawn,
        "root": 1000 * people.root,
        "spread": 1000 * people.spread,
    }
    whole = {name: np.round(values).astype(int).tolist() for name, values in columns.items()}
    described["people"] = [
        {"name": _name(name), "seen": people.seen[row].tolist(), **{key: values[row] for key, values in whole.items()}}
        for row, name in enumerate(names)
    ]
    return described

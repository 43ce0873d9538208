"""What a job measures: a grid of choices, the units that it consists of, and the comparisons that it names."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any

from diffpose_jax.errors import UserError
from diffpose_jax.evaluation.metrics import METRICS
from diffpose_jax.evaluation.scores import SCORES
from diffpose_jax.evaluation.workdirs import Evaluation
from diffpose_jax.records import digest_json

# What rows differ in, and what a side of a comparison can name.
FIELDS = ("workdir", "data", "split", "input", "occlusion", "occlusion_rate", "hypotheses", "steps", "flip", "noise",
          "protocol", "stride", "seed", "aggregation")  # fmt: skip
# The aggregation of values that judge all hypotheses together.
DISTRIBUTION = "distribution"


@dataclasses.dataclass(frozen=True)
class Unit:
    """One evaluation of a job: a lifter on data, all aggregations of one draw of hypotheses.

    Attributes:
        workdir: A work directory or 'pretrained:NAME'.
        data: An archive or 'synthetic'; None: the data trained on.
        split: The split to measure.
        input: The strength of the simulated keypoint noise; 0: keypoints as the data have them; None: the config's.
        occlusion: A pattern of `data.occlusions`; None: the config's.
        occlusion_rate: Its rate; 0: the published one.
        hypotheses: Hypotheses per frame; None, here and below: the config's.
        steps: Reverse steps.
        flip: How the mirrored input enters.
        noise: 'frame' or 'clip'.
        protocol: A name of `evaluation.protocols.PROTOCOLS`.
        stride: Every stride-th frame of each clip is measured.
        seed: The seed of hypotheses and of what is hidden.
        aggregations: Names of `evaluation.aggregation.AGGREGATES`; None: all that are possible.
    """

    workdir: str
    data: str | None = None
    split: str = "test"
    input: float | None = None
    occlusion: str | None = None
    occlusion_rate: float = 0.0
    hypotheses: int | None = None
    steps: int | None = None
    flip: str | None = None
    noise: str | None = None
    protocol: str | None = None
    stride: int | None = None
    seed: int | None = None
    aggregations: tuple[str, ...] | None = None

    def describe(self) -> dict[str, Any]:
        """The fields as JSON."""
        found = dataclasses.asdict(self)
        return found | {"aggregations": None if self.aggregations is None else list(self.aggregations)}

    @property
    def name(self) -> str:
        """A name of its own for files: that of the work directory and a digest of all fields."""
        last = self.workdir.rstrip("/").rpartition("/")[2].removeprefix("pretrained:")
        return f"{re.sub(r'[^A-Za-z0-9_.-]', '_', last)[:40]}-{digest_json(self.describe())[:12]}"

    @property
    def title(self) -> str:
        """What messages call it: the fields that are given."""
        left_out = ("workdir", "aggregations")
        given = {name: value for name, value in self.describe().items() if value is not None and name not in left_out}
        given = {name: value for name, value in given.items() if (name, value) not in _USUAL}
        return ", ".join([self.workdir, *(f"{name} {value}" for name, value in given.items())])

    def evaluation(self, batch_size: int | None = None) -> Evaluation:
        """The evaluation of this unit, with so many windows per device and compiled call."""
        return Evaluation(
            workdir=self.workdir,
            data=self.data,
            split=self.split,
            hypotheses=self.hypotheses,
            flip=self.flip,
            noise=self.noise,
            protocol=self.protocol,
            stride=self.stride,
            aggregations=self.aggregations,
            batch_size=batch_size,
            sampling_steps=self.steps,
            occlusion=self.occlusion,
            occlusion_rate=self.occlusion_rate,
            detector_strength=self.input,
            seed=self.seed,
            figure=False,
        )


_USUAL = {("split", "test"), ("occlusion_rate", 0.0)}


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Two sides of a grid whose rows are compared in pairs; the difference is `first` minus `second`.

    Rows are paired where they agree in all `FIELDS` that neither side names. Seeds are averaged. A supervised lifter
    has neither hypotheses nor steps, and is paired with any.

    Attributes:
        first: Fields of `FIELDS` that a row has to have, such as `{"workdir": "runs/a", "aggregation": "mean"}`.
        second: Those of the other side.
        metric: A name of `METRICS`, or of `SCORES`, which judge all hypotheses together.
        title: What tables call it; made of the sides if empty.
    """

    first: Mapping[str, Any]
    second: Mapping[str, Any]
    metric: str = "mpjpe"
    title: str = ""

    def __post_init__(self) -> None:
        if self.metric not in METRICS and self.metric not in SCORES:
            raise UserError(f"comparison: expected a metric of {', '.join([*METRICS, *SCORES])}, found {self.metric!r}")
        for side in (self.first, self.second):
            if not isinstance(side, Mapping) or not side:
                raise UserError(f"comparison: expected a side as fields and values, found {side!r}")
            for field in side:
                if field not in FIELDS:
                    raise UserError(f"comparison: expected a field of {', '.join(FIELDS)}, found {field!r}")

    def describe(self) -> str:
        """Its title, or both sides."""
        sides = (", ".join(f"{name} {value}" for name, value in side.items()) for side in (self.first, self.second))
        return self.title or " minus ".join(sides)


@dataclasses.dataclass(frozen=True)
class Grid:
    """All combinations of a few choices; None among them means what the config of the work directory says.

    Attributes:
        workdirs: Work directories, or names of released models such as 'pretrained:frame'.
        data: Archives, 'synthetic', or None for the data trained on.
        inputs: 'exact' for the keypoints as the data have them, or strengths of the simulated keypoint noise.
        occlusions: Patterns of `data.occlusions`, or pairs of a pattern and its rate.
        hypotheses: Hypotheses per frame.
        steps: Reverse steps.
        seeds: Seeds of hypotheses and of what is hidden.
        aggregations: Names of `evaluation.aggregation.AGGREGATES`, all made of the same hypotheses; None: all.
        comparisons: What the summary compares.
        split: The split to measure, and likewise for all units flip, noise, protocol and stride, as in `Unit`.
        batch_size: Windows per device and compiled call.
        chunk_frames: Frames that are lifted before what was found is kept on disk.
        predictions: Whether the poses of every frame are kept.
    """

    workdirs: Sequence[str]
    data: Sequence[str | None] = (None,)
    inputs: Sequence[str | float | None] = (None,)
    occlusions: Sequence[Any] = (None,)
    hypotheses: Sequence[int | None] = (None,)
    steps: Sequence[int | None] = (None,)
    seeds: Sequence[int | None] = (None,)
    aggregations: Sequence[str] | None = None
    comparisons: Sequence[Comparison | Mapping[str, Any]] = ()
    split: str = "test"
    flip: str | None = None
    noise: str | None = None
    protocol: str | None = None
    stride: int | None = None
    batch_size: int | None = None
    chunk_frames: int = 8192
    predictions: bool = False

    def __post_init__(self) -> None:
        for name in ("workdirs", "data", "inputs", "occlusions", "hypotheses", "steps", "seeds", "comparisons"):
            found = getattr(self, name)
            if isinstance(found, str | Mapping) or not isinstance(found, Sequence):
                raise UserError(f"job, {name}: expected a list, found {found!r}")
            if not found and name != "comparisons":
                raise UserError(f"job, {name}: expected at least one, found none")
        for name, low in (("hypotheses", 1), ("steps", 1), ("seeds", 0)):
            for value in getattr(self, name):
                _check_whole(name, value, low)
        for name in ("stride", "batch_size", "chunk_frames"):
            _check_whole(name, getattr(self, name), 1)
        if self.aggregations is not None and (isinstance(self.aggregations, str) or not self.aggregations):
            raise UserError(f"job, aggregations: expected a list of names, found {self.aggregations!r}")
        for name in self.workdirs:
            if not isinstance(name, str):
                raise UserError(f"job, workdirs: expected names of folders, found {name!r}")

    def list_units(self) -> list[Unit]:
        """The units in the order of the lists, the last choice changing first."""
        choices = itertools.product(self.workdirs, self.data, self.inputs, self.occlusions, self.hypotheses,
                                    self.steps, self.seeds)  # fmt: skip
        aggregations = None if self.aggregations is None else tuple(self.aggregations)
        units = []
        for workdir, data, given, occlusion, hypotheses, steps, seed in choices:
            pattern, rate = _read_occlusion(occlusion)
            units.append(Unit(workdir, data, self.split, _read_input(given), pattern, rate, hypotheses, steps,
                              self.flip, self.noise, self.protocol, self.stride, seed, aggregations))  # fmt: skip
        return list(dict.fromkeys(units))

    def list_comparisons(self) -> list[Comparison]:
        """The comparisons; those that are given as a mapping of their fields too."""
        known = {field.name for field in dataclasses.fields(Comparison)}
        found = []
        for one in self.comparisons:
            if isinstance(one, Mapping):
                if not {"first", "second"} <= one.keys() <= known:
                    raise UserError(
                        f"comparison: expected {', '.join(sorted(known))}, found {', '.join(map(str, one))}"
                    )
                one = Comparison(**one)
            found.append(one)
        return found


def _check_whole(name: str, value: Any, low: int) -> None:
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < low):
        raise UserError(f"job, {name}: expected a whole number of at least {low}, found {value!r}")


def _read_input(given: Any) -> float | None:
    if given is None or given == "exact":
        return None if given is None else 0.0
    if isinstance(given, bool) or not isinstance(given, int | float) or not 0 <= given < 100:
        raise UserError(f"job, inputs: expected 'exact' or the strength of a detector, found {given!r}")
    return float(given)


def _read_occlusion(given: Any) -> tuple[str | None, float]:
    if given is None or isinstance(given, str):
        return given, 0.0
    if isinstance(given, Sequence) and len(given) == 2 and isinstance(given[0], str):
        rate = given[1]
        if isinstance(rate, int | float) and not isinstance(rate, bool) and 0 <= rate < 1:
            return given[0], float(rate)
    raise UserError(f"job, occlusions: expected a pattern, or a pattern and its rate below 1, found {given!r}")

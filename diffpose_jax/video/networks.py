"""BlazePose's two networks: what goes into them and what comes out, run by LiteRT on the CPU.

The detector (Bazarevsky et al. 2020, "BlazePose: On-device real-time body pose tracking") finds people in a picture of
224 x 224 pixels: 2254 anchors, each with a score, a box and four points. The landmark network reads a turned crop of
256 x 256 pixels around one person and answers with 39 points, 33 of the body and six auxiliary ones, of which two
state where the person is, and with one heatmap for each. Both are those of MediaPipe 0.10.21 (Apache-2.0); the folder
`pretrained/blazepose` says where they come from.
"""

from __future__ import annotations

import hashlib
from importlib import resources
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from diffpose_jax.errors import UserError
from diffpose_jax.video.regions import Region, cut_out, region_along

DIGESTS = {
    "pose_detection.tflite": "9ba9dd3d42efaaba86b4ff0122b06f29c4122e756b329d89dca1e297fd8f866c",
    "pose_landmark_full.tflite": "e9a5c5cb17f736fafd4c2ec1da3b3d331d6edbe8a0d32395855aeb2cdfd64b9f",
}
DETECTION_SIZE = 224  # pixels along each side of what the detector reads
LANDMARK_SIZE = 256  # and the landmark network
MAP_SIZE = 64  # cells along each side of a heatmap
LANDMARKS = 33  # points of the body
MIN_SCORE = 0.5  # of a detection and of a body, as MediaPipe has it
_OVERLAP = 0.3  # detections that share more are one person
_HIP, _CIRCLE = 0, 1  # the points of a detection that state the region: middle of the hips, point on the circle
_AUXILIARY_HIP, _AUXILIARY_CIRCLE = 33, 34  # the same among the landmarks
# Strides of the layers that predict and anchors in each of their cells: three layers of stride 32 share one grid.
_GRIDS = ((8, 2), (16, 2), (32, 6))
_KERNEL = 7  # cells along each side of the neighbourhood that refines a landmark
_MIN_PEAK = 0.5  # of a heatmap that refines one


class Detection(NamedTuple):
    """A person that the detector found.

    Attributes:
        score: Probability.
        region: Where to look for landmarks, in pixels of the picture.
    """

    score: float
    region: Region


class Landmarks(NamedTuple):
    """What the landmark network says of one person.

    Attributes:
        score: Probability that there is a person in the region.
        region: The region that was read, in pixels of the picture.
        points: Places `[39, 2]` in the region, as shares of its side; the first 33 refined by their heatmaps.
        visibility: Probability that a point is in the picture and not hidden, `[39]`.
        presence: Probability that a point is in the picture, `[39]`.
        heatmaps: Logits `[64, 64, 39]`, rows before columns.
        places: The network's own guess of where the points are in space, `[39, 3]` m around the middle of the hips.
    """

    score: float
    region: Region
    points: np.ndarray
    visibility: np.ndarray
    presence: np.ndarray
    heatmaps: np.ndarray
    places: np.ndarray

    @property
    def next_region(self) -> Region:
        """Where to look for the same person in the next frame: BlazePose's own answer, its auxiliary points."""
        ends = self.region.to_picture(self.points[[_AUXILIARY_HIP, _AUXILIARY_CIRCLE]])
        return region_along(ends[0], ends[1])


class BlazePose:
    """The two networks, loaded.

    Args:
        threads: Threads that each of them may use.

    Raises:
        UserError: LiteRT is not installed, or a network's file is missing or damaged.
    """

    def __init__(self, threads: int = 1):
        self._detector = _Network("pose_detection.tflite", threads)
        self._landmarks = _Network("pose_landmark_full.tflite", threads)
        self._anchors = anchor_centres()

    def detect(self, image: Image.Image, box: tuple[int, int, int, int] | None = None) -> list[Detection]:
        """Find the people in a picture (RGB) or in a part of it (left, top, right, bottom pixels), best first."""
        left, top, right, bottom = box or (0, 0, *image.size)
        scale = DETECTION_SIZE / max(right - left, bottom - top)
        size = max(1, round((right - left) * scale)), max(1, round((bottom - top) * scale))
        small = image.resize(size, Image.Resampling.BILINEAR, box=(left, top, right, bottom), reducing_gap=2.0)
        margin = np.array([DETECTION_SIZE - size[0], DETECTION_SIZE - size[1]]) // 2
        # The margins are black, which is -1 after scaling.
        pixels = np.full((DETECTION_SIZE, DETECTION_SIZE, 3), -1, np.float32)
        inside = np.asarray(small, np.float32) / 127.5 - 1
        pixels[margin[1] : margin[1] + size[1], margin[0] : margin[0] + size[0]] = inside
        outputs = self._detector.run(pixels)
        found = decode_detections(outputs[(2254, 12)], outputs[(2254, 1)][:, 0], self._anchors)
        return [
            Detection(score, region_along(*((points[[_HIP, _CIRCLE]] - margin) / scale + np.array([left, top]))))
            for score, points in found
        ]

    def read_landmarks(self, image: Image.Image, region: Region) -> Landmarks:
        """Read the landmarks of the person in a region of a picture (RGB)."""
        pixels = cut_out(image, region, LANDMARK_SIZE).astype(np.float32) / 255
        outputs = self._landmarks.run(pixels)
        values = outputs[(195,)].reshape(39, 5)
        heatmaps = outputs[(MAP_SIZE, MAP_SIZE, 39)]
        points = refine_points(values[:, :2] / LANDMARK_SIZE, heatmaps)
        points[LANDMARKS:] = values[LANDMARKS:, :2] / LANDMARK_SIZE
        visibility, presence = logistic(values[:, 3]), logistic(values[:, 4])
        places = outputs[(117,)].reshape(39, 3)
        return Landmarks(float(outputs[(1,)][0]), region, points, visibility, presence, heatmaps, places)


class _Network:
    """One `.tflite` file of the package, ready to run; outputs are found by their shape."""

    def __init__(self, name: str, threads: int):
        try:
            from ai_edge_litert.interpreter import Interpreter
        except ImportError:
            raise UserError(
                "detecting people: expected the package ai-edge-litert, found none; pip install 'diffpose_jax[video]'"
            ) from None
        # The interpreter reads the bytes as long as it lives.
        self._bytes = read_network(name)
        self._interpreter: Any = Interpreter(model_content=self._bytes, num_threads=threads)
        self._interpreter.allocate_tensors()
        self._input = self._interpreter.get_input_details()[0]["index"]
        self._outputs = {
            tuple(map(int, output["shape"][1:])): output["index"] for output in self._interpreter.get_output_details()
        }

    def run(self, pixels: np.ndarray) -> dict[tuple[int, ...], np.ndarray]:
        """Run the network on one picture `[h, w, 3]` float32: outputs by shape, without the batch axis."""
        self._interpreter.set_tensor(self._input, pixels[None])
        self._interpreter.invoke()
        return {shape: self._interpreter.get_tensor(index)[0] for shape, index in self._outputs.items()}


def read_network(name: str) -> bytes:
    """Read a network that ships with the package and check its digest; a `UserError` says what is wrong with it."""
    path = resources.files("diffpose_jax").joinpath("pretrained", "blazepose", name)
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path}: expected a network that ships with the package, found no file") from None
    digest = hashlib.sha256(content).hexdigest()
    if digest != DIGESTS[name]:
        raise UserError(f"{path}: expected the SHA-256 digest {DIGESTS[name]}, found {digest}")
    return content


def anchor_centres() -> np.ndarray:
    """Centres of the detector's anchors `[2254, 2]` in pixels of its picture: those of the cells of each grid."""
    centres = []
    for stride, count in _GRIDS:
        cells = (np.arange(DETECTION_SIZE // stride) + 0.5) * stride
        across, down = np.meshgrid(cells, cells)
        centres.append(np.repeat(np.stack([across.ravel(), down.ravel()], axis=-1), count, axis=0))
    return np.concatenate(centres)


def decode_detections(
    values: np.ndarray, logits: np.ndarray, anchors: np.ndarray, min_score: float = MIN_SCORE
) -> list[tuple[float, np.ndarray]]:
    """Decode the detector's output into people, best first, and merge anchors that found the same one.

    Anchors that overlap the best one are averaged with it by their scores, which is steadier than the best alone.

    Args:
        values: `[N, 12]`: centre, width and height of a box and four points, all relative to the anchor, in pixels.
        logits: Scores before the logistic function, `[N]`.
        anchors: Centres `[N, 2]` pixels.
        min_score: The smallest score of a person.

    Returns:
        The score and the four points `[4, 2]` (pixels) of each person.
    """
    scores = logistic(logits)
    chosen = np.flatnonzero(scores >= min_score)
    chosen = chosen[np.argsort(-scores[chosen], kind="stable")]
    scores, values, anchors = scores[chosen], values[chosen].astype(float), anchors[chosen]
    centres = values[:, :2] + anchors
    boxes = np.concatenate([centres - values[:, 2:4] / 2, centres + values[:, 2:4] / 2], axis=-1)
    points = values[:, 4:].reshape(-1, 4, 2) + anchors[:, None]
    found, left = [], np.arange(len(scores))
    while len(left):
        same = overlap(boxes[left[0]], boxes[left]) > _OVERLAP
        same[0] = True
        group = left[same]
        found.append((float(scores[group[0]]), np.average(points[group], axis=0, weights=scores[group])))
        left = left[~same]
    return found


def overlap(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Intersection over union of a box `[..., 4]` (left, top, right, bottom) with boxes `[..., 4]`."""
    shared = np.minimum(box[..., 2:], boxes[..., 2:]) - np.maximum(box[..., :2], boxes[..., :2])
    shared_area = np.prod(np.clip(shared, 0, None), axis=-1)
    areas = [np.prod(np.clip(each[..., 2:] - each[..., :2], 0, None), axis=-1) for each in (box, boxes)]
    return shared_area / np.maximum(areas[0] + areas[1] - shared_area, 1e-9)


def refine_points(points: np.ndarray, heatmaps: np.ndarray) -> np.ndarray:
    """Move points to the mean of their heatmaps around them, where those are sure.

    Args:
        points: Places `[J, 2]` as shares of the side of a region.
        heatmaps: Logits `[64, 64, J]`.

    Returns:
        Places `[J, 2]`: the mean of the 7 x 7 cells around a point, weighted by their probabilities, where one of
        these is at least one half; the point itself elsewhere.
    """
    rows, columns, count = heatmaps.shape
    refined = points.astype(float).copy()
    reach = _KERNEL // 2
    for joint in range(count):
        column, row = (int(value) for value in np.floor(points[joint] * [columns, rows]))
        first, last = max(0, column - reach), min(columns, column + reach + 1)
        top, bottom = max(0, row - reach), min(rows, row + reach + 1)
        if first >= last or top >= bottom:
            continue
        masses = logistic(heatmaps[top:bottom, first:last, joint])
        if masses.max() >= _MIN_PEAK:
            across, down = masses.sum(axis=0), masses.sum(axis=1)
            place = across @ np.arange(first, last), down @ np.arange(top, bottom)
            refined[joint] = np.array(place) / masses.sum() / [columns, rows]
    return refined


def logistic(logits: np.ndarray) -> np.ndarray:
    """The logistic function, for logits of any size."""
    # 1 / (1 + exp(-x)) = (1 + tanh(x / 2)) / 2, without an exponential that overflows.
    return 0.5 * (1 + np.tanh(0.5 * np.clip(logits, -100, 100)))

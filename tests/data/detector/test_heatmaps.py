"""Heatmaps say where joints are and how surely: simulated ones are right about both, and maps keep what they say."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import chisquare, multivariate_normal

from diffpose_jax.data.clips import Clip, ClipSet
from diffpose_jax.data.detector.heatmap_simulation import (
    HeatmapSettings,
    heatmap_clipset,
    heatmap_points,
    simulate_heatmaps,
)
from diffpose_jax.data.detector.heatmaps import (
    Box,
    Heatmaps,
    detect,
    draw_points,
    estimate,
    person_box,
    points_from_map,
    probabilities,
    render,
    weighted_cells,
)
from diffpose_jax.data.detector.keypoint_noise import DetectorSettings, corrupt_clipset
from diffpose_jax.errors import UserError
from diffpose_jax.skeleton import H36M_17

PIXELS = 500  # half an image of 1000 pixels: one normalised unit
SIZE = 48
JOINT = {name: index for index, name in enumerate(H36M_17.joints)}
simulate = jax.jit(simulate_heatmaps, static_argnums=3)
rendered = jax.jit(render, static_argnames=("size", "logits"))
detected = jax.jit(detect, static_argnums=2)
estimated = jax.jit(estimate, static_argnames="logits")


def walking(frames: int, turn: float = 0.9) -> tuple[np.ndarray, np.ndarray]:
    """Keypoints `[T, J, 2]` and poses `[T, J, 3]` of a person seen obliquely, legs crossing in the image, 5 m away."""
    places = {"hip": (0.13, 0, 0), "knee": (0.13, 0.45, 0), "ankle": (0.13, 0.9, 0.05),
              "shoulder": (0.16, -0.5, 0), "elbow": (0.2, -0.22, 0.02), "wrist": (0.2, 0.02, -0.05)}  # fmt: skip
    pose = np.zeros((frames, 17, 3))
    swing = 0.3 * np.sin(2 * np.pi * np.arange(frames) / 53)
    for side, sign in (("right", -1), ("left", 1)):
        for joint, (x, y, z) in places.items():
            far = {"knee": 0.6, "ankle": 1.0, "elbow": -0.5, "wrist": -0.9}.get(joint, 0)
            pose[:, JOINT[f"{side}_{joint}"]] = np.stack(
                [0 * swing + sign * x, 0 * swing + y, z + sign * far * swing], -1
            )
    for joint, y in {"spine": -0.25, "thorax": -0.5, "neck_nose": -0.6, "head_top": -0.75}.items():
        pose[:, JOINT[joint], 1] = y
    angle = turn + 0.5 * np.sin(2 * np.pi * np.arange(frames) / 400)
    cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]
    pose = np.stack(
        [cos * pose[..., 0] + sin * pose[..., 2], pose[..., 1], cos * pose[..., 2] - sin * pose[..., 0]], -1
    )
    pose = pose.astype(np.float32)
    return (2.29 * pose[..., :2] / (pose[..., 2:] + 5)).astype(np.float32), pose


@pytest.fixture(scope="module")
def seen():
    """A long walk with more confusion than usual: keypoints and heatmaps."""
    return walk_seen(50.0)


def walk_seen(fps: float, confusion: float = 0.1) -> tuple[np.ndarray, Heatmaps]:
    keypoints, poses = walking(3000)
    settings = HeatmapSettings(DetectorSettings(confusion=confusion))
    return keypoints, jax.tree.map(np.asarray, simulate(jax.random.key(0), keypoints, poses, H36M_17, settings, fps))


@pytest.fixture(scope="module")
def maps():
    """Keypoints, heatmaps, boxes and maps of 48 cells, at a frame per second: frames independent of each other."""
    keypoints, heatmaps = walk_seen(1.0, 0.3)
    keypoints, heatmaps = jax.tree.map(lambda array: array[::3], (keypoints, heatmaps))
    box = Box(*(np.asarray(part) for part in person_box(heatmaps)))
    return keypoints, heatmaps, box, np.asarray(rendered(heatmaps, box, size=SIZE))


def one_joint(weights, means, covariances) -> Heatmaps:
    """Heatmaps of one frame and one joint."""
    nothing = np.zeros((1, 1), bool)
    parts = (np.asarray(part, np.float32)[None, None] for part in (weights, means, covariances))
    return Heatmaps(*parts, nothing, nothing)


def follows(counts: np.ndarray, probabilities: np.ndarray) -> bool:
    """Whether cells were hit as often as they should be, by a chi-square test over the cells that matter."""
    often = probabilities > 5e-4
    expected = probabilities[often].astype(np.float64)
    return chisquare(counts[often], expected / expected.sum() * counts[often].sum()).pvalue > 1e-3


UNIT = Box(np.zeros((1, 2), np.float32), np.ones((1, 2), np.float32))


def test_a_map_is_the_integral_of_the_mixture_over_its_cells():
    weights, means = [0.7, 0.3], [[0.4, 0.55], [0.7, 0.3]]
    covariances = [[[0.004, 0.002], [0.002, 0.003]], [[0.01, -0.003], [-0.003, 0.006]]]
    found = np.asarray(render(one_joint(weights, means, covariances), UNIT, 24))[0, 0]
    fine = (np.arange(24 * 8) + 0.5) / (24 * 8)
    points = np.stack(np.meshgrid(fine, fine), axis=-1)  # [row, column, (x, y)]
    density = sum(
        w * multivariate_normal(m, c).pdf(points) for w, m, c in zip(weights, means, covariances, strict=True)
    )
    expected = density.reshape(24, 8, 24, 8).sum(axis=(1, 3))
    np.testing.assert_allclose(found, expected / expected.sum(), atol=1e-4)


def test_a_mode_far_narrower_than_a_cell_lies_in_its_cell():
    found = np.asarray(render(one_joint([1.0], [[0.3, 0.8]], [1e-8 * np.eye(2)]), UNIT, 10))[0, 0]
    assert found[7:9, 2:4].sum() > 0.999  # 0.8 and 0.3 are edges of cells: rows 7, 8 and columns 2, 3


def test_maps_add_up_to_one_and_logits_are_their_logarithms(maps):
    _, heatmaps, box, found = maps
    np.testing.assert_allclose(found.sum(axis=(-2, -1)), 1, rtol=1e-4)
    few = jax.tree.map(lambda array: array[:20], (heatmaps, box))
    logits = rendered(*few, size=SIZE, logits=True)
    np.testing.assert_allclose(np.asarray(probabilities(logits + 3, logits=True)), found[:20], atol=1e-6)
    places = [estimated(logits, few[1], logits=True)[0], estimated(7 * found[:20], few[1])[0]]
    np.testing.assert_allclose(*places, atol=1e-5)


def share_within(levels: np.ndarray, region: float) -> float:
    return float((levels < region).mean())


def test_the_true_joint_is_where_the_heatmap_says(maps):
    keypoints, heatmaps, box, found = maps
    cell = np.floor((keypoints - box.corner[:, None]) / box.extent[:, None] * SIZE).astype(int)
    inside = ((cell >= 0) & (cell < SIZE)).all(axis=-1)
    assert inside.mean() > 0.999
    flat, cell = found.reshape(*found.shape[:2], -1), np.clip(cell, 0, 63)
    own = np.take_along_axis(flat, (cell[..., 1] * SIZE + cell[..., 0])[..., None], axis=-1)
    # The smallest region with the true joint in it, a cell's worth at random: uniform where heatmaps are right.
    level = (
        np.where(flat > own, flat, 0).sum(axis=-1) + np.random.default_rng(0).uniform(size=inside.shape) * own[..., 0]
    )
    kinds = {"all": inside, "occluded": heatmaps.occluded, "confused": heatmaps.confused}
    for kind, chosen in kinds.items():
        assert chosen.sum() > 1000, kind
        for region in (0.5, 0.9):
            assert abs(share_within(level[chosen], region) - region) < 0.03, (kind, region)


def test_hidden_and_confused_joints_have_a_second_mode(seen):
    _, heatmaps = seen
    calm = ~heatmaps.occluded & ~heatmaps.confused
    weight = {name: heatmaps.weights[..., number] for number, name in enumerate(("joint", "elsewhere", "partner"))}
    assert weight["elsewhere"][heatmaps.occluded].mean() > 5 * weight["elsewhere"][calm].mean()
    assert (weight["partner"][heatmaps.confused] >= 0.09).all()
    assert (weight["partner"][~heatmaps.confused] == 0).all()
    np.testing.assert_allclose(heatmaps.weights.sum(axis=-1), 1, rtol=1e-5)
    area = np.sqrt(np.linalg.det(heatmaps.covariances[..., 0, :, :]))
    ankle = JOINT["right_ankle"], JOINT["left_ankle"]
    hidden = heatmaps.occluded[:, ankle]
    assert area[:, ankle][hidden].mean() > 1.5 * area[:, ankle][~hidden].mean()


def test_a_confused_limb_has_a_mode_at_both_places(seen):
    keypoints, heatmaps = seen
    frames, joints = np.nonzero(heatmaps.confused)
    partner = np.array(H36M_17.flip_order)[joints]
    modes = heatmaps.means[frames, joints][:, [0, 2]]
    gaps = {
        name: np.linalg.norm(modes - keypoints[frames, j][:, None], axis=-1).min(axis=-1)
        for name, j in (("own", joints), ("partner", partner))
    }
    for gap in gaps.values():
        assert np.median(gap) * PIXELS < 12
    limb = [JOINT[f"{side}_{joint}"] for side in ("left", "right") for joint in ("knee", "ankle")]
    together = heatmaps.confused[:, limb]
    np.testing.assert_array_equal(together.any(axis=-1), together.all(axis=-1))


def test_heatmaps_on_limbs_are_longer_along_the_limb(seen):
    keypoints, heatmaps = seen
    knee, hip = JOINT["left_knee"], JOINT["left_hip"]
    bone = keypoints[:, knee] - keypoints[:, hip]
    bone = bone / np.linalg.norm(bone, axis=-1, keepdims=True)
    covariance = heatmaps.covariances[:, knee, 0]
    along = np.einsum("ti,tij,tj->t", bone, covariance, bone)
    assert (along > 1.5 * (np.trace(covariance, axis1=-2, axis2=-1) - along)).all()


def test_estimates_are_the_highest_places_of_maps(maps):
    _, heatmaps, box, found = maps
    places, scores = (np.asarray(part) for part in estimated(found, box))
    cells = (places - box.corner[:, None]) / box.extent[:, None] * SIZE
    highest = found.reshape(*found.shape[:2], -1).argmax(axis=-1)
    off = np.abs(cells - np.stack([highest % SIZE, highest // SIZE], axis=-1) - 0.5).max(axis=-1)
    assert np.quantile(off, 0.99) < 1.2
    assert ((scores > 0) & (scores < 1.001)).all()
    sure = heatmaps.weights[..., 0] > 0.97
    gap = np.linalg.norm(places - heatmaps.means[..., 0, :], axis=-1)[sure]
    cell = box.extent.mean() / SIZE
    assert np.median(gap) < 0.25 * cell
    assert np.quantile(gap, 0.95) < 0.5 * cell
    calm = ~heatmaps.occluded & ~heatmaps.confused
    assert scores[calm].mean() > scores[heatmaps.occluded].mean() + 0.05
    assert scores[calm].mean() > scores[heatmaps.confused].mean() + 0.1


def test_detecting_without_maps_finds_what_the_maps_give(maps):
    _, heatmaps, box, found = maps
    with_maps, without = estimated(found, box), detected(heatmaps, box, SIZE)
    gap = np.abs(np.asarray(with_maps[0]) - np.asarray(without[0])).max(axis=-1) / box.extent[:, :1] * SIZE
    assert np.quantile(gap, 0.99) < 0.02
    np.testing.assert_allclose(np.median(np.asarray(with_maps[1] - without[1])), 0, atol=1e-3)


def test_resolution_changes_little(maps):
    keypoints, heatmaps, box, _ = maps
    size = {
        cells: np.linalg.norm(np.asarray(detected(heatmaps, box, cells)[0]) - keypoints, axis=-1).mean()
        for cells in (64, 128)
    }
    np.testing.assert_allclose(size[64], size[128], rtol=0.07)


def test_a_mirrored_heatmap_gives_the_mirrored_map(maps):
    _, heatmaps, box, found = maps
    few, order = jax.tree.map(lambda array: array[:20], heatmaps), np.array(H36M_17.flip_order)
    sign = np.array([-1, 1], np.float32)
    other = Heatmaps(
        few.weights[:, order],
        few.means[:, order] * sign,
        few.covariances[:, order] * (sign[:, None] * sign),
        few.occluded,
        few.confused,
    )
    mirrored = person_box(other)
    np.testing.assert_allclose(np.asarray(mirrored.corner + mirrored.extent)[:, 0], -box.corner[:20, 0], atol=1e-6)
    turned = np.asarray(rendered(other, mirrored, size=SIZE))
    np.testing.assert_allclose(turned, found[:20][:, order, :, ::-1], atol=1e-4)
    here, there = estimated(found[:20], Box(*(part[:20] for part in box)))[0], estimated(turned, mirrored)[0]
    np.testing.assert_allclose(np.asarray(there)[..., 0], -np.asarray(here)[:, order, 0], atol=2e-4)


def test_points_of_a_map_follow_it():
    found = render(one_joint([0.6, 0.4], [[0.3, 0.5], [0.6, 0.4]], 0.01 * np.stack([np.eye(2)] * 2)), UNIT, 8)
    points = np.asarray(points_from_map(jax.random.key(1), found, UNIT, 20000))[0, 0]
    cell = np.floor(points * 8).astype(int)
    counts = np.bincount(cell[:, 1] * 8 + cell[:, 0], minlength=64)
    expected = np.asarray(found)[0, 0].ravel()
    assert follows(counts, expected)
    within = points * 8 - cell
    np.testing.assert_allclose(within.mean(axis=0), 0.5, atol=0.01)
    np.testing.assert_allclose(within.var(axis=0), 1 / 12, atol=0.003)


def test_points_drawn_without_maps_follow_the_mixture_or_its_cells():
    covariance = np.array([[0.02, 0.01], [0.01, 0.01]])
    heatmaps = one_joint([0.75, 0.25], [[0.5, 0.5], [0.4, 0.6]], 0.2 * np.stack([covariance] * 2))
    keys = jax.random.key(2)[None]
    points = np.asarray(draw_points(keys, heatmaps, 20000))[0, 0]
    mean = 0.75 * np.array([0.5, 0.5]) + 0.25 * np.array([0.4, 0.6])
    np.testing.assert_allclose(points.mean(axis=0), mean, atol=2e-3)
    between = 0.75 * 0.25 * np.outer([0.1, -0.1], [0.1, -0.1])
    np.testing.assert_allclose(np.cov(points.T), 0.2 * covariance + between, atol=1.5e-4)
    found = np.asarray(draw_points(keys, heatmaps, 20000, UNIT, 8))[0, 0]
    counts = np.bincount((np.floor(found * 8) @ np.array([1, 8])).astype(int), minlength=64)
    expected = np.asarray(render(heatmaps, UNIT, 8))[0, 0].ravel()
    assert follows(counts, expected)


def test_weighted_cells_are_the_best_ones_and_tell_the_mean():
    """A detector's own map, numpy, neither square nor normalised, slightly negative where nothing is."""
    rows, columns = np.mgrid[:48, :36]
    found = np.exp(-((rows - 20) ** 2 + (columns - 11) ** 2) / 8) * 0.9 - 1e-3
    box = Box(np.array([-0.2, -0.4]), np.array([0.36, 0.48]))  # cells of 0.01
    points, weights = (np.asarray(part)[0] for part in weighted_cells(found[None], box, 60))
    np.testing.assert_allclose(weights.sum(), 1, rtol=1e-5)
    np.testing.assert_allclose(weights @ points, [-0.085, -0.195], atol=3e-4)  # ties at the rim
    np.testing.assert_allclose(np.asarray(estimate(found[None], box)[0])[0], [-0.085, -0.195], atol=1e-4)
    drawn = np.asarray(points_from_map(jax.random.key(0), found[None], box, 4000))[0]
    np.testing.assert_allclose(drawn.mean(axis=0), [-0.085, -0.195], atol=2e-3)
    with pytest.raises(UserError, match="expected 1 to 1728 cells of a map, found 0"):
        weighted_cells(found[None], box, 0)
    with pytest.raises(UserError, match=r"expected \[..., rows, columns\], found \[36\]"):
        estimate(found[0], box)


def test_noise_moves_estimates_and_leaves_probabilities(maps):
    _, heatmaps, box, found = maps
    few, place = jax.tree.map(lambda array: array[:20], (heatmaps, box))
    noisy = np.asarray(rendered(few, place, size=SIZE, key=jax.random.key(0), noise=0.3))
    np.testing.assert_allclose(noisy.sum(axis=(-2, -1)), 1, rtol=1e-4)
    moved = np.abs(np.asarray(estimated(noisy, place)[0] - estimated(found[:20], place)[0]))
    assert 0 < np.median(moved) * PIXELS < 3


def correlation(errors: np.ndarray, lag: int) -> float:
    errors = (errors - errors.mean(axis=0)) / errors.std(axis=0)
    return float((errors[lag:] * errors[:-lag]).mean())


def test_errors_last_as_long_as_the_detectors(seen):
    keypoints, heatmaps = seen
    errors = np.asarray(detected(heatmaps, person_box(heatmaps), 64)[0]) - keypoints
    lag = 4  # frames, the persistence of 0.08 s at 50 frames per second
    assert 0.5 * np.exp(-1) < correlation(errors[:, JOINT["neck_nose"]], lag) < 1.3 * np.exp(-1)
    elsewhere = heatmaps.means[..., 1, :] - heatmaps.means[..., 0, :]
    assert correlation(elsewhere[:, JOINT["neck_nose"]], lag) > 0.5  # 0.3 s


def clipset(lengths=(400, 150), poses=True) -> ClipSet:
    clips = []
    for number, length in enumerate(lengths):
        keypoints, pose = walking(length, 0.4 + number)
        clips.append(Clip(keypoints, pose if poses else None, None, f"S{number}", "walking"))
    return ClipSet.build(clips, H36M_17)


def test_keypoints_of_heatmaps_err_like_simulated_detections():
    exact = clipset((2000, 2000))
    found, detected = heatmap_clipset(exact, 3), corrupt_clipset(exact, 3)
    error, reference = (np.linalg.norm(one.keypoints - exact.keypoints, axis=-1) * PIXELS for one in (found, detected))
    assert 0.75 < error.mean() / reference.mean() < 1.15
    np.testing.assert_allclose(error.mean(axis=0), reference.mean(axis=0), rtol=0.35)
    assert np.quantile(error, 0.99) > 4 * np.median(error)  # heavy-tailed
    stronger = heatmap_clipset(exact, 3, strength=2.0)
    assert 1.7 < np.linalg.norm(stronger.keypoints - exact.keypoints, axis=-1).mean() * PIXELS / error.mean() < 2.3


def test_a_set_seen_through_heatmaps_says_what_was_seen():
    exact = clipset()
    found, again, other = (heatmap_clipset(exact, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(found.keypoints, again.keypoints)
    assert np.abs(found.keypoints - other.keypoints).max() > 1e-3
    assert found.visibility.shape == found.scores.shape == exact.keypoints.shape[:2]
    assert 0.02 < (found.visibility == 1).mean() < 0.5
    error = np.linalg.norm(found.keypoints - exact.keypoints, axis=-1)
    assert error[found.visibility == 1].mean() > 1.5 * error[found.visibility == 0].mean()
    np.testing.assert_array_equal(found.poses, exact.poses)
    with pytest.raises(UserError, match="expected a data set with 3D poses"):
        heatmap_clipset(clipset(poses=False), 0)
    with pytest.raises(UserError, match="expected a strength above 0, found 0"):
        heatmap_clipset(exact, 0, strength=0.0)


def test_points_belong_to_the_frames_and_do_not_depend_on_the_chunk():
    exact = clipset((200, 150))
    parts, others = ({int(n): p for f, ps in heatmap_points(exact, 1, num_points=64, chunk=size) for n, p in
                      zip(f, np.asarray(ps), strict=True)} for size in (64, 100))  # fmt: skip
    assert list(parts) == list(range(350))
    points = np.stack([parts[n] for n in range(350)])
    np.testing.assert_allclose(points, np.stack([others[n] for n in range(350)]), atol=1e-6)
    found = heatmap_clipset(exact, 1)
    calm = found.visibility == 0
    gap = np.linalg.norm(np.median(points, axis=2) - found.keypoints, axis=-1)
    assert np.median(gap[calm]) * PIXELS < 2
    assert np.abs(points[1:] - points[:-1]).max() > 0.01  # frames have their own draws


def test_simulated_heatmaps_need_nothing_but_their_arguments():
    keypoints, poses = walking(130)
    first, again = (simulate(jax.random.key(5), keypoints, poses, H36M_17) for _ in range(2))
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))
        assert jnp.isfinite(one).all()
    larger = simulate(jax.random.key(5), 3 * keypoints, poses, H36M_17)
    np.testing.assert_allclose(np.asarray(larger.means), 3 * np.asarray(first.means), atol=1e-4)

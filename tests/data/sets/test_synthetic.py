"""The synthetic people: rigid bones, human joints, planted feet, two alike sides, and other people in every split."""

from __future__ import annotations

import numpy as np
import pytest

from diffpose_jax import geometry
from diffpose_jax.data.motion import Motion
from diffpose_jax.data.sets.synthetic import generate_motion, load_synthetic, mirror
from diffpose_jax.data.synthesis.body import LIMITS, Posture, draw_body, joint_rotations, pose, reachable_height
from diffpose_jax.data.synthesis.courses import FPS, glide
from diffpose_jax.data.synthesis.motion_programmes import PROGRAMMES
from diffpose_jax.errors import UserError
from diffpose_jax.skeleton import H36M_17

SUBJECTS, FRAMES = 6, 250
STANDING = ("reach", "squat", "sit", "wave")


@pytest.fixture(scope="module")
def motions() -> list[Motion]:
    return generate_motion(7, subjects=SUBJECTS, frames=FRAMES)


@pytest.fixture(scope="module")
def joints(motions: list[Motion]) -> dict[str, np.ndarray]:
    """Every joint's path over all clips, `[clips, FRAMES, 3]`."""
    positions = np.stack([motion.positions for motion in motions]).astype(np.float64)
    return dict(zip(H36M_17.joints, np.moveaxis(positions, 2, 0), strict=True))


def of(motions: list[Motion], path: np.ndarray, *actions: str) -> np.ndarray:
    return path[[motion.action in actions for motion in motions]]


def angle(joints: dict[str, np.ndarray], above: str, joint: str, below: str) -> np.ndarray:
    """By how many degrees a joint is bent; 0 is straight."""
    first, second = joints[joint] - joints[above], joints[below] - joints[joint]
    cosine = np.sum(first * second, -1) / np.linalg.norm(first, axis=-1) / np.linalg.norm(second, axis=-1)
    return np.degrees(np.arccos(np.clip(cosine, -1, 1)))


def forward(joints: dict[str, np.ndarray]) -> np.ndarray:
    """The horizontal direction the pelvis faces."""
    left = joints["left_hip"] - joints["right_hip"]
    ahead = np.stack([left[..., 1], -left[..., 0], np.zeros_like(left[..., 0])], axis=-1)
    return ahead / np.linalg.norm(ahead, axis=-1, keepdims=True)


def test_bones_keep_their_length_and_people_differ(motions: list[Motion]):
    lengths = []
    for motion in motions:
        bones = [np.linalg.norm(motion.positions[:, c] - motion.positions[:, p], axis=-1) for c, p in H36M_17.bones]
        assert np.ptp(bones, axis=1).max() < 1e-4
        lengths.append(np.mean(bones, axis=1))
    own = np.array(lengths).reshape(SUBJECTS, len(PROGRAMMES), -1)
    np.testing.assert_allclose(own, np.broadcast_to(own[:, :1], own.shape), atol=1e-4)
    assert np.linalg.norm(own[0, 0] - own[1, 0]) > 0.02


def test_statures_are_human(motions: list[Motion], joints: dict[str, np.ndarray]):
    tall = of(motions, joints["head_top"][..., 2], "wave").max(axis=1)
    assert (tall > 1.35).all()
    assert (tall < 2.0).all()


def test_knees_bend_forward_and_elbows_bend_the_right_way(joints: dict[str, np.ndarray]):
    low, high = LIMITS["knee"]
    for side in ("left", "right"):
        hip, knee, ankle = (joints[f"{side}_{part}"] for part in ("hip", "knee", "ankle"))
        bend = angle(joints, f"{side}_hip", f"{side}_knee", f"{side}_ankle")
        assert bend.min() > low - 0.5
        assert bend.max() < high + 0.5
        # The knee lies before the line from hip to ankle wherever the leg is clearly bent and points down.
        line = ankle - hip
        share = np.sum((knee - hip) * line, -1, keepdims=True) / np.sum(line**2, -1, keepdims=True)
        ahead = np.sum((knee - hip - share * line) * forward(joints), -1)
        assert (ahead[bend > 15] > 0).all()
        elbow = angle(joints, f"{side}_shoulder", f"{side}_elbow", f"{side}_wrist")
        assert elbow.min() > LIMITS["arms"][3][0] - 0.5
        assert elbow.max() < LIMITS["arms"][3][1] + 0.5


def test_hanging_arms_bend_their_elbows_forward(motions: list[Motion], joints: dict[str, np.ndarray]):
    walking = {name: of(motions, path, "walk", "jog") for name, path in joints.items()}
    for side in ("left", "right"):
        shoulder, elbow, wrist = (walking[f"{side}_{part}"] for part in ("shoulder", "elbow", "wrist"))
        upper = elbow - shoulder
        along = np.sum((wrist - elbow) * upper, -1, keepdims=True) / np.sum(upper**2, -1, keepdims=True)
        across = np.sum((wrist - elbow - along * upper) * forward(walking), -1)
        assert (across > 0).mean() > 0.99


def test_feet_stay_above_the_floor_and_one_carries_the_person(motions: list[Motion], joints: dict[str, np.ndarray]):
    ankles = np.stack([joints["left_ankle"][..., 2], joints["right_ankle"][..., 2]])
    assert ankles.min() > 0.04
    lower = ankles.min(axis=0)
    assert of(motions, lower, *STANDING, "turn").max() < 0.09
    assert of(motions, lower, "walk").max() < 0.12
    # Only a runner has both feet in the air.
    assert of(motions, lower, "jog").max(axis=1).min() > 0.12


def test_standing_feet_do_not_move_and_walking_feet_do_not_slide(motions: list[Motion], joints: dict[str, np.ndarray]):
    speed = {
        side: np.linalg.norm(np.diff(joints[f"{side}_ankle"], axis=1), axis=-1) * FPS for side in ("left", "right")
    }
    for side in speed:
        assert of(motions, speed[side], *STANDING).max() < 0.05
    # In a walk one foot is always planted: the slower ankle stands still, or rolls over the ball of its foot.
    slower = np.minimum(speed["left"], speed["right"])
    walking = of(motions, slower, "walk", "turn", "step_up")
    assert np.median(walking) < 0.03
    assert np.percentile(walking, 95) < 0.6
    travel = np.linalg.norm(np.diff(of(motions, joints["pelvis"], "walk"), axis=1), axis=-1).mean() * FPS
    assert travel > 0.6


def test_arms_swing_opposite_the_legs(motions: list[Motion], joints: dict[str, np.ndarray]):
    ahead = {
        name: np.sum((joints[name] - joints["pelvis"]) * forward(joints), -1)
        for name in ("left_wrist", "left_ankle", "right_wrist", "right_ankle")
    }
    arms = of(motions, ahead["left_wrist"] - ahead["right_wrist"], "walk", "jog")
    legs = of(motions, ahead["left_ankle"] - ahead["right_ankle"], "walk", "jog")
    for arm, leg in zip(arms, legs, strict=True):
        assert np.corrcoef(arm, leg)[0, 1] < -0.6


def test_speeds_and_accelerations_are_human(motions: list[Motion], joints: dict[str, np.ndarray]):
    for name, path in joints.items():
        velocity = np.diff(path, axis=1) * FPS
        speed, acceleration = (
            np.linalg.norm(velocity, axis=-1),
            np.linalg.norm(np.diff(velocity, axis=1), axis=-1) * FPS,
        )
        limit = 8.5 if name.endswith(("ankle", "knee")) else 6.0
        assert speed.max() < limit, name
        assert acceleration.max() < 250, name


def test_each_programme_does_what_it_says(motions: list[Motion], joints: dict[str, np.ndarray]):
    height = {name: joints[name][..., 2] for name in joints}
    pelvis = {action: of(motions, height["pelvis"], action) for action in PROGRAMMES}
    assert (pelvis["sit"].min(axis=1) < 0.56).all()
    assert (np.ptp(pelvis["squat"], axis=1) > 0.15).all()
    assert (np.ptp(pelvis["step_up"], axis=1) > 0.08).all()
    raised = [height[f"{side}_wrist"] - height[f"{side}_shoulder"] for side in ("left", "right")]
    assert (of(motions, np.maximum(*raised), "wave").max(axis=1) > 0.1).all()
    assert of(motions, np.maximum(*raised), "walk").max() < 0
    facing = np.unwrap(np.arctan2(forward(joints)[..., 1], forward(joints)[..., 0]), axis=1)
    assert (np.ptp(of(motions, facing, "turn"), axis=1) > 0.5).all()
    assert np.ptp(of(motions, facing, *STANDING), axis=1).max() < 0.2
    speeds = np.linalg.norm(np.diff(joints["pelvis"][..., :2], axis=1), axis=-1).mean(axis=1) * FPS
    assert of(motions, speeds, "jog").min() > 2.0
    assert np.ptp(of(motions, speeds, "walk")) > 0.3
    out = [np.linalg.norm(joints[f"{side}_wrist"] - joints["pelvis"], axis=-1) for side in ("left", "right")]
    assert (np.ptp(of(motions, np.maximum(*out), "reach"), axis=1) > 0.2).all()


def test_left_and_right_are_alike_in_distribution():
    many = generate_motion(11, subjects=40, frames=60, actions=("wave", "reach", "walk"))
    pose_ = np.stack([motion.positions - motion.positions[:, :1] for motion in many])
    image = np.stack([mirror(motion.positions - motion.positions[:, :1]) for motion in many])
    height = H36M_17.joints.index("left_wrist"), H36M_17.joints.index("right_wrist")
    left, right = (pose_[:, :, joint, 2].mean(axis=1) for joint in height)
    # The mean difference of 120 clips lies within three standard errors of zero.
    assert abs((left - right).mean()) < 3 * (left - right).std() / np.sqrt(len(many))
    assert (left - right).std() > 0.1
    np.testing.assert_allclose(image[..., 0, :], 0, atol=1e-6)
    np.testing.assert_array_equal(mirror(mirror(many[0].positions)), many[0].positions)


def test_motion_is_a_function_of_the_seed_and_of_nothing_else():
    options = {"subjects": 2, "frames": 40, "actions": ("walk", "sit")}
    first, again, other = generate_motion(3, **options), generate_motion(3, **options), generate_motion(4, **options)
    for one, two, three in zip(first, again, other, strict=True):
        np.testing.assert_array_equal(one.positions, two.positions)
        assert np.abs(one.positions - three.positions).max() > 0.01
    alone = generate_motion(3, subjects=2, frames=40, actions=("sit",))
    np.testing.assert_allclose(alone[0].positions, first[1].positions, atol=1e-6)


@pytest.fixture(scope="module")
def splits() -> dict:
    return load_synthetic(1, subjects=6, frames=60)


def test_splits_hold_different_people_seen_whole(splits: dict):
    people = {name: set(clips.subject) for name, clips in splits.items()}
    assert sum(map(len, people.values())) == len(set.union(*people.values())) == 6
    assert all(people.values())
    for clips in splits.values():
        assert set(clips.action) <= set(PROGRAMMES)
        assert np.abs(clips.keypoints).max() < 1
        np.testing.assert_array_equal(clips.poses[:, 0], 0)
        points = clips.poses + clips.root[:, None]
        np.testing.assert_allclose(geometry.project(points, clips.frame_camera()), clips.keypoints, atol=1e-5)
        head, ankle = H36M_17.joints.index("head_top"), H36M_17.joints.index("left_ankle")
        assert (clips.keypoints[:, head, 1] < clips.keypoints[:, ankle, 1]).mean() > 0.97
    total = sum(clips.num_frames for clips in splits.values())
    assert 0.8 * 6 * len(PROGRAMMES) * 60 * 2 < total <= 6 * len(PROGRAMMES) * 60 * 2


def test_loading_is_deterministic(splits: dict):
    again = load_synthetic(1, subjects=6, frames=60)
    for name, clips in splits.items():
        np.testing.assert_array_equal(clips.keypoints, again[name].keypoints)
        np.testing.assert_array_equal(clips.poses, again[name].poses)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"actions": ("walk", "fly")}, "actions: expected some of walk, .* found fly"),
        ({"frames": 0}, "frames: expected a number of at least 1, found 0"),
        (
            {"cameras_per_clip": 99, "subjects": 1, "frames": 30, "actions": ("wave",)},
            "cameras_per_clip: expected 1 to 12",
        ),
    ],
)
def test_requests_that_cannot_be_met_are_refused(options: dict, message: str):
    with pytest.raises(UserError, match=message):
        load_synthetic(0, **options)


def test_legs_reach_exactly_for_ankles_within_reach():
    rng = np.random.default_rng(0)
    body = draw_body(rng)
    posture = Posture.standing(body, 50)
    posture.heading = rng.uniform(-3, 3, 50)
    posture.tilt, posture.list = rng.uniform(-0.2, 0.5, 50), rng.uniform(-0.15, 0.15, 50)
    posture.toes = posture.heading[:, None] + rng.uniform(-0.3, 0.3, (50, 2))
    posture.ankles += rng.uniform(-0.25, 0.25, (50, 2, 3))
    posture.pelvis[:, 2] = reachable_height(body, posture) - rng.uniform(0, 0.3, 50)
    offsets = np.broadcast_to(body.offsets(), (50, 17, 3))
    positions = pose(joint_rotations(body, posture), offsets, posture.pelvis)
    ankles = positions[:, [H36M_17.joints.index("left_ankle"), H36M_17.joints.index("right_ankle")]]
    np.testing.assert_allclose(ankles, posture.ankles, atol=1e-4)


def test_a_glide_passes_through_its_keys_and_rests_there():
    course = glide(101, [0.0, 1.0, 2.0], np.array([[0.0], [2.0], [-1.0]]))[:, 0]
    np.testing.assert_allclose(course[[0, 50, 100]], [0, 2, -1], atol=1e-9)
    np.testing.assert_allclose(np.diff(course)[[0, 49, 50, 99]] * FPS, 0, atol=0.05)

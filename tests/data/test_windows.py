"""Windows gathered on the device are those of a plain numpy generator, edges padded, every frame covered."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffpose_jax.data.clip import Clip
from diffpose_jax.data.clips import ClipSet
from diffpose_jax.data.windows import (
    WINDOW_KINDS,
    centred_windows,
    device_clips,
    draw_starts,
    end_aligned_windows,
    gather,
    tiled_windows,
    training_windows,
    unpadded_windows,
    window_frames,
)
from diffpose_jax.errors import UserError
from diffpose_jax.skeleton import H36M_17, mirror

LENGTHS = (13, 1, 40, 5)


@pytest.fixture(scope="module")
def clips() -> ClipSet:
    rng = np.random.default_rng(0)

    def clip(length: int) -> Clip:
        poses = rng.normal(size=(length, 17, 3)).astype(np.float32)
        return Clip(rng.normal(size=(length, 17, 2)).astype(np.float32), poses - poses[:, :1], None, "S1", "walk")

    return ClipSet.build([clip(length) for length in LENGTHS], H36M_17)


def padded_window(array: np.ndarray, first: int, frames: int) -> np.ndarray:
    """A window of one clip's array as numpy slices and pads it, its edges repeated."""
    inside = array[max(first, 0) : max(min(first + frames, len(array)), 0)]
    before = max(0, -first)
    return np.pad(inside, [(before, frames - before - len(inside)), (0, 0), (0, 0)], "edge")


@pytest.mark.parametrize("frames", [1, 3, 27])
@pytest.mark.parametrize("stride", [1, 4])
def test_centred_windows_equal_a_numpy_generator(clips, frames, stride):
    windows = centred_windows(clips, frames, stride)
    expected = [
        [padded_window(array, middle - frames // 2, frames) for array in (clips.clip(c).keypoints, clips.clip(c).poses)]
        for c, length in enumerate(LENGTHS)
        for middle in range(0, length, stride)
    ]
    ids = jnp.arange(len(windows.start), dtype=jnp.int32)
    batch = jax.jit(gather, static_argnums=3)(device_clips(clips), windows, ids, frames)
    assert len(ids) == len(expected)
    np.testing.assert_array_equal(batch.keypoints, np.stack([keypoints for keypoints, _ in expected]))
    np.testing.assert_array_equal(batch.poses, np.stack([poses for _, poses in expected]))
    np.testing.assert_array_equal(batch.mask, np.ones((len(ids), frames, 17)))
    np.testing.assert_array_equal(batch.index, ids)


@pytest.mark.parametrize("frames", [1, 3, 27])
def test_tiled_windows_hold_every_frame_exactly_once(clips, frames):
    windows = tiled_windows(clips, frames)
    number, inside = window_frames(windows, jnp.arange(len(windows.start), dtype=jnp.int32), frames)
    np.testing.assert_array_equal(np.sort(np.asarray(number)[np.asarray(inside)]), np.arange(clips.num_frames))


def clips_of(*lengths: int) -> ClipSet:
    """Clips of these lengths, all joints at zero."""
    zeros = [np.zeros((n, 17, 3), np.float32) for n in lengths]
    return ClipSet.build([Clip(pose[..., :2], pose, None, "S1", "walk") for pose in zeros], H36M_17)


_window_frames = jax.jit(window_frames, static_argnums=2)
MOST = 160  # windows of a test; padding to as many compiles once for each length of a window


def frames_of(windows, frames: int) -> tuple[np.ndarray, np.ndarray]:
    """The frames `[W, F]` of all windows, and which lie inside their clip."""
    count = len(windows.start)
    padded = jax.tree.map(lambda part: np.pad(part, (0, MOST - count), mode="edge"), windows)
    index, inside = _window_frames(padded, np.arange(MOST, dtype=np.int32), frames)
    return np.asarray(index)[:count], np.asarray(inside)[:count]


def test_tiles_share_their_padding_between_both_ends():
    found, inside = frames_of(tiled_windows(clips_of(20), 9), 9)
    np.testing.assert_array_equal(found, [[0, 0, 0, 0, 1, 2, 3, 4, 5], np.arange(6, 15), [15, 16, 17, 18] + [19] * 5])
    assert inside.sum() == 20


def test_the_last_evaluation_window_ends_with_its_clip():
    found, inside = frames_of(end_aligned_windows(clips_of(20, 3), 9), 9)
    expected = [np.arange(0, 9), np.arange(9, 18), np.arange(11, 20), [20, 21] + [22] * 7]
    np.testing.assert_array_equal(found, expected)
    assert inside[:3].all()
    assert inside[3].sum() == 3


def test_unpadded_windows_leave_the_remainder_of_a_clip_out():
    found, inside = frames_of(unpadded_windows(clips_of(20, 3, 9), 9), 9)
    np.testing.assert_array_equal(found, [np.arange(0, 9), np.arange(9, 18), np.arange(23, 32)])
    assert inside.all()
    with pytest.raises(UserError, match=r"at least 10 frames.*longest has 9"):
        unpadded_windows(clips_of(4, 9), 10)


def counted_once(windows, frames: int) -> np.ndarray:
    """Which slots `[W, F]` of windows show a frame inside their clip that no window before them shows."""
    index, inside = frames_of(windows, frames)
    first = np.zeros(index.size, bool)
    shown = np.flatnonzero(inside)
    first[shown[np.unique(index.ravel()[shown], return_index=True)[1]]] = True
    return first.reshape(index.shape)


@settings(max_examples=12, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=4), st.sampled_from([1, 2, 5, 9, 12]))
def test_every_frame_is_covered_and_counted_once(lengths, frames):
    clips = clips_of(*lengths)
    for make in (centred_windows, tiled_windows, end_aligned_windows):
        windows = make(clips, frames)
        found, inside = frames_of(windows, frames)
        assert set(found[inside]) == set(range(clips.num_frames))
        counted = counted_once(windows, frames)
        np.testing.assert_array_equal(np.sort(found[counted]), np.arange(clips.num_frames))
        assert not np.any(counted & ~inside)
        owner = clips.frame_clip()[found]
        np.testing.assert_array_equal(owner, np.broadcast_to(owner[:, :1], owner.shape))


def test_a_frame_counts_in_the_first_window_that_shows_it():
    counted = counted_once(end_aligned_windows(clips_of(12), 9), 9)
    np.testing.assert_array_equal(counted, [[True] * 9, [False] * 6 + [True] * 3])


@pytest.mark.parametrize(("release", "expected"), [(False, {13, 14, 15, 16}), (True, {13, 14, 15})])
def test_starts_are_drawn_from_all_that_fit_and_in_the_release_from_all_but_the_last(release, expected):
    windows = unpadded_windows(clips_of(13, 12), 9)
    many = jax.tree.map(lambda part: jnp.repeat(part[1:], 400), windows)
    keys = jax.random.split(jax.random.key(0), 400)
    starts = np.asarray(draw_starts(keys, many, 9, release=release).start)
    counts = [int(np.sum(starts == start)) for start in sorted(expected)]
    assert set(starts) == expected
    assert min(counts) > 0.7 * 400 / len(expected)
    only_one_fits = many._replace(low=many.high - 8)
    np.testing.assert_array_equal(draw_starts(keys, only_one_fits, 9, release=release).start, 16)


@pytest.mark.parametrize(("kind", "count"), [("centred", 29), ("tiled", 4), ("random", 3), ("random_release", 3)])
def test_an_epoch_has_a_window_per_frame_or_one_per_length(kind, count):
    assert len(training_windows(clips_of(20, 9), 9, kind).start) == count
    assert kind in WINDOW_KINDS


def test_an_unknown_kind_of_windows_is_told_with_those_there_are():
    with pytest.raises(UserError, match=r"centred, tiled, random.*'sliding'"):
        training_windows(clips_of(20), 9, "sliding")


@pytest.mark.parametrize("make", [centred_windows, tiled_windows, end_aligned_windows])
def test_windows_never_cross_from_one_clip_into_the_next(clips, make):
    windows = make(clips, 27)
    number, inside = window_frames(windows, jnp.arange(len(windows.start), dtype=jnp.int32), 27)
    clip_of = clips.frame_clip()[np.asarray(number)]
    np.testing.assert_array_equal(clip_of, np.broadcast_to(clip_of[:, :1], clip_of.shape))
    outside = np.asarray(number)[~np.asarray(inside)]
    assert set(outside) <= set(clips.clip_start) | set(clips.clip_start + clips.clip_length - 1)


def test_a_set_without_poses_gives_zeros_and_one_without_clips_is_refused(clips):
    keypoints_only = ClipSet.build([clips.clip(0)._replace(poses=None)], H36M_17)
    assert not np.any(device_clips(keypoints_only).poses)
    for make in (device_clips, lambda empty: centred_windows(empty, 3), lambda empty: tiled_windows(empty, 3)):
        with pytest.raises(UserError, match="at least one clip"):
            make(clips.select([]))


def test_mirroring_twice_is_nothing_and_once_swaps_the_sides(clips):
    for array in (clips.keypoints, clips.poses):
        once = mirror(array, H36M_17)
        np.testing.assert_array_equal(mirror(once, H36M_17), array)
        left, right = H36M_17.joints.index("left_wrist"), H36M_17.joints.index("right_wrist")
        np.testing.assert_array_equal(once[:, left, 0], -array[:, right, 0])
        np.testing.assert_array_equal(once[:, left, 1:], array[:, right, 1:])


def test_the_mask_is_the_score_and_no_stand_in_reaches_the_device(clips):
    scores = np.random.default_rng(0).uniform(0.2, 1.5, clips.keypoints.shape[:2]).astype(np.float32)
    scores[20:26, 3] = 0  # too long to be bridged
    windows, ids = centred_windows(clips, 3), jnp.arange(clips.num_frames, dtype=jnp.int32)
    found = []
    for rubbish in (0.0, 9.0):
        keypoints = np.where(scores[..., None] > 0, clips.keypoints, rubbish).astype(np.float32)
        hidden = device_clips(dataclasses.replace(clips, keypoints=keypoints, scores=scores))
        found.append(gather(hidden, windows, ids, 3))
    np.testing.assert_array_equal(found[0].keypoints, found[1].keypoints)
    np.testing.assert_array_equal(found[0].mask[:, 1], np.minimum(scores, 1))

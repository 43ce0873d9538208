"""Windows gathered on the device are those of a plain numpy generator, in an order that is a permutation per epoch."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffpose_jax.data.clips import Clip, ClipSet
from diffpose_jax.data.windows import (
    WINDOW_KINDS,
    at_random_starts,
    centred_windows,
    counted_once,
    device_clips,
    end_aligned_windows,
    gather,
    shuffled,
    tiled_windows,
    training_windows,
    whole_windows,
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


def numbers(windows, frames: int) -> tuple[np.ndarray, np.ndarray]:
    ids = jnp.arange(len(windows.start), dtype=jnp.int32)
    return tuple(np.asarray(part) for part in window_frames(windows, ids, frames))


def test_tiles_share_their_padding_between_both_ends():
    found, inside = numbers(tiled_windows(clips_of(20), 9), 9)
    np.testing.assert_array_equal(found, [[0, 0, 0, 0, 1, 2, 3, 4, 5], np.arange(6, 15), [15, 16, 17, 18] + [19] * 5])
    assert inside.sum() == 20


def test_the_last_evaluation_window_ends_with_its_clip():
    found, inside = numbers(end_aligned_windows(clips_of(20, 3), 9), 9)
    expected = [np.arange(0, 9), np.arange(9, 18), np.arange(11, 20), [20, 21] + [22] * 7]
    np.testing.assert_array_equal(found, expected)
    assert inside[:3].all()
    assert inside[3].sum() == 3


def test_whole_windows_leave_the_remainder_of_a_clip_out():
    found, inside = numbers(whole_windows(clips_of(20, 3, 9), 9), 9)
    np.testing.assert_array_equal(found, [np.arange(0, 9), np.arange(9, 18), np.arange(23, 32)])
    assert inside.all()
    with pytest.raises(UserError, match=r"at least 10 frames.*longest has 9"):
        whole_windows(clips_of(4, 9), 10)


@settings(max_examples=12, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=4), st.integers(1, 12))
def test_every_frame_is_covered_and_counted_once(lengths, frames):
    clips = clips_of(*lengths)
    for make in (centred_windows, tiled_windows, end_aligned_windows):
        windows = make(clips, frames)
        found, inside = numbers(windows, frames)
        assert set(found[inside]) == set(range(clips.num_frames))
        counted = counted_once(windows, frames)
        np.testing.assert_array_equal(np.sort(found[counted]), np.arange(clips.num_frames))
        assert not np.any(counted & ~inside)
        owner = clips.frame_clip()[found]
        np.testing.assert_array_equal(owner, np.broadcast_to(owner[:, :1], owner.shape))


def test_a_frame_counts_in_the_first_window_that_shows_it():
    counted = counted_once(end_aligned_windows(clips_of(12), 9), 9)
    np.testing.assert_array_equal(counted, [[True] * 9, [False] * 6 + [True] * 3])


@pytest.mark.parametrize(("last", "expected"), [(True, {13, 14, 15, 16}), (False, {13, 14, 15})])
def test_random_starts_are_all_that_fit_or_all_but_the_last(last, expected):
    windows = whole_windows(clips_of(13, 12), 9)
    many = jax.tree.map(lambda part: jnp.repeat(part[1:], 400), windows)
    keys = jax.random.split(jax.random.key(0), 400)
    starts = np.asarray(at_random_starts(keys, many, 9, last).start)
    counts = [int(np.sum(starts == start)) for start in sorted(expected)]
    assert set(starts) == expected
    assert min(counts) > 0.7 * 400 / len(expected)
    only_one_fits = many._replace(low=many.high - 8)
    np.testing.assert_array_equal(at_random_starts(keys, only_one_fits, 9, last).start, 16)


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


def test_masks_travel_with_their_frames(clips):
    seen = np.random.default_rng(1).integers(0, 2, (clips.num_frames, 17)).astype(np.float32)
    data = device_clips(clips)._replace(mask=jnp.asarray(seen))
    windows = centred_windows(clips, 3)
    ids = jnp.array([0, 13, 20, 58], jnp.int32)
    batch = gather(data, windows, ids, 3)
    np.testing.assert_array_equal(batch.mask, seen[np.asarray(window_frames(windows, ids, 3)[0])])


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


def order(count: int, epoch: int = 0, seed: int = 0) -> np.ndarray:
    positions = jnp.arange(count, dtype=jnp.int32)
    return np.asarray(_shuffled(positions, jnp.full(count, epoch, jnp.int32), count, seed))


_shuffled = jax.jit(shuffled, static_argnums=(2, 3))


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 64, 65, 1000, 4097])
def test_an_epoch_visits_every_window_once(count):
    np.testing.assert_array_equal(np.sort(order(count)), np.arange(count))


def test_epochs_and_seeds_differ_and_a_call_repeats():
    first = order(1000)
    np.testing.assert_array_equal(first, order(1000))
    for other in (order(1000, epoch=1), order(1000, seed=1), np.arange(1000)):
        # Two independent permutations agree in one place on average, practically never in ten.
        assert np.sum(first == other) < 10


def test_a_batch_across_two_epochs_takes_each_from_its_own():
    position, epoch = jnp.array([998, 999, 0, 1], jnp.int32), jnp.array([3, 3, 4, 4], jnp.int32)
    found = np.asarray(_shuffled(position, epoch, 1000, 0))
    np.testing.assert_array_equal(found, [*order(1000, epoch=3)[-2:], *order(1000, epoch=4)[:2]])


def test_the_order_shows_no_trace_of_the_recording():
    count = 20_000
    for epoch in range(3):
        found = order(count, epoch=epoch).astype(float)
        limit = 4 / np.sqrt(count)  # four standard deviations of the correlation of independent numbers
        assert abs(np.corrcoef(found, np.arange(count))[0, 1]) < limit
        assert abs(np.corrcoef(found[1:], found[:-1])[0, 1]) < limit
        assert abs(np.corrcoef(found, order(count, epoch=epoch + 1))[0, 1]) < limit
        # Batches of 100 spread over the whole recording: their means scatter as those of random draws.
        means = found.reshape(-1, 100).mean(axis=1)
        assert 0.8 < means.std() / (count / np.sqrt(12 * 100)) < 1.2


def test_every_window_comes_first_equally_often():
    epochs = jnp.arange(3000, dtype=jnp.int32)
    firsts = np.asarray(_shuffled(jnp.zeros(3000, jnp.int32), epochs, 6, 0))
    counts = np.bincount(firsts, minlength=6)
    assert np.sum((counts - 500) ** 2 / 500) < 20.5  # chi squared with 5 degrees of freedom, p = 0.001

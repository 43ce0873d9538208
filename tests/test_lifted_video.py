"""People of a video in 3D: somebody of cardboard, whom a lifter lifts exactly, stands where they should."""

from __future__ import annotations

import numpy as np
import pytest

from diffpose_jax.errors import UserError
from diffpose_jax.lifted_video import LiftOptions, lift_people, parse_up
from diffpose_jax.mixtures.mixture import Mixture
from diffpose_jax.mixtures.packing import unpack_mixture
from diffpose_jax.people import LiftedPerson
from diffpose_jax.skeleton import H36M_17
from diffpose_jax.world import ANKLE, HEIGHT_SPREAD, bone_lengths, scale_to_height, standing_height

from .cardboard import DISTANCE, FOCAL, ROOT_HEIGHT, SIZE, CardboardModel, cut_out, film, walk

TIMES = np.arange(60) / 25
EXACT = LiftOptions(hypotheses=3, focal=FOCAL)
HOLE = np.r_[0:25, 45:60]  # 0.8 s
# What a person has for every frame.
ROWS = ("times", "keypoints", "seen", "poses", "hypotheses", "spread", "radius_50", "radius_90", "root", "root_std")


def lift(frames, options=EXACT, times=TIMES, sequence=1, **model) -> LiftedPerson:
    """One person; `sequence` are the frames of the lifter's windows."""
    model = CardboardModel(sequence, **model)
    (person,) = lift_people(model, film(times, np.asarray(frames)), options).people
    return person


@pytest.mark.parametrize("sequence", [1, 27])
@pytest.mark.parametrize("frames", [np.arange(60), HOLE, [30], [0, 59]], ids=["all", "with a hole", "one", "two apart"])
def test_somebody_stands_where_they_were_filmed_in_the_frames_of_their_track(frames, sequence):
    person = lift(frames, sequence=sequence, spread=0.05, regions=True)
    np.testing.assert_array_equal(person.frames, frames)
    np.testing.assert_array_equal(person.times, TIMES[frames])
    for name in ROWS:
        assert len(getattr(person, name)) == len(frames), name
        assert np.isfinite(getattr(person, name)).all(), name
    assert person.hypotheses.shape == (len(frames), 3, 17, 3)
    np.testing.assert_allclose(person.poses, np.tile(cut_out(), (len(frames), 1, 1)), atol=1e-4)
    np.testing.assert_allclose(person.root, walk(TIMES[frames]), atol=5e-3)


def test_a_lifter_of_sequences_gets_each_part_as_a_clip_at_the_rate_that_it_was_trained_at():
    model = CardboardModel(frames=27)
    lift_people(model, film(TIMES, HOLE, np.array([3])), EXACT)
    np.testing.assert_array_equal(model.lifted.clip_length, [49, 29, 1])  # 0.96 s, 0.56 s
    np.testing.assert_allclose(model.lifted.fps, 50)
    model = CardboardModel()
    lift_people(model, film(TIMES, HOLE), EXACT)
    np.testing.assert_array_equal(model.lifted.clip_length, [25, 15])
    np.testing.assert_allclose(model.lifted.fps, 25)


def test_at_a_variable_frame_rate_the_path_is_the_same():
    times = np.cumsum(np.random.default_rng(0).uniform(0.01, 0.09, 60))
    person = lift(np.arange(60), times=times, sequence=27)
    np.testing.assert_allclose(person.root, walk(times), atol=5e-3)
    np.testing.assert_array_equal(person.times, times)


def test_a_known_height_scales_everything():
    free, known = (
        lift(HOLE, LiftOptions(3, focal=FOCAL, height=height, smooth="none"), spread=0.05, regions=True)
        for height in (None, 1.2)
    )
    factor = scale_to_height(bone_lengths(free.poses, H36M_17), H36M_17, 1.2)
    assert factor < 0.9
    for name in ("poses", "hypotheses", "spread", "radius_50", "radius_90", "root"):
        np.testing.assert_allclose(getattr(known, name), factor * getattr(free, name), rtol=1e-3, atol=2e-3)
    assert standing_height(bone_lengths(known.poses, H36M_17), H36M_17) == pytest.approx(1.2, rel=1e-4)
    assert (known.root_std[:, 2] < free.root_std[:, 2]).all()


@pytest.mark.parametrize("smooth", ["none", "root", "all"])
def test_no_smoothing_takes_away_what_an_unknown_height_leaves_open(smooth):
    person = lift(np.arange(60), LiftOptions(3, focal=FOCAL, smooth=smooth), spread=0.02)
    assert (person.root_std[:, 2] >= 0.999 * HEIGHT_SPREAD * DISTANCE).all()
    assert (person.root_std[:, 2] < 1.3 * HEIGHT_SPREAD * DISTANCE).all()


def test_bones_keep_their_lengths_whatever_is_smoothed():
    class Shaking(CardboardModel):
        def lift(self, clips, **options):
            result = super().lift(clips, **options)
            noise = 0.05 * np.random.default_rng(0).normal(size=result.poses.shape).astype(np.float32)
            noise[:, 0] = 0
            drawn = result.hypotheses + noise[:, None]
            return result._replace(hypotheses=drawn, poses=drawn.mean(axis=1))

    people = [
        lift_people(Shaking(spread=0.2), film(TIMES, np.arange(60)), LiftOptions(5, focal=FOCAL, smooth=smooth)).people[
            0
        ]
        for smooth in ("root", "all")
    ]
    child, parent = np.array(H36M_17.bones).T
    for person in people:
        lengths = np.linalg.norm(person.poses[:, child] - person.poses[:, parent], axis=-1)
        np.testing.assert_allclose(lengths, np.tile(lengths[:1], (60, 1)), rtol=1e-4)
        swapped = [H36M_17.bones.index((H36M_17.flip_order[c], H36M_17.flip_order[p])) for c, p in H36M_17.bones]
        np.testing.assert_allclose(lengths[0], lengths[0][swapped], rtol=1e-4)
        np.testing.assert_array_equal(person.poses[:, 0], 0)
    shaken, calm = (np.abs(np.diff(person.poses, n=2, axis=0)).mean() for person in people)
    assert calm < 0.8 * shaken


def test_several_people_keep_their_places():
    video = lift_people(CardboardModel(frames=27), film(TIMES, HOLE, np.arange(10, 50), np.array([4])), EXACT)
    assert [person.name for person in video.people] == ["person 0", "person 1", "person 2"]
    for number, person in enumerate(video.people):
        np.testing.assert_allclose(person.root, walk(person.times, 0.3 * number), atol=5e-3)


def test_in_the_world_people_stand_on_the_floor():
    video = lift_people(CardboardModel(spread=0.1), film(TIMES, np.arange(60)), EXACT)
    (person,) = video.people
    placed = video.in_world(person)
    feet = [H36M_17.joints.index(f"{side}_ankle") for side in ("left", "right")]
    np.testing.assert_allclose(placed[:, feet, 2], ANKLE, atol=5e-3)
    np.testing.assert_allclose(placed[..., 1], DISTANCE, atol=1e-2)  # away from the camera
    np.testing.assert_allclose(placed[:, 0, 0], walk(TIMES)[:, 0], atol=5e-3)
    np.testing.assert_allclose(placed[:, 0, 2] + video.floor, -ROOT_HEIGHT, atol=5e-3)
    assert (placed[:, H36M_17.joints.index("head_top"), 2] > 1.2).all()
    drawn = video.in_world(person, hypotheses=True)
    assert drawn.shape == (60, 3, 17, 3)
    np.testing.assert_allclose(drawn[:, 1], placed, atol=1e-4)  # the middle one of symmetric sizes
    np.testing.assert_allclose(drawn.mean(axis=1), placed, atol=1e-4)


def test_up_may_be_given_or_found_in_the_people():
    for up in ("0,-2,0", "person"):
        video = lift_people(CardboardModel(), film(TIMES, HOLE), LiftOptions(2, focal=FOCAL, up=up))
        np.testing.assert_allclose(video.world, [[1, 0, 0], [0, 0, 1], [0, -1, 0]], atol=1e-3)
    tilted = lift_people(CardboardModel(), film(TIMES, HOLE), LiftOptions(2, focal=FOCAL, up="0,-1,-1"))
    np.testing.assert_allclose(tilted.world @ [0, -1, -1], [0, 0, np.sqrt(2)], atol=1e-9)
    np.testing.assert_allclose(parse_up("1, 0,0"), [1, 0, 0])  # a phone that was held sideways and does not know it


@pytest.mark.parametrize("up", ["camera", "person", "0,-1,-0.3"])
@pytest.mark.parametrize("frames", [(), (np.zeros(0, int),)], ids=["no track", "an empty track"])
def test_a_video_without_people_has_a_world_all_the_same(frames, up):
    video = lift_people(CardboardModel(frames=27), film(TIMES, *frames), LiftOptions(2, up=up))
    assert video.people == ()
    assert video.floor == -1.6
    assert np.isfinite(video.world).all()
    assert video.focal == 0.75 * SIZE[0]
    assert video.settings["hypotheses"] == 2


def test_frames_around_which_nothing_was_seen_are_not_lifted():
    filmed = film(TIMES, np.r_[0:10, 30:40, 55:60], np.arange(5))
    first, second = filmed.tracks
    first.scores[10:20], first.keypoints[10:20] = 0, np.nan
    second.scores[:] = 0.01
    (person,) = lift_people(CardboardModel(frames=27), filmed, EXACT).people
    np.testing.assert_array_equal(person.frames, np.r_[0:10, 55:60])
    np.testing.assert_allclose(person.root, walk(person.times), atol=5e-3)


def test_a_frame_without_a_joint_stands_between_its_neighbours():
    filmed = film(TIMES, np.arange(60))
    filmed.tracks[0].scores[20], filmed.tracks[0].keypoints[20] = 0, np.nan
    (person,) = lift_people(CardboardModel(), filmed, EXACT).people
    assert not person.seen[20].any()
    np.testing.assert_allclose(np.delete(person.root, 20, axis=0), np.delete(walk(TIMES), 20, axis=0), atol=1e-2)
    np.testing.assert_allclose(person.root[20], walk(TIMES)[20], atol=0.05)
    assert np.isfinite(person.keypoints).all()


def test_a_model_that_needs_heatmaps_gets_the_mixtures_of_the_frames_that_are_lifted():
    filmed, model = film(TIMES, np.r_[0:4, 30:33]), CardboardModel(mixtures=True)
    with pytest.raises(UserError, match=r"cardboard: expected a detector with heatmaps, found keypoints alone"):
        lift_people(model, filmed, EXACT)
    (track,) = filmed.tracks
    means = np.random.default_rng(0).normal(size=(7, 17, 2, 2)).astype(np.float32)
    mixture = Mixture(np.full((7, 17, 2), 0.5, np.float32), means, np.full((7, 17, 2, 2), 0.01, np.float32))
    track.scores[4:], track.keypoints[4:] = 0, np.nan  # the second part is not lifted
    lift_people(model, filmed._replace(tracks=(track._replace(mixture=mixture),)), EXACT)
    assert len(model.lifted.mixture) == 4
    found = unpack_mixture(model.lifted.mixture, model.lifted.keypoints)
    np.testing.assert_allclose(found.means, means[:4], atol=2e-3)  # half precision


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"focal": 0.0}, "focal: expected a positive number of pixels, found 0.0"),
        ({"focal": float("inf")}, "focal: expected a positive number"),
        ({"height": 0.2}, "height: expected metres, 0.3 to 3, found 0.2"),
        ({"height": 175.0}, "height: expected metres"),
        ({"smooth": "poses"}, "smooth: expected none, root, all, found 'poses'"),
        ({"up": "sideways"}, "up: expected camera, person or three numbers with commas, found 'sideways'"),
        ({"up": "0,-1"}, "up: expected"),
        ({"up": "0,0,0"}, "up: expected"),
        ({"up": "0,nan,1"}, "up: expected"),
    ],
)
def test_an_option_that_cannot_be_is_one_line(options, message):
    with pytest.raises(UserError, match=message) as caught:
        LiftOptions(**options)
    assert "\n" not in str(caught.value)

"""`prepare mixtures` writes what heatmaps show beside a data set, and says what the mixtures are like."""

from __future__ import annotations

import numpy as np
import pytest

from diffpose_jax.data.archives import load_archive, save_archive
from diffpose_jax.data.clips import ClipSet
from diffpose_jax.data.sets.synthetic import load_synthetic
from diffpose_jax.mixtures.packing import unpack_mixture


@pytest.fixture(scope="module")
def exact(tmp_path_factory):
    clips = load_synthetic(subjects=5, takes=1, frames=60, cameras_per_clip=1)["test"]
    clip = clips.clip(0)
    short = clip._replace(keypoints=clip.keypoints[:20], poses=clip.poses[:20], root=clip.root[:20])
    path = tmp_path_factory.mktemp("exact") / "exact.npz"
    save_archive(path, {"test": ClipSet.build([short], clips.skeleton, clips.cameras)})
    return path


def test_an_archive_gets_mixtures_of_simulated_heatmaps(prepare_program, exact, tmp_path):
    output = tmp_path / "new" / "heatmaps.npz"
    arguments = ("mixtures", f"--input={exact}", "--components=2", "--points=40")
    code, said, _ = prepare_program(*arguments, f"--output={output}")
    assert code == 0
    for word in ("effective components", "log-likelihood of a point", "degenerate fits", str(output), "mean weights"):
        assert word in said
    before, after = load_archive(exact)["test"], load_archive(output)["test"]
    assert after.mixture.shape == (20, 17, 2, 6)
    np.testing.assert_array_equal(after.poses, before.poses)
    mean, covariance = unpack_mixture(after.mixture, after.keypoints).mean_and_covariance()
    variance = np.diagonal(covariance, axis1=-2, axis2=-1)
    # Heatmaps lie around the truth, which is about as far from their mean as they are wide.
    standard = (np.asarray(mean) - before.keypoints) / np.sqrt(variance)
    assert 0.4 < np.sqrt(np.mean(standard**2)) < 2.5
    assert after.scores is not None
    again = tmp_path / "again.npz"
    assert prepare_program(*arguments, f"--output={again}")[0] == 0
    np.testing.assert_array_equal(load_archive(again)["test"].mixture, after.mixture)
    assert (
        prepare_program("mixtures", f"--input={output}", f"--output={again}")[2].count("expected exact keypoints") == 1
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--output={here}/b.npz"], "--input: required"),
        (["--input={here}/a.npz"], "--output: required"),
        (["--input={here}/none.npz", "--output={here}/b.npz"], "none.npz: expected an archive"),
        (["--input={here}/a.npz", "--output={here}/b.npz", "--strength=0"], "--strength: expected more than 0"),
        (["--input={exact}", "--output={here}/b.npz", "--gmm={here}/none.npz"], "none.npz: expected an .npz"),
    ],
)
def test_what_cannot_be_used_is_said_in_one_line(prepare_program, exact, tmp_path, arguments, said):
    code, _, error = prepare_program("mixtures", *(word.format(here=tmp_path, exact=exact) for word in arguments))
    assert code == 2
    assert said in error

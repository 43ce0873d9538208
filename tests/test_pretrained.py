"""What ships with the package is whole: weights, digests, cards; and it lifts."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

import diffpose_jax as dp
from diffpose_jax.workdir.directory import read_config
from diffpose_jax.workdir.releases import RECORD, WEIGHTS, shipped_releases

RELEASES = shipped_releases()
WAVE = Path(__file__).parents[1] / "experiments" / "data" / "wave.json"


def test_all_that_the_documentation_names_are_there_and_small():
    assert set(RELEASES) == {"frame", "heatmaps", "sequence", "supervised"}
    assert sum(path.stat().st_size for folder in RELEASES.values() for path in folder.iterdir()) < 25e6


@pytest.mark.parametrize("name", RELEASES)
def test_a_release_has_its_digest_its_calibration_and_a_card(name):
    folder = RELEASES[name]
    record = json.loads((folder / RECORD).read_text())
    assert hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest() == record["weights"]
    assert json.loads((folder / "calibration.json").read_text())["step"] == record["step"]
    assert (folder / "keypoints.json").is_file()
    card = (folder / "card.md").read_text()
    assert all(f"\n## {part}\n" in card for part in ("Trained on", "Licence and credit", "Figures", "Limits"))


@pytest.mark.parametrize("name", RELEASES)
def test_a_release_names_no_place_of_the_machine_that_made_it(name):
    config = read_config(RELEASES[name])
    assert config.training.init_from == ""
    texts = [path.read_text() for path in RELEASES[name].glob("*.json")]
    assert not any('"/' in text or " /" in text for text in texts)


@pytest.mark.slow
@pytest.mark.repeats  # with trained weights what `test_model` says of random ones
@pytest.mark.parametrize("name", ["frame", "sequence", "supervised"])
def test_a_release_lifts_with_regions_around_its_poses(name):
    result = dp.load(name).lift(dp.read_keypoints(WAVE), hypotheses=4)
    assert np.isfinite(result.hypotheses).all()
    assert result.radius_90 is not None
    assert (result.radius_90 >= result.radius_50).all()
    # A person of about human size: the head is half a metre or more from the root.
    assert 0.4 < np.median(np.linalg.norm(result.poses[:, 10], axis=-1)) < 0.9

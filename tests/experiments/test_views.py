"""The experiment about views trains, measures and writes its table."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import jax
import pytest

from diffpose_jax.data.archives import save_archive
from diffpose_jax.data.sets.synthetic import load_synthetic

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def views():
    spec = importlib.util.spec_from_file_location("views", ROOT / "experiments" / "views.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.repeats  # of a trained network what `tests/lifters/test_person_centred.py` says of any
def test_a_person_centred_model_is_indifferent_to_panning_where_the_camera_is_known(views, tmp_path, capsys):
    archive = tmp_path / "motion.npz"
    save_archive(archive, {split: part.select(range(2)) for split, part in load_synthetic(seed=0).items()})
    given = ["--data", str(archive), "--steps", "20", "--stride", "20", "--output", str(tmp_path / "out")]
    with jax.numpy_dtype_promotion("standard"):
        views.main([*given, "--only", "person, cameras, bodies 0.1"])
    kept = next((tmp_path / "out").glob("*/views.json"))
    figures = views.json.loads(kept.read_text())
    assert figures["panned to 0.9"] < 1 < figures["panned to 0.9, camera unknown"]
    assert figures["3 times as far"] < figures["valid recorded"]
    assert "| person_cameras_bodies0.1-0 |" in capsys.readouterr().out
    before = kept.stat().st_mtime_ns
    views.main([*given, "--only", "person, cameras, bodies 0.1"])  # measured already
    assert kept.stat().st_mtime_ns == before

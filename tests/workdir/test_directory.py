"""Work directories: those of version 0.1 are read, and what cannot be is refused in one line that says what to do."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from diffpose_jax.config import copy_config
from diffpose_jax.errors import UserError
from diffpose_jax.registry import build_lifter, config_for, validate
from diffpose_jax.workdir.directory import is_trained, open_workdir, read_config, writable_directory

# Configs as version 0.1 saved them, made by its programs in tiny sizes.
VERSION_0_1 = Path(__file__).parent / "version_0_1"


def make_workdir(path: Path, method: str, **changes) -> Path:
    """A work directory of version 0.1 after one checkpoint, as far as its config is concerned."""
    content = json.loads((VERSION_0_1 / f"{method}.json").read_text())
    for section, values in changes.items():
        content[section].update(values)
    (path / "checkpoints" / "20").mkdir(parents=True)
    (path / "config.json").write_text(json.dumps(content))
    return path


@pytest.mark.parametrize(
    ("method", "old", "new"),
    [
        ("d3dp", {"diffusion": {"flip_inside": False}}, {"flip_inside": False}),
        ("diff3dhpe", {"diffusion": {"flip_inside": False}}, {"flip_inside": False}),
        (
            "diff3dhpe",
            {"lifter": {"released_weight": True, "released_eps": True}},
            {"weight_release": True, "eps_release": True},
        ),
        ("diffpose", {"lifter": {"assignment": "prior"}}, {"component": "weight"}),
        ("diffpose", {"lifter": {"assignment": "posterior"}}, {"component": "responsibility"}),
    ],
)
def test_a_config_of_version_0_1_keeps_its_meaning_under_the_keys_of_today(tmp_path, method, old, new):
    config = read_config(make_workdir(tmp_path / "run", method, **old))
    validate(config)
    assert {key: config.lifter[key] for key in new} == new
    assert "flip_inside" not in config.diffusion


def test_an_option_that_version_0_1_did_not_have_is_as_it_computed_then(tmp_path):
    config = read_config(make_workdir(tmp_path / "run", "diffpose"))
    assert config.lifter.preconditioning == "posterior"


@pytest.mark.parametrize("method", [path.stem for path in sorted(VERSION_0_1.glob("*.json"))])
def test_a_lifter_of_version_0_1_is_built_from_its_config_alone(tmp_path, method):
    config = read_config(make_workdir(tmp_path / "run", method))
    lifter = build_lifter(config)
    assert lifter.frames == config.lifter.get("frames", 1)
    assert lifter.options.width == config.lifter.width


def test_a_run_of_version_0_1_is_continued_by_the_config_it_has_today(tmp_path):
    workdir = make_workdir(tmp_path / "run", "d3dp")
    config = config_for("d3dp")
    config.update(read_config(workdir))
    assert open_workdir(workdir, copy_config(config, evaluation={"hypotheses": 7})) == workdir
    with pytest.raises(UserError, match=r"was made with lifter\.flip_inside=True, the config now says False"):
        open_workdir(workdir, copy_config(config, lifter={"flip_inside": False}))


def test_a_run_may_be_made_longer_unless_its_rate_falls_to_zero_at_its_end(tmp_path):
    workdir = tmp_path / "run"
    for decay in ("constant", "exponential", "plateau", "cosine"):
        made = make_workdir(workdir / decay, "d3dp", training={"decay": decay, "steps": 40})
        longer = copy_config(read_config(made), training={"steps": 100})
        if decay != "cosine":
            assert open_workdir(made, longer) == made
            continue
        with pytest.raises(UserError, match=r"training\.steps=40, at whose end .*'cosine'.* --init_from=") as refused:
            open_workdir(made, longer)
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("section", "key", "value"), [("lifter", "widht", 64), ("training", "momentum", 0.9), ("diffusion", "steps", 0)]
)
def test_what_is_not_known_here_is_one_line_that_says_what_to_do(tmp_path, section, key, value):
    workdir = make_workdir(tmp_path / "run", "d3dp", **{section: {key: value}})
    with pytest.raises(UserError) as refused:
        read_config(workdir)
    message = str(refused.value)
    assert message.startswith(f"{workdir / 'config.json'}: config.{section}.{key}: ")
    assert message.endswith("; train again, or edit that key")
    assert "\n" not in message


def test_a_work_directory_without_checkpoints_takes_any_config(tmp_path):
    workdir = make_workdir(tmp_path / "run", "d3dp")
    assert is_trained(workdir)
    shutil.rmtree(workdir / "checkpoints")
    assert not is_trained(workdir)
    assert open_workdir(workdir, config_for("diffupose")) == workdir


def test_checkpoints_without_a_config_are_refused(tmp_path):
    workdir = make_workdir(tmp_path / "run", "d3dp")
    (workdir / "config.json").unlink()
    with pytest.raises(UserError, match=r"expected config\.json beside its checkpoints, found none"):
        open_workdir(workdir, config_for("d3dp"))


def test_a_directory_for_results_is_made_and_one_that_cannot_be_is_named(tmp_path):
    assert writable_directory(tmp_path / "a" / "b").is_dir()
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file: expected a directory that can be written"):
        writable_directory(tmp_path / "file")

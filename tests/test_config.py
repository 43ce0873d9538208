"""A config is checked in one place, with one clear line per mistake, and survives its JSON form."""

from __future__ import annotations

import pytest
from ml_collections import ConfigDict

from diffpose_jax.config import first_difference, flat_items, load_config, save_config
from diffpose_jax.errors import UserError
from diffpose_jax.registry import config_for, validate


def test_the_base_config_is_valid_and_survives_json(tmp_path):
    config = config_for("diffupose")
    config.training.learning_rate = 1e-3
    validate(config)
    save_config(config, tmp_path / "config.json")
    assert load_config(tmp_path / "config.json") == config


def test_leaves_are_named_by_their_path():
    leaves = dict(flat_items(config_for("diffupose")))
    assert leaves["training.steps"] == 10_000
    assert leaves["seed"] == 0
    assert not any(hasattr(value, "items") for value in leaves.values())


def test_an_unknown_key_is_named_beside_those_that_exist():
    config = config_for("diffupose")
    with config.unlocked():
        config.training.batchsize = 8
    with pytest.raises(UserError, match=r"config.training.batchsize: unknown key; .*: batch_size, checkpoint_every"):
        validate(config)


def test_an_unknown_section_is_named():
    config = config_for("diffupose")
    with config.unlocked():
        config.optimiser = {"name": "adam"}
    with pytest.raises(UserError, match=r"config.optimiser.*unknown key"):
        validate(config)


def test_a_missing_section_is_named():
    config = config_for("diffupose")
    del config.diffusion
    with pytest.raises(UserError, match=r"config.diffusion.\w+: missing"):
        validate(config)


@pytest.mark.parametrize(
    ("section", "key", "value", "expected"),
    [
        ("training", "steps", "many", "expected int, found 'many'"),
        ("training", "steps", 10.5, "expected int, found 10.5"),
        ("training", "steps", True, "expected int, found True"),
        ("training", "learning_rate", False, "expected float, found False"),
        ("training", "learning_rate", "fast", "expected float, found 'fast'"),
        ("data", "flip", 1, "expected bool, found 1"),
        ("data", "flip", "yes", "expected bool, found 'yes'"),
        ("data", "source", 3, "expected str, found 3"),
        ("data", "source", None, "expected str, found None"),
    ],
)
def test_a_value_of_the_wrong_type_is_named(section, key, value, expected):
    values = config_for("diffupose").to_dict()
    values[section][key] = value
    config = ConfigDict(values)
    with pytest.raises(UserError, match=f"config.{section}.{key}: {expected}"):
        validate(config)


def test_a_whole_number_will_do_for_a_real_one():
    values = config_for("diffupose").to_dict()
    values["training"]["learning_rate"] = 1
    config = ConfigDict(values)
    validate(config)
    assert config.training.learning_rate == 1


@pytest.mark.parametrize(
    ("section", "key", "value", "expected"),
    [
        ("training", "batch_size", 0, "at least 1, found 0"),
        ("evaluation", "hypotheses", -1, "at least 1, found -1"),
        ("training", "steps", 10_010, "a multiple of training.inner_steps=20, found 10010"),
        ("training", "log_every", 30, "a multiple of training.inner_steps=20, found 30"),
        ("training", "validate_every", 0, "a multiple of training.inner_steps=20, found 0"),
        ("training", "checkpoint_every", -20, "a multiple"),
        ("training", "ema_decay", 1.0, "0 to 0.9999999, found 1.0"),
        ("training", "learning_rate", 0.0, "at least 1e-12, found 0.0"),
        ("diffusion", "sampling_steps", 101, "0 to diffusion.steps=100, found 101"),
        ("diffusion", "predict", "score", "one of eps, x0, v, next, found 'score'"),
        ("diffusion", "sampler", "euler", "one of ddpm, ddim, found 'euler'"),
        ("training", "decay", "linear", "one of constant, cosine, exponential, plateau, found 'linear'"),
        ("training", "optimizer", "sgd", "one of adam, amsgrad, found 'sgd'"),
        ("lifter", "compute_dtype", "float16", "one of float32, bfloat16, found 'float16'"),
    ],
)
def test_a_value_that_makes_no_sense_is_named(section, key, value, expected):
    config = config_for("diffupose")
    config[section][key] = value
    with pytest.raises(UserError, match=f"config.{section}.{key}: expected {expected}"):
        validate(config)


def test_a_config_file_that_is_missing_or_damaged_is_named(tmp_path):
    path = tmp_path / "config.json"
    with pytest.raises(UserError, match=r"config.json: .*no such file"):
        load_config(path)
    save_config(config_for("diffupose"), path)
    path.write_text(path.read_text()[:100])
    with pytest.raises(UserError, match=r"config.json: expected a JSON config"):
        load_config(path)


def test_a_continued_run_may_change_its_reports_but_not_its_training():
    ours, theirs = config_for("diffupose"), config_for("diffupose")
    assert first_difference(ours, theirs) is None
    theirs.evaluation.hypotheses = 50
    theirs.training.log_every = 20
    theirs.name = "again"
    assert first_difference(ours, theirs) is None
    theirs.training.learning_rate = 1.0
    theirs.lifter.width = 8
    assert first_difference(ours, theirs) == "lifter.width"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("training.learning_rate", float("nan")),
        ("training.warmup_steps", -5),
        ("lifter.dropout", 2.0),
        ("diffusion.eta", 3.0),
        ("diffusion.clip", -1.0),
        ("training.decay_every", 0),
    ],
)
def test_a_number_out_of_its_range_is_named(key, value):
    config = config_for("diffupose")
    section, name = key.split(".")
    config[section][name] = value
    with pytest.raises(UserError, match=f"config.{key}: expected .*, found {value}"):
        validate(config)


@pytest.mark.parametrize("text", ["[1]", "3", '"x"', "{"])
def test_a_config_file_that_holds_something_else_is_told(tmp_path, text):
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(UserError, match=r"config.json: expected a JSON"):
        load_config(path)

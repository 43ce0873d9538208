"""A config is checked in one place, with one clear line per mistake, and survives its JSON form."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import typing
from collections.abc import Iterator
from typing import Any, Literal

import pytest
from ml_collections import ConfigDict

from diffpose_jax.config import (
    Options,
    copy_config,
    first_difference,
    flat_items,
    load_config,
    option,
    read_options,
    save_config,
)
from diffpose_jax.errors import UserError
from diffpose_jax.registry import METHODS, complete_config, config_for, validate
from diffpose_jax.sections import SECTIONS

# Words that name something outside the config: a file, a work directory, or an entry of a table that plug-ins extend.
FREE_WORDS = {
    "data.source",
    "data.layout",
    "evaluation.protocol",
    "lifter.context",
    "training.init_from",
    "training.distil",
    "data.leave_out",
}


class Place(typing.NamedTuple):
    """An option of a section, for a lifter's section of one method."""

    method: str
    section: str
    field: dataclasses.Field
    hint: Any

    @property
    def key(self) -> str:
        return f"{self.section}.{self.field.name}"

    @property
    def choices(self) -> tuple[str, ...]:
        return typing.get_args(self.hint)

    def config_with(self, value: object) -> ConfigDict:
        """A config, valid but for this option."""
        values = config_for(self.method).to_dict()
        values[self.section][self.field.name] = value
        return ConfigDict(values)


def all_options() -> Iterator[Place]:
    sections = [("diffupose", name, section) for name, section in SECTIONS.items()]
    sections += [(name, "lifter", method.options_type) for name, method in METHODS.items()]
    for method, name, section in sections:
        hints = typing.get_type_hints(section)
        for field in dataclasses.fields(section):
            yield Place(method, name, field, hints[field.name])


OPTIONS = list(all_options())
every_option = pytest.mark.parametrize("place", OPTIONS, ids=lambda place: f"{place.method}-{place.key}")


def wrong_types(hint: object) -> list[object]:
    if hint is bool:
        return [1, 0.0, "yes", None]
    if hint is int:
        return ["many", 1.5, True, None, [1]]
    if hint is float:
        return ["fast", False, None, [1.0]]
    return [3, True, None, ["word"]]


def out_of_range(place: Place) -> list[float]:
    bounds, step = place.field.metadata, 1 if place.hint is int else 1e-6
    values = [bounds["low"] - step] if bounds["low"] is not None else []
    values += [bounds["above"], bounds["above"] - 1] if bounds["above"] is not None else []
    values += [bounds["high"] + step] if bounds["high"] is not None else []
    return values + ([math.nan, math.inf, -math.inf] if place.hint is float else [])


def refusal(config: ConfigDict) -> str:
    """Why a config is refused, empty where it is not."""
    try:
        validate(config)
    except UserError as error:
        return str(error)
    return ""


# --- every option of every section and method


@every_option
def test_an_option_says_what_it_is_and_has_a_bound_or_choices(place):
    metadata = place.field.metadata
    assert metadata["doc"]
    assert not metadata["doc"].endswith(".")
    assert set(metadata) == {"doc", "low", "high", "above", "unit", "source"}
    if place.hint in (int, float):
        assert (metadata["low"] is None) != (metadata["above"] is None), "expected one least value"
    elif place.hint is str:
        assert place.key in FREE_WORDS
    elif place.hint is not bool:
        assert len(place.choices) > 1
        assert all(isinstance(word, str) for word in place.choices)


@every_option
def test_whatever_makes_no_sense_is_one_line_with_key_expected_and_found(place):
    wrong = wrong_types(place.hint)
    wrong += ["unheard_of", ""] if place.choices else out_of_range(place) if place.hint in (int, float) else []
    for value in wrong:
        with pytest.raises(UserError) as raised:
            validate(place.config_with(value))
        assert re.fullmatch(rf"config\.{place.key}: expected .+, found {re.escape(repr(value))}", str(raised.value))


@every_option
def test_every_word_is_taken_and_every_number_at_its_bounds(place):
    metadata = place.field.metadata
    bounds = [metadata[name] for name in ("low", "high") if metadata.get(name) is not None]
    for value in place.choices or bounds:
        # Only where it does not fit another option, which is named then, or the network.
        assert re.search(r"^$|=\S+|an even number|a multiple of", refusal(place.config_with(value)))


def test_all_free_words_are_options():
    assert {place.key for place in OPTIONS if place.hint is str} == FREE_WORDS


@pytest.mark.parametrize(
    ("method", "key", "value", "expected"),
    [
        ("diff3dhpe", "k_clip", -5, "at least 0"),
        ("diffhpe", "p_uncond", 3, "at least 0 and at most 1"),
        ("d3dp", "signal_scale", 0, "above 0"),
        ("diffhpe", "step_width", 0, "at least 4"),
    ],
)
def test_what_once_trained_without_sense_is_refused(method, key, value, expected):
    values = config_for(method).to_dict()
    values["lifter"][key] = value
    with pytest.raises(UserError, match=f"^config.lifter.{key}: expected {expected}, found {value}$"):
        validate(ConfigDict(values))


@pytest.mark.parametrize(
    ("method", "key", "value", "expected"),
    [
        ("diffupose", "training.steps", 10_010, "a multiple of training.inner_steps=20, found 10010"),
        ("diffupose", "training.log_every", 30, "a multiple of training.inner_steps=20, found 30"),
        ("diffupose", "training.validate_every", 30, "a multiple of training.inner_steps=20, found 30"),
        ("diffupose", "training.checkpoint_every", 50, "a multiple of training.inner_steps=20, found 50"),
        ("diffupose", "training.ema_decay", 1.0, "at least 0 and at most 0.9999999, found 1.0"),
        ("diffupose", "diffusion.sampling_steps", 101, "0 to diffusion.steps=100, found 101"),
        ("diffupose", "diffusion.num_timesteps", 101, "0 to diffusion.steps=100, found 101"),
        ("diffupose", "diffusion.predict", "score", "one of eps, x0, v, next, found 'score'"),
        ("diffupose", "lifter.width", 40, "a multiple of 16, at least 32, found 40"),
        ("diffhpe", "lifter.width", 33, "an even number, found 33"),
        ("mixste", "lifter.num_heads", 3, "a multiple of num_heads=3, found 512"),
        ("mixste", "lifter.mlp_ratio", 0.01, None),
        ("graformer", "lifter.width", 100, "a multiple of twice num_heads=4, found 100"),
    ],
)
def test_options_that_do_not_fit_together_are_named(method, key, value, expected):
    values = config_for(method).to_dict()
    section, name = key.split(".")
    values[section][name] = value
    if expected is None:  # 512 times this is enough for a hidden layer; 8 times is not
        validate(ConfigDict(values))
        values[section]["width"], expected = 8, "at least 1 / width=8, found 0.01"
    else:
        name = "width" if name == "num_heads" else name
    with pytest.raises(UserError, match=rf"^config.{section}.{name}: expected {re.escape(expected)}$"):
        validate(ConfigDict(values))


def test_a_whole_number_will_do_for_a_real_one():
    config = copy_config(config_for("diffupose"))
    values = config.to_dict()
    values["training"]["learning_rate"] = 1
    config = ConfigDict(values)
    validate(config)
    assert config.training.learning_rate == 1
    # JAX takes the type of a result from its numbers, so that options hold real ones.
    assert isinstance(read_options(SECTIONS["training"], config.training, "training").learning_rate, float)


# --- sections


@dataclasses.dataclass(frozen=True)
class Toy(Options):
    """A section with an option of every kind."""

    steps: int = option(3, "steps", low=1, high=5)
    rate: float = option(0.5, "rate", above=0)
    kind: Literal["one", "two"] = option("one", "kind")
    on: bool = option(True, "switch")
    source: str = option("", "free word")


def test_a_section_checks_its_options_wherever_it_is_made():
    assert Toy() == Toy(steps=3, rate=0.5)
    assert hash(Toy(rate=1)) == hash(Toy(rate=1.0))
    for changes, message in (
        ({"steps": 6}, "steps: expected at least 1 and at most 5, found 6"),
        ({"rate": 0}, "rate: expected above 0, found 0"),
        ({"kind": "three"}, "kind: expected one of one, two, found 'three'"),
        ({"on": 1}, "on: expected bool, found 1"),
    ):
        with pytest.raises(UserError, match=f"^{message}$"):
            dataclasses.replace(Toy(), **changes)


def test_sections_are_read_with_their_place_in_messages():
    values = dataclasses.asdict(Toy())
    assert read_options(Toy, {**values, "steps": 4}, "toy") == Toy(steps=4)
    with pytest.raises(UserError, match=r"^config.toy.steps: expected int, found 'x'$"):
        read_options(Toy, {**values, "steps": "x"}, "toy")
    with pytest.raises(UserError, match=r"^config.toy.stps: unknown key; known in that place: kind, on, rate, source"):
        read_options(Toy, {**values, "stps": 1}, "toy")
    with pytest.raises(UserError, match=r"^config.toy.steps: missing"):
        read_options(Toy, {name: value for name, value in values.items() if name != "steps"}, "toy")


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
    with pytest.raises(UserError, match=r"config.optimiser: unknown key; .*training"):
        validate(config)


@pytest.mark.parametrize("name", ["diffusion", "lifter", "context", "seed"])
def test_a_missing_section_is_named(name):
    config = config_for("diffupose")
    del config[name]
    with pytest.raises(UserError, match=f"config.{name}: missing"):
        validate(config)


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [("training", 3, "a section"), ("context", "x", "a section"), ("seed", "one", "int"), ("seed", True, "int"),
     ("name", 5, "str")],
)  # fmt: skip
def test_a_section_is_no_number_and_a_number_no_section(key, value, expected):
    values = config_for("diffupose").to_dict()
    values[key] = value
    with pytest.raises(UserError, match=f"^config.{key}: expected {expected}, found {value!r}$"):
        validate(ConfigDict(values))


def test_leaves_are_named_by_their_path():
    leaves = dict(flat_items(config_for("diffupose")))
    assert leaves["training.steps"] == 10_000
    assert leaves["seed"] == 0
    assert not any(hasattr(value, "items") for value in leaves.values())


def test_a_copy_has_changes_of_its_own():
    config = config_for("diffupose")
    copy = copy_config(config, evaluation={"stride": 5}, lifter={"width": 32})
    assert (copy.evaluation.stride, copy.lifter.width) == (5, 32)
    assert (config.evaluation.stride, config.lifter.width) == (1, 384)


# --- files


def test_a_config_survives_json(tmp_path):
    config = copy_config(config_for("diffupose"), training={"learning_rate": 1e-3})
    validate(config)
    save_config(config, tmp_path / "config.json")
    assert load_config(tmp_path / "config.json") == config
    assert list(tmp_path.iterdir()) == [tmp_path / "config.json"]


def test_a_config_file_that_is_missing_or_damaged_is_named(tmp_path):
    path = tmp_path / "config.json"
    with pytest.raises(UserError, match=r"config.json: .*no such file"):
        load_config(path)
    save_config(config_for("diffupose"), path)
    path.write_text(path.read_text()[:100])
    with pytest.raises(UserError, match=r"config.json: expected JSON"):
        load_config(path)


@pytest.mark.parametrize("text", ["[1]", "3", '"x"', "{", '{"training.steps": 1}'])
def test_a_config_file_that_holds_something_else_is_told(tmp_path, text):
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(UserError, match=r"config.json: expected (a )?JSON"):
        load_config(path)


@pytest.mark.parametrize(("old", "new"), [(True, "average"), (False, "none"), ("half", "half"), ("False", "none")])
def test_flips_were_on_or_off_before_they_had_words(tmp_path, old, new):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"lifter": {"name": "diffupose"}, "evaluation": {"flip": old, "stride": 5}}))
    config = complete_config(load_config(path))
    validate(config)
    assert (config.evaluation.flip, config.evaluation.stride, config.evaluation.noise) == (new, 5, "frame")


@pytest.mark.parametrize(
    ("lifter", "diffusion", "expected"),
    [
        ({"name": "diff3dhpe", "released_weight": True, "released_eps": True}, {"flip_inside": True},
         {"weight_release": True, "eps_release": True, "flip_inside": True}),
        ({"name": "d3dp"}, {"flip_inside": False}, {"flip_inside": False}),
        ({"name": "diffpose", "assignment": "prior"}, {"flip_inside": False}, {"component": "weight"}),
        ({"name": "diffpose", "assignment": "posterior"}, {"flip_inside": False}, {"component": "responsibility"}),
        ({"name": "diffupose"}, {"flip_inside": False}, {}),
    ],
)  # fmt: skip
def test_a_config_of_version_0_1_is_read_in_the_keys_of_today(tmp_path, lifter, diffusion, expected):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"lifter": lifter, "diffusion": diffusion}))
    loaded = load_config(path)
    assert loaded.to_dict() == {"lifter": {"name": lifter["name"], **expected}, "diffusion": {}}
    complete = complete_config(loaded)
    validate(complete)
    assert complete == copy_config(config_for(lifter["name"]), lifter=expected)


def test_what_a_config_does_not_say_has_its_default():
    found = complete_config({"lifter": {"name": "d3dp", "width": 64}, "training": {"steps": 40}, "seed": 3})
    expected = copy_config(config_for("d3dp"), lifter={"width": 64}, training={"steps": 40})
    expected.seed = 3
    assert found == expected
    # The diffusion settings are those of the method, the context's options those of its own.
    assert found.diffusion.sampling_steps == 10
    with_context = complete_config({"lifter": {"name": "diffhpe"}, "context": {"name": "mixste", "width": 64}})
    assert with_context.context == copy_config(config_for("mixste"), lifter={"width": 64}).lifter
    validate(with_context)


@pytest.mark.parametrize("content", [{}, {"lifter": {}}, {"lifter": {"name": []}}, {"lifter": 3},
                                     {"lifter": {"name": "mixste"}, "context": 3}])  # fmt: skip
def test_a_config_without_a_method_is_told(content):
    with pytest.raises(UserError, match=r"^config.(lifter.name|lifter|context): expected .*, found .*$"):
        complete_config(content)


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

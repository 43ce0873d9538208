"""Names in a config become lifters and datasets; wrong names are one line."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import typing
from types import ModuleType

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from diffpose_jax.config import copy_config
from diffpose_jax.data.archives import save_archive
from diffpose_jax.data.clip import Clip
from diffpose_jax.data.clips import ClipSet
from diffpose_jax.diffusion.schedules import make_schedule
from diffpose_jax.errors import UserError
from diffpose_jax.lifters.batches import example_batch
from diffpose_jax.lifters.building import make_plan
from diffpose_jax.lifters.d3dp import D3DP
from diffpose_jax.registry import METHODS, build_lifter, config_for, get_method, load_dataset, validate
from diffpose_jax.skeleton import H36M_17


def count_parameters(config: ConfigDict) -> int:
    lifter = build_lifter(config)
    variables = jax.eval_shape(lambda: lifter.init(jax.random.key(0), example_batch(lifter)))
    return sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))


@pytest.mark.parametrize(
    ("name", "changes", "layout", "expected"),
    [
        ("diffpose_release", {}, "h36m17", 1_025_674),
        ("graformer", {}, "h36m17", 839_432),
        ("diffupose", {"width": 256}, "h36m16", 1_451_221),
        ("diffupose", {"width": 384}, "h36m16", 3_223_061),
        ("diffhpe", {}, "h36m17", 3_201_971),
        ("diffhpe", {"context": "a MixSTE of width 64"}, "h36m17", 3_210_099),
        ("diff3dhpe", {}, "h36m17", 43_757_059),
        ("diff3dhpe", {"backbone": "mixste_middle"}, "h36m17", 43_757_303),
        ("diff3dhpe", {"frames": 27, "step_embedding": False}, "mpi_inf_3dhp17", 33_674_755),
        ("d3dp", {}, "h36m17", 34_835_459),
        ("mixste", {}, "h36m17", 33_783_811),
        ("mixste", {"frames": 27, "width": 64}, "h36m17", 539_139),
        ("poseformer", {}, "h36m17", 9_602_885),
        ("modulated_gcn", {"variant": "gt", "width": 128}, "h36m16", 287_923),
        ("modulated_gcn", {"variant": "benchmark", "width": 384}, "h36m17", 2_731_840),
        ("residual_mlp", {}, "h36m16", 4_291_632),
    ],
)
def test_the_published_sizes_are_reached_from_a_config(name, changes, layout, expected):
    config = config_for(name)
    config.data.layout = layout
    config.lifter.update(changes)
    give_context(config)
    validate(config)
    assert count_parameters(config) == expected


def give_context(config) -> None:
    """The context section as training fills it in: GraFormer for single frames, a narrow MixSTE for sequences."""
    if config.lifter.name.startswith("diffpose") or config.lifter.get("context"):
        context = config_for("mixste" if "frames" in config.lifter else "graformer").lifter
        if "frames" in context:
            context.update(frames=config.lifter.frames, width=64)
        config.context = context


@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_a_valid_config(name):
    config = config_for(name)
    validate(config)
    config.lifter.unlock()
    config.lifter.wdth = 3
    with pytest.raises(UserError, match=r"config.lifter.wdth: unknown key; known in that place: .*compute_dtype"):
        validate(config)


SMALL = {"frames": 2, "width": 32, "num_layers": 1, "num_heads": 2, "step_width": 4, "feature_width": 4}


def small_config(name: str, **changes) -> ConfigDict:
    """A config of small networks, with changes of lifter options."""
    config = config_for(name)
    config.lifter.update({key: value for key, value in SMALL.items() if key in config.lifter})
    give_context(config)
    if config.context:
        config.context.update({key: value for key, value in SMALL.items() if key in config.context})
    values = config.to_dict()
    values["lifter"].update(changes)
    return ConfigDict(values)


@pytest.mark.parametrize("name", METHODS)
def test_a_method_is_equal_to_another_of_the_same_config_and_to_none_of_another(name):
    lifter, same = build_lifter(small_config(name)), build_lifter(small_config(name))
    assert lifter == same
    assert hash(lifter) == hash(same)
    assert lifter != build_lifter(small_config(name, compute_dtype="bfloat16"))


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_the_least_sizes_can_be_built_or_are_refused_in_one_line(name):
    """Every size at its bound and just above: never a traceback."""
    options = METHODS[name].options_type
    hints, sizes = typing.get_type_hints(options), [*SMALL, "mlp_ratio", "scale"]
    for field in (field for field in dataclasses.fields(options) if field.name in sizes):
        bounds = field.metadata
        least = bounds["low"] if bounds["above"] is None else bounds["above"] + 1e-3
        for value in [least, least + 1] if hints[field.name] is int else [least]:
            with contextlib.suppress(UserError):
                lifter = build_lifter(small_config(name, **{field.name: value}))
                jax.eval_shape(lifter.init, jax.random.key(0), example_batch(lifter))


def test_a_method_that_needs_a_context_says_so():
    with pytest.raises(UserError, match=r"config.lifter.context: expected the work directory of a trained lifter"):
        build_lifter(config_for("diffpose_release"))


def test_a_diffusion_lifter_is_no_context():
    config = config_for("diffhpe")
    config.lifter.context = "somewhere"
    config.context = config_for("d3dp").lifter
    with pytest.raises(UserError, match="expected a supervised lifter, found d3dp"):
        build_lifter(config)


def test_the_u_net_has_the_size_of_the_ablation():
    config = config_for("diffupose")
    config.lifter.update(variant="unet", width=24)
    assert count_parameters(config) == pytest.approx(2.99e6, rel=0.01)


@pytest.mark.parametrize("key", ["lifter.name", "lifter.variant", "lifter.joint_weights", "data.layout"])
def test_an_unknown_name_is_told_with_those_there_are(key):
    config = config_for("diffupose")
    section, name = key.split(".")
    config[section][name] = "unheard_of"
    with pytest.raises(UserError, match=r"expected one of .*unheard_of|unheard_of.* expected one of"):
        build_lifter(config)


# --- methods from outside the package


class Another(D3DP):
    """A method that the table does not name."""


@pytest.fixture
def plugin(monkeypatch) -> ModuleType:
    """An importable module `lab.methods`."""
    package, module = ModuleType("lab"), ModuleType("lab.methods")
    package.methods, module.Another, module.number = module, Another, 3
    monkeypatch.setitem(sys.modules, "lab", package)
    monkeypatch.setitem(sys.modules, "lab.methods", module)
    return module


def test_a_method_is_found_by_the_path_of_its_class_or_of_a_module_that_names_it(plugin):
    assert get_method("lab.methods.Another") is Another
    plugin.METHOD = Another
    assert get_method("lab.methods") is Another
    config = config_for("lab.methods")
    validate(config)
    assert config.lifter == copy_config(config_for("d3dp"), lifter={"name": "lab.methods"}).lifter
    assert config.diffusion == config_for("d3dp").diffusion
    assert isinstance(build_lifter(small_config("lab.methods")), Another)


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("lab.methods", "which has no options_type"),
        ("lab.methods.number", "which has no options_type"),
        ("lab.methods.Absent", "has no attribute 'Absent'"),
        ("nowhere.methods", "No module named 'nowhere'"),
        ("..", ""),
        ("unheard_of", ""),
        (None, ""),
        ("", ""),
    ],
)
def test_a_path_without_a_method_is_told(plugin, path, found):
    with pytest.raises(UserError) as raised:
        get_method(path)
    message = str(raised.value)
    assert message.startswith("config.lifter.name: expected one of diffpose, ")
    assert f"or the import path of a method, found {path!r}" in message
    assert found in message
    assert "\n" not in message


# --- diffusion and data


def test_a_plan_takes_all_timesteps_unless_told_otherwise():
    diffusion = config_for("diffupose").diffusion
    schedule = make_schedule("cosine", 100)
    assert len(make_plan(diffusion, schedule).step) == 100
    diffusion.update(sampling_steps=20)
    assert len(make_plan(diffusion, schedule).step) == 20
    diffusion.update(sampler="ddim")
    plan = make_plan(diffusion, schedule)
    assert len(plan.step) == 20
    assert not plan.table[:, 3].any()


def test_data_come_in_the_layout_of_the_config(tmp_path):
    poses = np.random.default_rng(0).normal(size=(4, 17, 3)).astype(np.float32)
    poses -= poses[:, :1]
    clips = ClipSet.build([Clip(poses[..., :2], poses, poses[:, 1], "S1", "walk")], H36M_17)
    save_archive(tmp_path / "data.npz", {"train": clips})
    data = config_for("diffupose").data
    data.update(source=str(tmp_path / "data.npz"), layout="h36m16")
    loaded = load_dataset(data, ["train"])["train"]
    kept = [joint for joint in range(17) if joint != 9]
    np.testing.assert_allclose(loaded.poses, poses[:, kept])
    np.testing.assert_allclose(loaded.keypoints, poses[:, kept, :2])


def test_the_detector_simulation_touches_keypoints_only(tmp_path):
    poses = np.random.default_rng(0).normal(size=(8, 17, 3)).astype(np.float32)
    poses -= poses[:, :1]
    clips = ClipSet.build([Clip(poses[..., :2] / 5, poses, poses[:, 1], "S1", "walk")], H36M_17)
    save_archive(tmp_path / "data.npz", {"train": clips})
    data = config_for("diffupose").data
    data.update(source=str(tmp_path / "data.npz"), detector_strength=1.0)
    loaded = load_dataset(data, ["train"])["train"]
    np.testing.assert_array_equal(loaded.poses, clips.poses)
    assert 0 < np.abs(loaded.keypoints - clips.keypoints).mean() < 0.2


def test_a_biased_detector_differs_from_one_without(tmp_path):
    clips = clips_of_a_walk()
    save_archive(tmp_path / "data.npz", {"valid": clips})
    data = config_for("diffupose").data
    data.update(source=str(tmp_path / "data.npz"), detector_strength=1.0)
    plain = load_dataset(data, ["valid"])["valid"]
    data.detector_bias = 1.0
    biased = load_dataset(data, ["valid"])["valid"]
    off = biased.keypoints - plain.keypoints
    assert np.linalg.norm(off, axis=-1).mean() > 0
    assert (biased.scores < plain.scores).all()


def test_what_is_filmed_anew_is_detected_anew_so_that_train_stays_exact(tmp_path):
    poses = np.random.default_rng(0).normal(size=(8, 17, 3)).astype(np.float32)
    poses -= poses[:, :1]
    clips = ClipSet.build([Clip(poses[..., :2] / 5, poses, poses[:, 1], "S1", "walk")], H36M_17)
    save_archive(tmp_path / "data.npz", {"train": clips, "valid": clips})
    data = config_for("diffupose").data
    data.update(source=str(tmp_path / "data.npz"), detector_strength=1.0, cameras="random")
    loaded = load_dataset(data, ["train", "valid"])
    np.testing.assert_array_equal(loaded["train"].keypoints, clips.keypoints)
    assert loaded["train"].scores is None
    assert np.abs(loaded["valid"].keypoints - clips.keypoints).mean() > 0
    assert (loaded["valid"].scores < 1).any()


def clips_of_a_walk(frames: int = 10) -> ClipSet:
    poses = np.random.default_rng(0).normal(size=(1, 17, 3)) + np.linspace(0, 0.3, frames)[:, None, None]
    poses = (poses - poses[:, :1]).astype(np.float32) * 0.3
    return ClipSet.build([Clip(poses[..., :2] / 5, poses, poses[:, 1], "S1", "walk")], H36M_17)


def test_heatmaps_are_simulated_and_mixtures_fitted_where_the_data_have_none(tmp_path):
    clips = clips_of_a_walk()
    save_archive(tmp_path / "data.npz", {"train": clips, "test": clips})
    data = config_for("diffpose").data
    data.update(source=str(tmp_path / "data.npz"), heatmaps=True, mixtures=True)
    loaded = load_dataset(data, ["train", "test"], without_mixtures=["train"])
    assert loaded["train"].mixture is None
    np.testing.assert_array_equal(loaded["train"].keypoints, loaded["test"].keypoints)
    np.testing.assert_array_equal(loaded["test"].poses, clips.poses)
    assert 0 < np.abs(loaded["test"].keypoints - clips.keypoints).mean() < 0.05
    # The mean of a mixture is near its keypoint: what it says beyond is where else the joint may be.
    packed = loaded["test"].mixture.astype(np.float32)
    mean = (packed[..., :1] * packed[..., 1:3]).sum(axis=-2)
    assert np.median(np.abs(mean)) < 0.01
    save_archive(tmp_path / "data_heatmaps.npz", loaded)
    data.update(source=str(tmp_path / "data_heatmaps.npz"))
    again = load_dataset(data, ["test"])["test"]
    np.testing.assert_array_equal(again.keypoints, loaded["test"].keypoints)
    np.testing.assert_array_equal(again.mixture, loaded["test"].mixture)


def test_data_without_mixtures_are_told_where_those_come_from(tmp_path):
    save_archive(tmp_path / "data.npz", {"train": clips_of_a_walk()})
    data = config_for("diffpose").data
    data.update(source=str(tmp_path / "data.npz"), mixtures=True)
    with pytest.raises(UserError, match=r"expected mixtures .* in split train, found none; .*prepare mixtures"):
        load_dataset(data, ["train"])

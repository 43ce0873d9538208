"""Weights are found wherever a release nests them, sizes follow from their shapes, every tensor is accounted for."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from diffpose_jax.errors import UserError
from diffpose_jax.interop.conversion import convert_weights
from diffpose_jax.interop.systems import SYSTEMS, build_config, check_schedule
from diffpose_jax.interop.weights import find_copies, find_weights
from diffpose_jax.lifters.batches import example_batch
from diffpose_jax.registry import build_lifter

from ..published import PUBLISHED, add_prefix, checkpoint, nest_denoiser, nest_in_list, nest_in_training, weights

ALONE = [system for system, published in SYSTEMS.items() if not published.needs_context]


def template(config):
    lifter = build_lifter(config)
    return jax.eval_shape(lambda: lifter.init(jax.random.key(0), example_batch(lifter)))


def config_of(system, found):
    return build_config(SYSTEMS[system], found, None, PUBLISHED[system].options)


@pytest.mark.parametrize("system", SYSTEMS)
def test_the_weights_of_a_system_are_found_as_they_went_in(system):
    found, _ = find_weights(checkpoint(system), system, averaged=False)
    expected = weights(system)
    assert found.entries.keys() == expected.keys()
    for key, value in expected.items():
        np.testing.assert_array_equal(found.entries[key], value)


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("other", SYSTEMS)
def test_a_checkpoint_of_another_system_is_refused_and_named(system, other):
    structure, same = checkpoint(other), {"diffpose_gcndiff", "diffpose_video"}
    if system == other or {system, other} == same:
        assert find_weights(structure, system)[0].entries
        return
    with pytest.raises(UserError, match=f"expected weights of {system}, found a checkpoint that looks like .*{other}"):
        find_weights(structure, system)


@pytest.mark.parametrize("system", ALONE)
def test_every_tensor_is_used_or_has_a_reason(system):
    found, unused = find_weights(checkpoint(system), system)
    conversion = convert_weights(SYSTEMS[system].variables, found, template(config_of(system, found)))
    assert conversion.used.keys() | conversion.unused.keys() == {found.full_name(key) for key in found.entries}
    assert not conversion.used.keys() & unused.keys()
    tensors = sum(
        isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(checkpoint(system), is_leaf=lambda node: node is None)
    )
    assert len(conversion.used) + len(conversion.unused) + len(unused) == tensors
    if system != "diffhpe_wrapper":
        assert conversion.missing == []


def test_the_tensors_of_a_variable_are_reported():
    found, _ = find_weights(checkpoint("diffpose_gcnpose"), "diffpose_gcnpose")
    conversion = convert_weights(
        SYSTEMS["diffpose_gcnpose"].variables, found, template(config_of("diffpose_gcnpose", found))
    )
    for index in range(3):
        name = f"0/module.atten_layers.0.self_attn.linears.{index}.weight"
        assert conversion.used[name] == ["params/attention_0/attention/qkv/kernel"]
    expected = np.concatenate(
        [weights("diffpose_gcnpose")[f"atten_layers.0.self_attn.linears.{n}.weight"].T for n in range(3)], axis=1
    )
    np.testing.assert_array_equal(conversion.variables["params"]["attention_0"]["attention"]["qkv"]["kernel"], expected)


def test_the_frozen_lifter_of_a_wrapper_needs_no_output_layer():
    found, _ = find_weights(checkpoint("diffhpe_wrapper"), "diffhpe_wrapper")
    config = config_of("diffhpe_wrapper", found)
    assert config.context.name == "mixste"
    assert (config.context.width, config.context.num_layers, config.context.frames) == (16, 2, 9)
    conversion = convert_weights(SYSTEMS["diffhpe_wrapper"].variables, found, template(config))
    assert conversion.missing == ["frozen/params/output/bias", "frozen/params/output/kernel"]


def test_the_moving_average_is_what_diffupose_evaluates_and_others_do_not():
    structure = checkpoint("diffupose")
    average, raw = (find_weights(structure, "diffupose", averaged)[0] for averaged in (None, False))
    assert average.averaged
    assert not raw.averaged
    key = "gconv_output.W"
    np.testing.assert_allclose(average.entries[key] - raw.entries[key], 1, atol=1e-6)
    structure = checkpoint("diffpose_gcndiff")
    assert not find_weights(structure, "diffpose_gcndiff")[0].averaged
    assert find_weights(structure, "diffpose_gcndiff", averaged=True)[0].path == (4,)
    with pytest.raises(UserError, match=r"expected the moving average \(--ema\) of mixste, found the weights"):
        find_weights(checkpoint("mixste"), "mixste", averaged=True)


def test_reasons_are_given_for_what_is_left_out():
    _, unused = find_weights(checkpoint("diffupose"), "diffupose")
    reasons = {name: reason for name, reason in unused.items() if "0.bn" in name or "betas" in name or "step" in name}
    assert reasons["ema/ema_model.module.betas"] == "schedule buffer"
    assert reasons["ema/step"] == "counter"
    assert reasons["ema/ema_model.module.denoise_fn.gconv_input.0.bn.num_batches_tracked"] == "counter"
    assert unused["model/module.denoise_fn.gconv_output.W"] == "another copy"
    _, unused = find_weights(checkpoint("mixste"), "mixste")
    assert unused == {"optimizer/state/0/exp_avg": "not of the network (optimiser or another part of training)"}


@pytest.mark.parametrize("prefix", ["", "module.", "model.", "module.model."])
@pytest.mark.parametrize(
    "nest",
    [lambda t: t, lambda t: nest_in_training("state_dict", t), lambda t: {"a": {"b": [t]}}, nest_in_list],
    ids=range(4),
)
def test_prefixes_and_nesting_do_not_matter(prefix, nest):
    found, _ = find_weights(nest(add_prefix(prefix, weights("mixste"))), "mixste", averaged=False)
    assert found.entries.keys() == weights("mixste").keys()


def test_the_supervised_mixste_of_diffhpe_is_found():
    found, _ = find_weights({"model_pos": weights("mixste")}, "mixste")
    assert found.entries.keys() == weights("mixste").keys()


def test_a_network_beside_a_tensor_of_unknown_purpose_is_refused():
    structure = add_prefix("model.", weights("mixste")) | {"projector.weight": np.zeros((3, 2), np.float32)}
    with pytest.raises(UserError, match=r"tensor 'projector\.weight' of shape \(3, 2\): not understood"):
        find_weights(structure, "mixste")


def test_other_contents_are_described():
    with pytest.raises(UserError, match=r"found 2 tensors of another network, the first is 'fc\.weight'"):
        find_weights({"net": {"fc.weight": np.zeros((2, 3)), "fc.bias": np.zeros(2)}}, "d3dp")
    with pytest.raises(UserError, match="found 0 tensors of another network"):
        find_weights({"epoch": 3}, "d3dp")
    with pytest.raises(UserError, match="the refinement head of Modulated GCN"):
        find_weights({"post_refine.0.weight": np.zeros((2, 3))}, "modulated_gcn_benchmark")


MISMATCHES = {
    "missing": (lambda t: t.pop("head.0.bias"), r"entry 'head\.0\.bias' is missing"),
    "unknown": (
        lambda t: t.update({"head.2.weight": np.zeros(3, np.float32)}),
        r"1 entries not understood, the first is 'head\.2\.weight'",
    ),
    "another size inside a layer": (
        lambda t: t.update({"head.1.bias": np.zeros(4, np.float32)}),
        r"entry 'head\.1\.bias': expected shape \(3,\), found \(4,\)",
    ),
    "another size than the lifter has": (
        lambda t: t.update({"Spatial_patch_to_embedding.weight": np.zeros((32, 5), np.float32)}),
        r"tensor 'Spatial_patch_to_embedding\.weight' of shape \(32, 5\): gives params/embed/kernel the shape "
        r"\(5, 32\), the lifter expects \(2, 32\)",
    ),
    "no number": (
        lambda t: t.update({"head.1.bias": np.array([0, np.nan, 0], np.float32)}),
        r"tensor 'head\.1\.bias' of shape \(3,\): expected finite numbers",
    ),
    "no position table": (lambda t: t.pop("Temporal_pos_embed"), "tensor 'Temporal_pos_embed' is missing"),
    "a flat position table": (
        lambda t: t.update(Temporal_pos_embed=np.zeros(9, np.float32)),
        r"'Temporal_pos_embed': found shape \(9,\)",
    ),
    "unknown joints": (lambda t: t.update(Spatial_pos_embed=np.zeros((1, 12, 32), np.float32)), "--layout: required"),
}


@pytest.mark.parametrize("case", MISMATCHES)
def test_a_mismatch_names_the_tensor_and_the_shapes(case):
    change, message = MISMATCHES[case]
    structure = dict(weights("mixste"))
    change(structure)
    with pytest.raises(UserError, match=message):
        converted(structure)


def converted(structure):
    found, _ = find_weights(structure, "mixste")
    return convert_weights(SYSTEMS["mixste"].variables, found, template(config_of("mixste", found)))


def test_another_number_of_heads_or_key_of_the_config_can_be_set():
    found, _ = find_weights(checkpoint("mixste"), "mixste")
    given = {"lifter.num_heads": "2", "data.source": "data/own.npz", "data.flip": "false"}
    config = build_config(SYSTEMS["mixste"], found, None, given)
    assert (config.lifter.num_heads, config.data.source, config.data.flip) == (2, "data/own.npz", False)
    assert config.evaluation.flip == "average"
    for flip, word in [("false", "none"), ("half", "half")]:
        changed = build_config(SYSTEMS["mixste"], found, None, {"evaluation.flip": flip})
        assert changed.evaluation.flip == word
    for name, value, message in [
        ("lifter.number_heads", "2", "--options lifter.number_heads: no such config key of mixste"),
        ("nothing.at.all", "2", "no such config key"),
        ("lifter", "2", "no such config key"),
        ("lifter.num_heads", "two", "expected int, found 'two'"),
        ("data.flip", "maybe", "expected bool, found 'maybe'"),
    ]:
        with pytest.raises(UserError, match=message):
            build_config(SYSTEMS["mixste"], found, None, {name: value})


def test_the_layout_must_have_as_many_joints():
    found, _ = find_weights(checkpoint("mixste"), "mixste")
    assert build_config(SYSTEMS["mixste"], found, "mpi_inf_3dhp17", {}).data.layout == "mpi_inf_3dhp17"
    with pytest.raises(UserError, match="--layout h36m16: expected a layout of 17 joints, found 16"):
        build_config(SYSTEMS["mixste"], found, "h36m16", {})


@pytest.mark.parametrize("system", ["diffupose", "diff3dhpe", "d3dp"])
def test_the_schedule_in_the_checkpoint_is_the_one_used(system):
    found, _ = find_weights(checkpoint(system), system)
    config = config_of(system, found)
    assert config.diffusion.steps == (100 if system == "diffupose" else 1000)
    check_schedule(found, build_lifter(config).schedule, config.diffusion)
    config.diffusion.schedule = "linear"
    with pytest.raises(UserError, match=r"the schedule of the checkpoint .* is not 'linear'"):
        check_schedule(found, build_lifter(config).schedule, config.diffusion)


def test_sequence_to_frame_and_a_network_without_steps_are_told_from_the_tensors():
    tensors = weights("diff3dhpe")
    middle = tensors | {"weighted_mean.weight": np.ones((1, 9, 1), np.float32), "weighted_mean.bias": np.zeros(1, "f4")}
    without = {key: value for key, value in tensors.items() if "time_mlp" not in key}
    nest = nest_denoiser("model.", "model_diffusion", np.float32)
    for given, backbone, step in [(middle, "mixste_middle", True), (without, "mixste", False)]:
        found, _ = find_weights(nest(given), "diff3dhpe")
        config = config_of("diff3dhpe", found)
        assert (config.lifter.backbone, config.lifter.step_embedding) == (backbone, step)
        assert convert_weights(SYSTEMS["diff3dhpe"].variables, found, template(config)).missing == []


def test_a_checkpoint_with_endless_copies_is_searched_once():
    crowd = {f"{'a.' * depth}gconv_input.weight": np.zeros(1) for depth in range(200)}
    assert next(find_copies(crowd)).systems == ()
    with pytest.raises(UserError, match="200 tensors of another network"):
        find_weights(crowd, "diffpose_gcnpose")

"""The configs of the two reference models, in every size, say what they are for."""

from __future__ import annotations

import pytest
from absl import flags
from ml_collections import ConfigDict

from diffpose_jax.command_line import parse
from diffpose_jax.registry import build_lifter, validate
from diffpose_jax.train import define_flags


def config_of(text: str) -> ConfigDict:
    values = flags.FlagValues()
    define_flags(values)
    parse(["train", "--config", text, "--workdir", "unused"], values)
    validate(values.config)
    return values.config


@pytest.mark.parametrize("argument", ["synthetic", "synthetic,small", "synthetic,day", "cmu,day"])
def test_single_frames_have_the_residual_mlp_that_predicts_the_pose_in_quarters_of_a_metre(argument):
    config = config_of(f"diffupose_mlp:{argument}")
    assert config.name == f"diffupose_mlp {argument}"
    lifter = build_lifter(config)
    assert (lifter.frames, type(lifter.network).__name__, lifter.predict) == (1, "StepResidualMLP", "x0")
    assert (lifter.options.scale, lifter.options.norm, lifter.clip) == (0.25, "square", 1.5)


@pytest.mark.parametrize("argument", ["synthetic", "synthetic,small", "cmu,day"])
def test_sequences_have_the_transformer_over_frames_and_reach_as_far(argument):
    config = config_of(f"diff3dhpe_frames:{argument}")
    assert config.name == f"diff3dhpe_frames {argument}"
    lifter = build_lifter(config)
    assert lifter.frames > 1
    assert not lifter.middle_frame
    assert type(lifter.network).__name__ == "FrameTransformer"
    if "day" in argument:
        assert lifter.options.scale * lifter.clip == pytest.approx(1.5)


@pytest.mark.parametrize("name", ["diffupose_mlp", "diff3dhpe_frames"])
def test_a_day_trains_for_people_as_any_camera_sees_them(name):
    config = config_of(f"{name}:cmu,day")
    assert (config.data.cameras, config.data.detector_strength) == ("random", 1.0)
    assert config.data.bodies > 0
    assert config.lifter.visibility == "confidence"

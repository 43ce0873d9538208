"""What a report says of how its hypotheses were drawn."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from diffpose_jax.evaluation.aggregation import ALL
from diffpose_jax.evaluation.description import describe_job
from diffpose_jax.evaluation.jobs import Job
from diffpose_jax.lifters.base import Sampling
from diffpose_jax.registry import build_lifter, config_for


@pytest.mark.parametrize(
    ("method", "text", "steps"),
    [("diffupose", "; DDPM, 5 of 100 steps", 5), ("mixture_density", "", None), ("residual_mlp", "", None)],
)
def test_reverse_steps_are_told_of_methods_that_diffuse_alone(method: str, text: str, steps: int | None) -> None:
    config = config_for(method)
    trained = SimpleNamespace(config=config, lifter=build_lifter(config), calibration=None, temperature=None, step=1)
    found = describe_job(trained, Job(Sampling(10), (ALL,), 8), sampling_steps=5)  # type: ignore[arg-type]
    assert (found["sampling_text"], found["sampling_steps"]) == (text, steps)

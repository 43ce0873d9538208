"""Every recorded vector of the published code, computed by this project.

The folder is that of DIFFPOSE_PARITY_DIR when set. No file is skipped: a system without an adapter fails, and so does
an output that its adapter does not produce.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from .parity import systems
from .parity.comparison import Compared, compare_outputs, compute_outputs
from .parity.systems.base import System
from .parity.vectors import Vector, generate_weights, read_vector, vector_paths

SYSTEMS = systems.all_systems()


def compare(vector: Vector) -> None:
    """Fail unless every recorded output is computed and near."""
    if vector.system not in SYSTEMS:
        pytest.fail(f"no adapter for system {vector.system!r}; there are {', '.join(sorted(SYSTEMS))}")
    system = SYSTEMS[vector.system]
    outputs = compute_outputs(vector, system)
    missing = sorted(set(vector.outputs) - set(outputs))
    if missing:
        pytest.fail(f"system {vector.system!r}: the adapter does not compute {', '.join(missing)}")
    for name, expected in vector.outputs.items():
        found = outputs[name]
        assert found.shape == expected.shape, f"{name}: expected shape {expected.shape}, found {found.shape}"
        np.testing.assert_allclose(found, expected, atol=system.absolute, rtol=system.relative, err_msg=name)


@pytest.mark.parametrize("path", vector_paths(), ids=lambda path: path.stem)
def test_recorded_outputs_are_met(path: Path):
    compare(read_vector(path))


def test_there_are_vectors():
    assert vector_paths()


@pytest.fixture
def recorded() -> Vector:
    return read_vector(Path(__file__).parent / "parity" / "data" / "diffupose_eval.npz")


def test_an_unknown_system_fails(recorded: Vector):
    with pytest.raises(pytest.fail.Exception, match="no adapter for system 'unheard of'"):
        compare(replace(recorded, system="unheard of"))


def test_an_output_nobody_computes_fails(recorded: Vector):
    with pytest.raises(pytest.fail.Exception, match="does not compute entropy"):
        compare(replace(recorded, outputs={**recorded.outputs, "entropy": np.zeros(())}))


def test_a_wrong_number_fails(recorded: Vector):
    name = "mpjpe_plain"
    with pytest.raises(AssertionError, match=name):
        compare(replace(recorded, outputs={**recorded.outputs, name: recorded.outputs[name] + 1e-4}))


def test_weights_follow_the_rule_in_sorted_order():
    rng = np.random.default_rng(5)
    first, second = rng.standard_normal(3), rng.standard_normal((4, 2, 2))
    weights = generate_weights([("b.weight", [4, 2, 2]), ("a.running_var", [3])], 5)
    np.testing.assert_array_equal(weights["a.running_var"], (1 + 0.1 * abs(first)).astype(np.float32))
    np.testing.assert_array_equal(weights["b.weight"], (second / 2).astype(np.float32))


def test_products_are_computed_in_full_precision_on_any_device():
    seen = []

    def adapter(vector: Vector) -> dict[str, np.ndarray]:
        product = jax.jit(lambda a, b: a @ b).lower(np.ones((2, 2), np.float32), np.ones((2, 2), np.float32))
        seen.append(product.as_text())
        return {"pose": np.ones(3)}

    vector = Vector("any", {}, {}, {"pose": np.ones(3)}, {})
    (compared,) = compare_outputs(vector, System(adapter))
    assert compared.share() == 0.0
    assert "precision = [HIGHEST, HIGHEST]" in seen[0]


def test_a_difference_is_a_share_of_what_is_allowed():
    recorded = np.array([1.0, 2.0, np.nan])
    near = Compared("pose", recorded, np.array([1.0, 2.5, np.nan]), absolute=0.5, relative=0.25)
    assert near.share() == pytest.approx(0.5)
    assert near._replace(found=np.zeros(2)).share() == float("inf")

"""Counts what a function multiplies, from its trace, and measures how fast this machine multiplies at all.

A compiled program's own `cost_analysis` counts the body of a loop once; here it counts as often as it runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Jaxpr, JaxprEqn, jaxprs_in_params
from timing import clocked, counts_cpu_time


def count_flops(function: Callable, *arguments: Any) -> float:
    """The FLOPs of the matrix products of a call on one device, two per multiplication and addition."""
    return _count(jax.make_jaxpr(function)(*arguments).jaxpr)


def _count(jaxpr: Jaxpr) -> float:
    return sum(_count_equation(equation) for equation in jaxpr.eqns)


def _count_equation(equation: JaxprEqn) -> float:
    if equation.primitive.name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        shape = equation.invars[0].aval.shape
        return 2.0 * math.prod(equation.outvars[0].aval.shape) * math.prod(shape[axis] for axis in contracted)
    inner = [_count(part) for part in jaxprs_in_params(equation.params)]
    if equation.primitive.name == "cond":
        return max(inner, default=0.0)
    # How often a `while` runs is not known before; none of the lifters has matrix products in one.
    return equation.params.get("length", 1) * sum(inner) if equation.primitive.name == "scan" else sum(inner)


def measure_peak(dtype: str = "float32", repeats: int = 5) -> float:
    """The FLOP/s of a large matrix product: per processor second where the processor computes, else by the clock."""
    rows, inner, columns = (4096, 512, 1536) if jax.default_backend() == "cpu" else (16384, 8192, 8192)
    left, right = jnp.ones((rows, inner), dtype), jnp.ones((inner, columns), dtype)
    # Many products in one call: a single one would be as short as its dispatch.
    count = 4 if jax.default_backend() == "cpu" else 20

    @jax.jit
    def multiply(left: jax.Array, right: jax.Array) -> jax.Array:
        def once(total: jax.Array, _: None) -> tuple[jax.Array, None]:
            return total + (left + total[0, 0]) @ right, None

        return jax.lax.scan(once, jnp.zeros((rows, columns), dtype), None, length=count)[0]

    call = partial(multiply, left, right)
    clocked(call)
    seconds = [clocked(call)[1] for _ in range(repeats)]
    least = min(one.cpu if counts_cpu_time() else one.wall for one in seconds)
    return 2.0 * rows * inner * columns * count / least


def program_bytes(compiled: Any) -> int | None:
    """The bytes of a compiled program: arguments, outputs and what is between; None where it does not say."""
    found = compiled.memory_analysis()
    if found is None:
        return None
    names = ("argument_size_in_bytes", "output_size_in_bytes", "temp_size_in_bytes")
    return sum(getattr(found, name) for name in names) - found.alias_size_in_bytes

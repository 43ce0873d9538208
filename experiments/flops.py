"""Counts what a function multiplies, from its trace, and measures how fast this machine multiplies and copies at all.

A compiled program's own `cost_analysis` counts the body of a loop once; here it counts as often as it runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import Jaxpr, JaxprEqn, jaxprs_in_params
from timing import clocked, counts_cpu_time


class Products(NamedTuple):
    """The matrix products of a call, on one device where it is mapped over several.

    Attributes:
        flops: Two per multiplication and addition.
        bytes: Of their operands and results, as if each came from memory and went there: caches spare a part of it.
    """

    flops: float = 0.0
    bytes: float = 0.0


def count_products(function: Callable, *arguments: Any) -> Products:
    """The matrix products of a call."""
    return _count(jax.make_jaxpr(function)(*arguments).jaxpr)


def _count(jaxpr: Jaxpr) -> Products:
    return _add([_count_equation(equation) for equation in jaxpr.eqns])


def _count_equation(equation: JaxprEqn) -> Products:
    if equation.primitive.name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        shape = equation.invars[0].aval.shape
        flops = 2.0 * math.prod(equation.outvars[0].aval.shape) * math.prod(shape[axis] for axis in contracted)
        arrays = [one.aval for one in (*equation.invars, *equation.outvars)]
        return Products(flops, float(sum(one.size * one.dtype.itemsize for one in arrays)))
    inner = [_count(part) for part in jaxprs_in_params(equation.params)]
    if equation.primitive.name == "cond":
        return max(inner, default=Products())
    # How often a `while` runs is not known before; none of the lifters has matrix products in one.
    times = equation.params.get("length", 1) if equation.primitive.name == "scan" else 1
    return Products(*(times * one for one in _add(inner)))


def _add(parts: Sequence[Products]) -> Products:
    return Products(sum(part.flops for part in parts), sum(part.bytes for part in parts))


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

    return 2.0 * rows * inner * columns * count / _least_seconds(partial(multiply, left, right), repeats)


def measure_bandwidth(repeats: int = 5) -> float:
    """The bytes/s at which a large array is read and written in place, in the same seconds as `measure_peak`."""
    # In memory that is there already: of a new array the system would have to find every page first.
    increment = partial(jax.jit, donate_argnums=0)(lambda array: array + 1)
    arrays = [jnp.ones((2**26 if jax.default_backend() == "cpu" else 2**29,), jnp.float32)]

    def call() -> jax.Array:
        arrays.append(increment(arrays.pop()))
        return arrays[0]

    return 2.0 * arrays[0].nbytes / _least_seconds(call, repeats)


def _least_seconds(call: Callable[[], Any], repeats: int) -> float:
    clocked(call)
    seconds = [clocked(call)[1] for _ in range(repeats)]
    return min(one.cpu if counts_cpu_time() else one.wall for one in seconds)


def program_bytes(compiled: Any) -> int | None:
    """The bytes of a compiled program: arguments, outputs and what is between; None where it does not say."""
    found = compiled.memory_analysis()
    if found is None:
        return None
    names = ("argument_size_in_bytes", "output_size_in_bytes", "temp_size_in_bytes")
    return sum(getattr(found, name) for name in names) - found.alias_size_in_bytes

"""The gradient of attention that is written out, beside the one that differentiation gives, in turns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from timing import Report, Row, counts_cpu_time, interleaved, timed, turn_clocks

from diffpose_jax.models.softmax_attention import attend, attention_weights, split_heads

# Groups, tokens, heads, channels of a head: PoseFormer's joints, MixSTE's joints and frames, small and at the paper's
# size, and frames of 81 and 243.
SHAPES = (
    (1296, 17, 8, 4),
    (108, 17, 8, 8),
    (68, 27, 8, 8),
    (27, 17, 8, 64),
    (17, 27, 8, 64),
    (16, 81, 8, 68),
    (17, 243, 8, 64),
)


def benchmark_attention(shapes: Sequence[tuple[int, int, int, int]], repeats: int, report: Report) -> None:
    """Tokens/s of value and gradient of attention as the networks have it; the ratio is to plain differentiation."""
    for groups, tokens, heads, width in shapes:
        key, other = jax.random.split(jax.random.key(0))
        fused = jax.random.normal(key, (groups, tokens, 3, heads, width))
        grad = jax.random.normal(other, (groups, tokens, heads, width))
        calls, compiling = {}, 0.0
        for name, function in (("formula", _formula), ("written out", partial(attend, mask=None, pde=False))):
            compiled, compiling = timed(jax.jit(partial(_value_and_gradient, function)).lower(fused, grad).compile)
            calls[name] = partial(compiled, fused, grad)
        seconds = interleaved(calls, repeats, 5 if repeats > 2 else 2)
        counted = {name: np.median(part[..., int(counts_cpu_time())], axis=1) for name, part in seconds.items()}
        case = f"gradient, {groups} x {tokens} tokens, {heads} heads of {width}"
        row = Row("attention", case, "tokens", groups * tokens, **turn_clocks(seconds["written out"]))
        ratio = (counted["formula"] / counted["written out"]).tolist()
        report(row._replace(compile_seconds=compiling, ratio=ratio))


def _formula(fused: jax.Array) -> jax.Array:
    query, key, value = split_heads(fused)
    return jnp.swapaxes(attention_weights(query, key, None) @ value, 1, 2)


def _value_and_gradient(
    function: Callable[[jax.Array], jax.Array], fused: jax.Array, grad: jax.Array
) -> tuple[jax.Array, jax.Array]:
    value, backward = jax.vjp(function, fused)
    return value, backward(grad)[0]

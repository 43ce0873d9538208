"""How much one compiled call does: windows, hypotheses at a time, and what devices share, within bounded memory.

Memory of a call grows with the hypotheses of all its windows that are computed at once. What one window with one
hypothesis needs is read off the trace of the function that lifts it, which costs no compilation.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax.extend.core import Jaxpr, JaxprEqn, Var, jaxprs_in_params

# Bytes per device where the config does not say. On CPU larger calls are slower, not faster: they leave the caches.
# `experiments/RESULTS.md` has the rates of several methods, "Memory and precision".
CPU_BYTES = 32 << 20
# The share of an accelerator's memory: the trace does not know what the compiler makes of it, see `live_bytes`.
ACCELERATOR_SHARE = 0.25
# Frames of all hypotheses that are computed at once without asking what they need.
SMALL_CALL = 64
# Copies of all hypotheses `[H, B, F, J, 3]` that aggregation and scores hold at a time.
KEPT_COPIES = 6


class Workload(NamedTuple):
    """What one compiled call does on a device.

    Attributes:
        windows: Windows of a call at most.
        chunk: Hypotheses that are computed at a time, None for all of them.
    """

    windows: int
    chunk: int | None


class Needs(NamedTuple):
    """The bytes that a call needs.

    Attributes:
        drawing: For one hypothesis of one window while it is drawn.
        kept: For the poses of one hypothesis of one window, once drawn.
    """

    drawing: int
    kept: int


def shares_hypotheses(windows: int, hypotheses: int, devices: int) -> bool:
    """Whether devices that share the hypotheses of all windows have less to do than devices that share the windows."""
    return windows < devices and windows * -(-hypotheses // devices) < hypotheses


def choose_workload(needs: Needs, windows: int, hypotheses: int, budget: int) -> Workload:
    """The most windows and hypotheses at a time that need at most `budget` bytes; at least one of each.

    Args:
        needs: The bytes of one hypothesis of one window.
        windows: The most windows of a call.
        hypotheses: H, on a device.
        budget: Bytes.
    """
    # All hypotheses of a window are aggregated together. Half of the budget is for them, the rest for drawing.
    whole = max(1, needs.kept * KEPT_COPIES * hypotheses)
    windows = max(1, min(windows, budget // 2 // whole, budget // (needs.drawing + whole)))
    left = max(0, budget - windows * whole)
    chunk = max(1, left // max(1, windows * needs.drawing))
    return Workload(windows, None if chunk >= hypotheses else chunk)


def default_budget() -> int:
    """The bytes that a call may need on a device of this process, where the config does not say."""
    stats = jax.local_devices()[0].memory_stats() if jax.default_backend() != "cpu" else None
    limit = (stats or {}).get("bytes_limit")
    return int(ACCELERATOR_SHARE * limit) if limit else CPU_BYTES


def measure_needs(lift: Callable[..., Any], *arguments: Any) -> Needs:
    """The bytes that a function needs which lifts one window with one hypothesis, and those of its outputs."""
    traced = jax.make_jaxpr(lift)(*arguments)
    return Needs(live_bytes(traced.jaxpr), sum(_size(variable) for variable in traced.jaxpr.outvars))


def live_bytes(jaxpr: Jaxpr) -> int:
    """The most bytes of values between a traced function's arguments and results that are alive at a time.

    As if every operation wrote its result to memory. Compilers fuse operations, which needs less, and copy for layouts,
    which needs more. XLA:CPU's own figure was 0.3 to 0.9 of this one for DiffuPose, its MLP, MixSTE and D3DP.
    """
    last = {variable: index for index, one in enumerate(jaxpr.eqns) for variable in one.invars if _is_var(variable)}
    last |= {variable: len(jaxpr.eqns) for variable in jaxpr.outvars if _is_var(variable)}
    made: dict[Any, int] = {}
    live = most = 0
    for index, equation in enumerate(jaxpr.eqns):
        made |= {variable: _size(variable) for variable in equation.outvars}
        live += sum(made[variable] for variable in equation.outvars)
        most = max(most, live + _inner_bytes(equation))
        for variable in {one for one in (*equation.invars, *equation.outvars) if _is_var(one)}:
            if last.get(variable, index) == index:
                live -= made.pop(variable, 0)
    return most


def _inner_bytes(equation: JaxprEqn) -> int:
    return max((live_bytes(part) for part in jaxprs_in_params(equation.params)), default=0)


def _is_var(variable: Any) -> bool:
    return isinstance(variable, Var)


def _size(variable: Any) -> int:
    aval = variable.aval
    return math.prod(aval.shape) * getattr(aval.dtype, "itemsize", 8) if hasattr(aval, "shape") else 0

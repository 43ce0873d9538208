"""Many hypotheses of one pose: sampling them under `vmap`, and aggregating them to one pose."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from diffpose_jax.errors import UserError
from diffpose_jax.keys import fold_in

_UNIT_AXES = {"joint": (), "pose": (-1,), "clip": (-2, -1), "batch": (-3, -2, -1)}


def sample_hypotheses(
    sample_one: Callable[[Array], Array], key: Array, num_hypotheses: int, chunk: int | None = None
) -> Array:
    """Draw hypotheses `[H, B, F, J, 3]`: `sample_one(key_h) -> [B, F, J, 3]` under `vmap`, `key_h = fold_in(key, h)`.

    `key` is one key or a key per example `[B]`, and so is each key_h: hypothesis 3 is the same whether H is 5 or 20.
    `chunk` bounds how many hypotheses are in memory at once.
    """
    keys = hypothesis_keys(key, num_hypotheses)
    if chunk is None or chunk >= num_hypotheses:
        return jax.vmap(sample_one)(keys)
    return lax.map(sample_one, keys, batch_size=chunk)


def hypothesis_keys(key: Array, num_hypotheses: int) -> Array:
    """Keys `[H]` or, from keys `[B]`, `[H, B]`: hypothesis h folds in h."""
    return jax.vmap(fold_in, in_axes=(None, 0))(key, jnp.arange(num_hypotheses))


def mean(hypotheses: Array) -> Array:
    """The mean pose: `[H, B, F, J, 3] -> [B, F, J, 3]` (P-Agg of Shan et al. 2023)."""
    return jnp.mean(hypotheses, axis=0)


def medoid(hypotheses: Array, per: str = "pose") -> Array:
    """The hypothesis with the least summed distance to the others: `[H, B, F, J, 3] -> [B, F, J, 3]`.

    The distance is the mean joint distance over one unit: chosen per "pose" (each frame for itself), per "clip" (one
    hypothesis for all frames), or per "joint". Unlike the mean it is a pose that was sampled.
    """

    def summed_distance(one: Array) -> Array:
        return jnp.sum(jnp.linalg.norm(hypotheses - one[None], axis=-1), axis=0)

    # One hypothesis after the other: [H, H, B, F, J, 3] would not fit for large H.
    return select_by_error(hypotheses, lax.map(summed_distance, hypotheses), per)


def joint_median(hypotheses: Array) -> Array:
    """The coordinate-wise median of each joint: `[H, B, F, J, 3] -> [B, F, J, 3]`, deaf to a few wild hypotheses.

    Coordinate-wise rather than geometric: exact and cheap, but it depends on the orientation of the axes.
    """
    return jnp.median(hypotheses, axis=0)


def select_by_error(hypotheses: Array, errors: Array, per: str = "pose") -> Array:
    """Take the hypothesis of least error: `[H, B, F, J, 3]`, errors `[H, B, F, J] -> [B, F, J, 3]`.

    per: "joint" combines joints of different hypotheses, "pose" chooses by the mean error of a frame's joints, "clip"
    by the mean over frames and joints, "batch" one hypothesis for all, so that it depends on the batch.
    Ties go to the first hypothesis. An unknown unit is a UserError.
    """
    best = jnp.argmin(_pooled(errors, per), axis=0, keepdims=True)[..., None]
    best = jnp.broadcast_to(best, (1, *hypotheses.shape[1:-1], 1))
    return jnp.take_along_axis(hypotheses, best, axis=0)[0]


def reprojection(hypotheses: Array, errors: Array, per: str = "joint") -> Array:
    """Take what reprojects best onto the 2D input; per joint it is JPMA, the J-Agg of Shan et al. 2023.

    `[H, B, F, J, 3]` and 2D distances `[H, B, F, J]` -> `[B, F, J, 3]`. It is no oracle as long as the root position
    and the camera used for the errors are not ground truth.
    """
    return select_by_error(hypotheses, errors, per)


def reprojection_expectation(hypotheses: Array, errors: Array, temperature: float = 1.0, per: str = "joint") -> Array:
    """The mean over hypotheses weighted by softmax(-error / temperature), `[H, B, F, J, 3] -> [B, F, J, 3]`.

    errors `[H, B, F, J]` are 2D distances and temperature has their unit. In normalised image units 1 leaves hardly
    more than the mean; 0.01 is 5 pixels in an image 1000 wide. Towards 0 it becomes `reprojection`, towards infinity
    the mean. per: "joint" weights each joint by its own error, others pool as `select_by_error` does. An unknown unit
    or a temperature that is not positive is a UserError.
    """
    if not temperature > 0:
        raise UserError(f"reprojection_expectation: expected a temperature above 0, found {temperature}")
    weights = jax.nn.softmax(-_pooled(errors, per) / temperature, axis=0)
    return jnp.sum(weights[..., None] * hypotheses, axis=0)


def oracle_best(hypotheses: Array, target: Array, per: str = "pose") -> Array:
    """ORACLE, uses the ground truth: the hypothesis nearest to `target` `[B, F, J, 3]`, a bound and not a result.

    Per "joint" it is J-Best of Shan et al. 2023, per "batch" the P-Best they compute over each batch.
    """
    return select_by_error(hypotheses, jnp.linalg.norm(hypotheses - target[None], axis=-1), per)


def _pooled(errors: Array, per: str) -> Array:
    """Errors `[H, B, F, J]` averaged over one unit, with axes of length one in its place."""
    if per not in _UNIT_AXES:
        raise UserError(f"hypothesis selection: expected one of {', '.join(_UNIT_AXES)}, found {per!r}")
    return jnp.mean(errors, axis=_UNIT_AXES[per], keepdims=True) if _UNIT_AXES[per] else errors


class Aggregation(NamedTuple):
    """An aggregation and what it needs besides the hypotheses."""

    function: Callable[..., Array]
    needs: str | None = None  # None, "errors" or "target"

    @property
    def oracle(self) -> bool:
        """Whether it looks at the ground truth, so that a report can say so."""
        return self.needs == "target"


AGGREGATIONS: dict[str, Aggregation] = {
    "mean": Aggregation(mean),
    "medoid": Aggregation(medoid),
    "joint_median": Aggregation(joint_median),
    "reprojection": Aggregation(reprojection, "errors"),
    "reprojection_expectation": Aggregation(reprojection_expectation, "errors"),
    "oracle_best": Aggregation(oracle_best, "target"),
}


def aggregate(
    name: str, hypotheses: Array, errors: Array | None = None, target: Array | None = None, **options: Any
) -> Array:
    """Aggregate `[H, B, F, J, 3] -> [B, F, J, 3]` by name.

    `errors [H, B, F, J]` or `target [B, F, J, 3]` are given where the aggregation needs them;
    options go to the function, such as `per`. An unknown name or a missing input is a UserError.
    """
    if name not in AGGREGATIONS:
        raise UserError(f"aggregation: expected one of {', '.join(AGGREGATIONS)}, found {name!r}")
    function, needs = AGGREGATIONS[name]
    if needs is None:
        return function(hypotheses, **options)
    extra = {"errors": errors, "target": target}[needs]
    if extra is None:
        raise UserError(f"aggregation {name}: expected {needs}, found none")
    return function(hypotheses, extra, **options)

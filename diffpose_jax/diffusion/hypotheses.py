"""Hypotheses of a pose: draw many of them under `vmap`, and aggregate them to one pose.

P-Agg, J-Agg, P-Best and J-Best are the names of Shan et al. 2023 (D3DP).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.sharding import Mesh, PartitionSpec

from diffpose_jax.errors import UserError
from diffpose_jax.keys import fold_in

# Axes of errors [H, B, F, J] that are averaged before the least one is searched, counted from the end.
_UNIT_AXES = {"joint": (), "pose": (-1,), "clip": (-2, -1), "batch": (-3, -2, -1)}


def sample_hypotheses(
    sample_one: Callable[[Array], Array],
    key: Array,
    num_hypotheses: int,
    chunk: int | None = None,
    mesh: Mesh | None = None,
) -> Array:
    """Draw hypotheses of poses, each from a key of its own, so that hypothesis 3 is the same whether H is 5 or 20.

    Args:
        sample_one: `key_h -> [B, F, J, 3]`, with `key_h = fold_in(key, h)`.
        key: One key, or a key per example `[B]`; each key_h then is too.
        num_hypotheses: H.
        chunk: The most hypotheses that are computed, and in memory, at once on a device; None for all.
        mesh: The devices, on one axis, that share the hypotheses; None for the device that this is called on.

    Returns:
        Hypotheses `[H, B, F, J, 3]`.
    """

    # Any way every hypothesis is computed from its own key alone, so the numbers do not depend on chunk and devices.
    def sample_all(keys: Array) -> Array:
        if chunk is None or chunk >= len(keys):
            return jax.vmap(sample_one)(keys)
        return lax.map(sample_one, keys, batch_size=even_chunk(len(keys), chunk))

    if mesh is None:
        return sample_all(hypothesis_keys(key, num_hypotheses))
    # Every device draws as many; what is too many is thrown away.
    each, along = -(-num_hypotheses // mesh.size), PartitionSpec(*mesh.axis_names)
    shared = jax.shard_map(sample_all, mesh=mesh, in_specs=along, out_specs=along, check_vma=False)
    return shared(hypothesis_keys(key, each * mesh.size))[:num_hypotheses]


def even_chunk(hypotheses: int, most: int) -> int:
    """Return the largest divisor of H up to `most`, or `most` itself where that is less than half of it.

    A last chunk of another length is compiled a second time.
    """
    divisor = next(size for size in range(most, 0, -1) if hypotheses % size == 0)
    return divisor if 2 * divisor >= most else most


def hypothesis_keys(key: Array, num_hypotheses: int) -> Array:
    """Derive a key for each hypothesis by folding in its index: `[H]` of one key, `[H, B]` of a key array `[B]`."""
    return jax.vmap(fold_in, in_axes=(None, 0))(key, jnp.arange(num_hypotheses))


def mean(hypotheses: Array) -> Array:
    """Average hypotheses: `[H, B, F, J, 3] -> [B, F, J, 3]` (P-Agg)."""
    # It estimates the posterior mean, the pose of least expected squared error. It is not a sample: where hypotheses
    # point a bone in different directions, the bone of their mean is shorter than theirs are on average.
    return jnp.mean(hypotheses, axis=0)


def medoid(hypotheses: Array, per: str = "pose") -> Array:
    """Select the hypothesis with the least summed distance to the others: `[H, B, F, J, 3] -> [B, F, J, 3]`.

    Unlike the mean it is a pose that was sampled. The distance is the mean joint distance over the unit `per`: 'pose'
    (each frame by itself), 'clip' (one hypothesis for all frames) or 'joint'.
    """

    def summed_distance(one: Array) -> Array:
        return jnp.sum(jnp.linalg.norm(hypotheses - one[None], axis=-1), axis=0)

    # One hypothesis after the other: differences of all pairs, [H, H, B, F, J, 3], would not fit for a large H.
    return select_by_error(hypotheses, lax.map(summed_distance, hypotheses), per)


def joint_median(hypotheses: Array) -> Array:
    """Take the median of each coordinate: `[H, B, F, J, 3] -> [B, F, J, 3]`, robust to a few outlying hypotheses.

    It is exact and cheap where the geometric median is neither, but it depends on the orientation of the axes.
    """
    return jnp.median(hypotheses, axis=0)


def select_by_error(hypotheses: Array, errors: Array, per: str = "pose") -> Array:
    """Select the hypothesis of least error; of equal ones the first.

    Args:
        hypotheses: `[H, B, F, J, 3]`.
        errors: `[H, B, F, J]`.
        per: 'joint' combines joints of different hypotheses, 'pose' selects by the mean error of a frame's joints,
            'clip' by the mean over frames and joints, 'batch' one hypothesis for all examples, which makes the result
            depend on the batch.

    Returns:
        Poses `[B, F, J, 3]`.

    Raises:
        UserError: for an unknown unit.
    """
    # Of equal errors argmin takes the first. The root, zero in all hypotheses, has equal errors in 3D.
    best = jnp.argmin(_pool(errors, per), axis=0, keepdims=True)[..., None]
    # Per joint, the two ends of a bone may come from different hypotheses: its length is then that of neither.
    best = jnp.broadcast_to(best, (1, *hypotheses.shape[1:-1], 1))
    return jnp.take_along_axis(hypotheses, best, axis=0)[0]


def reprojection(hypotheses: Array, errors: Array, per: str = "joint") -> Array:
    """Select what reprojects best onto the 2D input; per 'joint' it is J-Agg, joint-wise aggregation (JPMA).

    It does not use the ground truth as long as the errors do not: as long as the root's position and the camera that
    hypotheses are reprojected with are estimates or known to the user.

    Args:
        hypotheses: `[H, B, F, J, 3]`.
        errors: 2D distances to the input keypoints `[H, B, F, J]`.
        per: The unit of selection, see `select_by_error`.

    Returns:
        Poses `[B, F, J, 3]`.
    """
    # What moves a joint along its line of sight changes no error in the image: the choice says little of its depth.
    return select_by_error(hypotheses, errors, per)


def reprojection_expectation(hypotheses: Array, errors: Array, temperature: float = 1.0, per: str = "joint") -> Array:
    """Average hypotheses with the weights softmax(-error / temperature).

    Args:
        hypotheses: `[H, B, F, J, 3]`.
        errors: 2D distances to the input keypoints `[H, B, F, J]`.
        temperature: In the unit of the errors, above 0. Towards 0 the result becomes that of `reprojection`, towards
            infinity the mean. In normalised image units 0.01 is 5 pixels in an image 1000 wide, and 1 hardly differs
            from the mean.
        per: 'joint' weights each joint by its own error; others average errors as `select_by_error` does.

    Returns:
        Poses `[B, F, J, 3]`.

    Raises:
        UserError: for an unknown unit, or a temperature that is not positive.
    """
    if not temperature > 0:
        raise UserError(f"reprojection_expectation: expected a temperature above 0, found {temperature}")
    # As if each error were drawn from exp(-error / temperature): the weights are then posterior probabilities.
    weights = jax.nn.softmax(-_pool(errors, per) / temperature, axis=0)
    return jnp.sum(weights[..., None] * hypotheses, axis=0)


def oracle_best(hypotheses: Array, target: Array, per: str = "pose") -> Array:
    """Select the hypothesis nearest to the ground truth `target` `[B, F, J, 3]`: an oracle, a bound and not a result.

    Per 'joint' it is J-Best, per 'batch' the P-Best that the release of Shan et al. 2023 computes over each batch.
    """
    # The least error of H falls with H for any distribution that spreads, also for one that ignores the input. Such
    # figures can be compared at equal H and equal spread only.
    return select_by_error(hypotheses, jnp.linalg.norm(hypotheses - target[None], axis=-1), per)


def _pool(errors: Array, per: str) -> Array:
    """Average errors `[H, B, F, J]` over a unit, with axes of length 1 in its place."""
    if per not in _UNIT_AXES:
        raise UserError(f"hypothesis selection: expected one of {', '.join(_UNIT_AXES)}, found {per!r}")
    return jnp.mean(errors, axis=_UNIT_AXES[per], keepdims=True) if _UNIT_AXES[per] else errors


# What each aggregation takes besides the hypotheses: "errors", or "target" where it is an oracle.
AGGREGATIONS: dict[str, tuple[Callable[..., Array], str | None]] = {
    "mean": (mean, None),
    "medoid": (medoid, None),
    "joint_median": (joint_median, None),
    "reprojection": (reprojection, "errors"),
    "reprojection_expectation": (reprojection_expectation, "errors"),
    "oracle_best": (oracle_best, "target"),
}


def aggregate(
    name: str, hypotheses: Array, errors: Array | None = None, target: Array | None = None, **options: Any
) -> Array:
    """Aggregate hypotheses by the name of an aggregation.

    Args:
        name: A key of `AGGREGATIONS`.
        hypotheses: `[H, B, F, J, 3]`.
        errors: 2D distances `[H, B, F, J]`, where the aggregation needs them.
        target: The ground truth `[B, F, J, 3]`, where the aggregation is an oracle.
        **options: Passed to the aggregation's function, such as `per`.

    Returns:
        Poses `[B, F, J, 3]`.

    Raises:
        UserError: for an unknown name, or without the errors or the target where they are needed.
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

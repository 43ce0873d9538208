"""Rotations as unit quaternions (w, x, y, z), vectorised over any leading axes.

Functions are compiled whole, so that calls from plain Python are one dispatch; inside another compiled function that
makes no difference.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

Array = np.ndarray | jax.Array


@jax.jit
def multiply(first: Array, second: Array) -> jax.Array:
    """Multiplies quaternions `[..., 4]`: the rotation `second` followed by `first`."""
    # (w1, a1) (w2, a2) = (w1 w2 - a1 . a2, w1 a2 + w2 a1 + a1 x a2), with the vector parts a.
    (w1, x1, y1, z1), (w2, x2, y2, z2) = (jnp.moveaxis(jnp.asarray(q), -1, 0) for q in (first, second))
    return jnp.stack(
        [
            w1 * w2 - x1 * x2 - y1 * y2 - z1 * z2,
            w1 * x2 + x1 * w2 + y1 * z2 - z1 * y2,
            w1 * y2 - x1 * z2 + y1 * w2 + z1 * x2,
            w1 * z2 + x1 * y2 - y1 * x2 + z1 * w2,
        ],
        axis=-1,
    )


def conjugate(quaternion: Array) -> jax.Array:
    """Conjugates quaternions `[..., 4]`, which inverts the rotation of a unit quaternion."""
    quaternion = jnp.asarray(quaternion)
    return jnp.concatenate([quaternion[..., :1], -quaternion[..., 1:]], axis=-1)


@jax.jit
def rotate(quaternion: Array, vectors: Array) -> jax.Array:
    """Rotates vectors `[L..., M..., 3]` by unit quaternions `[L..., 4]`."""
    # With q = (w, a), the product q (0, v) q* is v + 2 w (a x v) + 2 a x (a x v), which is v + w t + a x t with
    # t = 2 a x v: two cross products in place of two quaternion products.
    vectors, quaternion = jnp.asarray(vectors), jnp.asarray(quaternion)
    inner = (1,) * (vectors.ndim - quaternion.ndim)
    quaternion = quaternion.astype(vectors.dtype).reshape(*quaternion.shape[:-1], *inner, 4)
    quaternion = jnp.broadcast_to(quaternion, (*vectors.shape[:-1], 4))
    axis = quaternion[..., 1:]
    twice = 2 * jnp.cross(axis, vectors)
    return vectors + quaternion[..., :1] * twice + jnp.cross(axis, twice)


@jax.jit
def to_matrix(quaternion: Array) -> jax.Array:
    """Turns unit quaternions `[..., 4]` into rotation matrices `[..., 3, 3]`, which act on column vectors."""
    w, x, y, z = jnp.moveaxis(jnp.asarray(quaternion), -1, 0)
    entries = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return jnp.stack([jnp.stack(row, axis=-1) for row in entries], axis=-2)


@jax.jit
def from_matrix(matrix: Array) -> jax.Array:
    """Turns rotation matrices `[..., 3, 3]` into unit quaternions `[..., 4]` with w >= 0 (Shepperd 1978)."""
    (a, b, c), (d, e, f), (g, h, i) = (jnp.moveaxis(row, -1, 0) for row in jnp.moveaxis(jnp.asarray(matrix), -2, 0))
    # The matrix 4 q q^T is linear in the entries of `to_matrix`: 4 w w = 1 + a + e + i, 4 w x = h - f, and so on. Each
    # of its rows is q times 4 times one component. The row of the largest component is far from zero (4 q_i^2 >= 1), so
    # that dividing by its length loses no digits; the row of w vanishes for half turns.
    rows = [
        [1 + a + e + i, h - f, c - g, d - b],
        [h - f, 1 + a - e - i, b + d, c + g],
        [c - g, b + d, 1 - a + e - i, f + h],
        [d - b, c + g, f + h, 1 - a - e + i],
    ]
    outer = jnp.stack([jnp.stack(row, axis=-1) for row in rows], axis=-2)
    largest = jnp.argmax(jnp.diagonal(outer, axis1=-2, axis2=-1), axis=-1)[..., None, None]
    quaternion = jnp.take_along_axis(outer, largest, axis=-2)[..., 0, :]
    quaternion = quaternion / jnp.linalg.norm(quaternion, axis=-1, keepdims=True)
    return jnp.where(quaternion[..., :1] < 0, -quaternion, quaternion)


@jax.jit
def from_axis_angle(axis_angle: Array) -> jax.Array:
    """Turns rotation vectors `[..., 3]` (axis times angle in radians) into unit quaternions `[..., 4]`."""
    axis_angle = jnp.asarray(axis_angle)
    square = jnp.sum(axis_angle**2, axis=-1, keepdims=True)
    # The square root has no derivative at zero, so that the angle of no rotation is taken as a constant. The vector
    # part is sin(angle / 2) / angle times the rotation vector; jnp.sinc(t) = sin(pi t) / (pi t) is finite at zero.
    angle = jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)
    return jnp.concatenate([jnp.cos(angle / 2), axis_angle * jnp.sinc(angle / (2 * jnp.pi)) / 2], axis=-1)


@jax.jit
def slerp(start: Array, end: Array, fraction: Array) -> jax.Array:
    """Interpolates unit quaternions `[..., 4]` along the shorter arc; `fraction` `[...]` is 0 at start and 1 at end."""
    start, end, fraction = jnp.asarray(start), jnp.asarray(end), jnp.asarray(fraction)[..., None]
    end = jnp.where(jnp.sum(start * end, axis=-1, keepdims=True) < 0, -end, end)
    # Shoemake (1985): sin((1 - f) a) / sin(a) start + sin(f a) / sin(a) end, where a is the angle between the two. The
    # chords give tan(a / 2) = |end - start| / |end + start|, which is accurate for nearly equal quaternions, where the
    # arccos of their dot product is not; sinc keeps the quotients finite when a is zero.
    distance, total = (jnp.linalg.norm(x, axis=-1, keepdims=True) for x in (end - start, end + start))
    angle = 2 * jnp.arctan2(distance, total)
    scale = jnp.sinc(angle / jnp.pi)
    before = (1 - fraction) * jnp.sinc((1 - fraction) * angle / jnp.pi) / scale
    after = fraction * jnp.sinc(fraction * angle / jnp.pi) / scale
    return before * start + after * end

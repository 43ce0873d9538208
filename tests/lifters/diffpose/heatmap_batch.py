"""A few frames with heatmaps' mixtures, and a context that makes rough poses of keypoints, for tests of DiffPose."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from diffpose_jax.config import Options
from diffpose_jax.lifters.base import Batch, Lifter, Sampling
from diffpose_jax.lifters.diffpose.initial_distribution import draw_gaussian, make_initial_distribution
from diffpose_jax.mixtures.mixture import Mixture
from diffpose_jax.skeleton import H36M_17, Skeleton

B, FRAMES, J, M = 4, 2, 17, 3
_RNG = np.random.default_rng(0)


def both_sides(values: np.ndarray) -> jax.Array:
    """Values `[J, ...]`, the same left and right."""
    return jnp.asarray((values + values[list(H36M_17.flip_order)]) / 2, jnp.float32)


STATISTICS = {
    "spread": both_sides(_RNG.uniform(0.02, 0.06, (J, 3))),
    "depth_mean": both_sides(_RNG.normal(0, 0.05, J)),
    "depth_spread": both_sides(_RNG.uniform(0.1, 0.3, J)),
}


# What a method keeps of a context without parameters.
FROZEN = {"context": {}, **STATISTICS}


def normals(seed: int) -> Callable[..., jax.Array]:
    """A source of standard normal arrays, `normal(*shape)`."""
    rng = np.random.default_rng(seed)
    return lambda *shape: jnp.asarray(rng.standard_normal(shape), jnp.float32)


def mixtures(normal: Callable[..., jax.Array], *lead: int, size: int = 2) -> Mixture:
    """Random mixtures `[..., M]` of `size` dimensions, in image units."""
    root = 0.03 * normal(*lead, M, size, size)
    covariances = root @ jnp.swapaxes(root, -1, -2) + 1e-4 * np.eye(size, dtype=np.float32).reshape(
        (1,) * (len(lead) + 1) + (size, size)
    )
    return Mixture(jax.nn.softmax(normal(*lead, M)), 0.2 * normal(*lead, M, size), covariances)


def heatmap_batch() -> Batch:
    """Frames `[B, FRAMES]` whose keypoints are the estimates of heatmaps."""
    normal = normals(1)
    poses = 0.3 * normal(B, FRAMES, J, 3)
    poses = poses - poses[:, :, :1]
    keypoints = 0.4 * poses[..., :2] + 0.01 * normal(B, FRAMES, J, 2)
    mixture = mixtures(normal, B, FRAMES, J)
    mixture = mixture._replace(means=mixture.means + keypoints[..., None, :])
    return Batch(keypoints, poses, jnp.ones((B, FRAMES, J)), jnp.arange(B, dtype=jnp.int32) * 11, mixture)


def from_keypoints(batch: Batch) -> jax.Array:
    """A rough pose made of the keypoints, the same for a mirrored input up to the mirror."""
    keypoints = batch.keypoints - batch.keypoints[:, :, :1]
    depth = 0.3 * keypoints[..., 1:] - keypoints[..., :1] ** 2
    return jnp.concatenate([keypoints / 0.4, depth], axis=-1)


NO_OPTIONS = Options()


@dataclasses.dataclass(frozen=True)
class RoughLifter(Lifter):
    """A lifter without parameters whose poses are a function of the batch; its features are its keypoints."""

    options_type: ClassVar[type[Options]] = Options

    estimate: Callable[[Batch], jax.Array] = from_keypoints
    options: Options = NO_OPTIONS
    skeleton: Skeleton = H36M_17
    frames: int = FRAMES
    stochastic: bool = False
    middle_frame: bool = False

    def init(self, key: jax.Array, batch: Batch) -> Any:
        return {}

    def sample(self, variables: Any, key: jax.Array, batch: Batch, sampling: Sampling) -> jax.Array:
        poses = self.estimate(batch)
        return jnp.broadcast_to(poses[None], (sampling.hypotheses, *poses.shape))

    def features(self, variables: Any, batch: Batch) -> jax.Array:
        return jnp.concatenate([batch.keypoints, batch.keypoints**2], axis=-1)


CONTEXT = RoughLifter()


@partial(jax.jit, static_argnums=2)
def initial(batch: Batch, mixture: Mixture | None, depth: str = "context") -> Mixture:
    return make_initial_distribution(batch.keypoints, mixture, from_keypoints(batch), STATISTICS, depth)


draw = jax.jit(draw_gaussian)

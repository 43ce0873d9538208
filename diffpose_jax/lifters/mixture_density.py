"""The mixture density network: a distribution of poses in one pass, without diffusion.

Li and Lee, "Generating Multiple Hypotheses for 3D Human Pose Estimation With Mixture Density Network", CVPR 2019, on
the residual MLP. It gives the weights, means and standard deviations of M Gaussians over whole poses and maximises the
likelihood of the true pose. Hypotheses are draws of that mixture. In every table about distributions it is what a
diffusion of the same size has to beat.
"""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from ml_collections import ConfigDict

from diffpose_jax.config import option, read_options
from diffpose_jax.keys import fold_in
from diffpose_jax.lifters.base import Aux, Batch, Context, Lifter, Sampling, Variables
from diffpose_jax.lifters.batches import check_batch, zero_root
from diffpose_jax.lifters.building import PRECISION_DOC, Precision
from diffpose_jax.lifters.networks import apply_in_training, apply_network
from diffpose_jax.lifters.sampling import draw_hypotheses
from diffpose_jax.lifters.visibility import VisibilityOptions, visible_keypoints
from diffpose_jax.models.linear import Linear
from diffpose_jax.models.residual_mlp import SMALL, ResidualMLP
from diffpose_jax.skeleton import Skeleton

# Which component a hypothesis is drawn from; beside the streams of the noise.
_COMPONENT_STREAM = 2**32 - 2


@dataclasses.dataclass(frozen=True)
class MixtureDensityOptions(VisibilityOptions):
    """What a config says of the mixture density network."""

    width: int = option(384, "channels of the hidden layers", low=1)
    num_layers: int = option(2, "residual blocks of two linear layers", low=1)
    dropout: float = option(0.0, "rate of dropout after every hidden layer", low=0, high=0.99)
    components: int = option(5, "Gaussians of a pose", low=1, source="section 4.2")
    least_std: float = option(0.005, "least standard deviation of a coordinate", above=0, high=1, unit="m")
    compute_dtype: Precision = option("float32", PRECISION_DOC)


class PoseMixture(NamedTuple):
    """M Gaussians with independent coordinates over the poses of `[B, F]` frames."""

    log_weights: Array  # [B, F, M]
    means: Array  # [B, F, M, J, 3] m
    std: Array  # [B, F, M, J, 3] m

    def log_prob(self, poses: Array) -> Array:
        """The log density `[B, F]` of poses `[B, F, J, 3]`, without the root, which is zero by definition."""
        # Within a component all coordinates are independent, so that their log densities add up. Joints depend on each
        # other through the component, which a pose has as a whole. The sum stays in logarithms: 48 densities, each up
        # to 80 per metre at a standard deviation of 5 mm, have a product beyond float32.
        z = (poses[:, :, None] - self.means) / self.std
        densities = -0.5 * jnp.square(z) - jnp.log(self.std) - 0.5 * math.log(2 * math.pi)
        return jax.nn.logsumexp(self.log_weights + jnp.sum(densities, axis=(-2, -1)), axis=-1)


class MixtureDensityNetwork(nn.Module):
    """The residual MLP with three heads: log weights `[B, F, M]`, means and log standard deviations."""

    skeleton: Skeleton
    options: MixtureDensityOptions

    @nn.compact
    def __call__(self, keypoints: Array, *, train: bool, index: Array | None = None) -> PoseMixture:
        options, joints = self.options, self.skeleton.num_joints
        sizes, dtype = (joints, options.width, options.num_layers, options.dropout), jnp.dtype(options.compute_dtype)
        trunk = ResidualMLP(*sizes, norm="layer", dtype=dtype, name="trunk")
        features = trunk(keypoints, train=train, index=index, features=True)[..., 0, :]
        shape = (*keypoints.shape[:2], options.components, joints, 3)
        size = options.components * joints * 3
        # All three start small: poses near zero, the standard deviation that poses have, equal weights.
        means = Linear(size, SMALL, name="means")(features).reshape(shape)
        spread = jax.nn.softplus(Linear(size, SMALL, name="spread")(features) - 1.0).reshape(shape)  # 0.3 m
        weights = jax.nn.log_softmax(Linear(options.components, SMALL, name="weights")(features))
        # A likelihood has no bound where a component may shrink onto a single pose: standard deviations have a floor.
        return PoseMixture(weights, means, options.least_std + spread)


@dataclasses.dataclass(frozen=True)
class MixtureDensity(Lifter):
    """The mixture density network for single frames."""

    options_type: ClassVar[type[MixtureDensityOptions]] = MixtureDensityOptions

    network: MixtureDensityNetwork
    skeleton: Skeleton
    options: MixtureDensityOptions = MixtureDensityOptions()

    @classmethod
    def build(cls, config: ConfigDict, skeleton: Skeleton, context: Context, axis_name: str | None) -> MixtureDensity:
        """The mixture density network of a config. For the arguments see `Lifter.build`."""
        options = read_options(cls.options_type, config.lifter, "lifter")
        return cls(MixtureDensityNetwork(skeleton, options), skeleton, options)

    def init(self, key: Array, batch: Batch) -> Variables:
        return self.network.init(key, visible_keypoints(batch, self.options.visibility), train=False)

    def loss(self, variables: Variables, key: Array, batch: Batch) -> tuple[Array, Aux]:
        """The negative log likelihood of the poses, per coordinate."""
        check_batch(batch, self.skeleton, self.frames)
        keypoints = visible_keypoints(batch, self.options.visibility)
        found, batch_stats = apply_in_training(self.network, variables, key, batch.index, keypoints)
        mixture = self._without_root(PoseMixture(*found))
        total = -jnp.mean(mixture.log_prob(self._moving(batch.poses))) / (3 * (self.skeleton.num_joints - 1))
        return total, Aux({"loss": total}, batch_stats)

    def sample(self, variables: Variables, key: Array, batch: Batch, sampling: Sampling) -> Array:
        """Draws `[H, B, F, J, 3]` (m) of the mixture, whose Gaussians the temperature widens.

        For the arguments see `Lifter.sample`.
        """
        check_batch(batch, self.skeleton, self.frames)
        keypoints = visible_keypoints(batch, self.options.visibility)
        mixture = PoseMixture(*apply_network(self.network, variables, keypoints))

        def draw_one(keys: Array) -> Array:
            component = jax.vmap(jax.random.categorical)(fold_in(keys, _COMPONENT_STREAM), mixture.log_weights)
            chosen = component[..., None, None, None]
            mean, std = (jnp.take_along_axis(part, chosen, axis=2)[:, :, 0] for part in mixture[1:])
            return zero_root(mean + std * sampling.draw_noise(keys, mean.shape), self.skeleton)

        return draw_hypotheses(draw_one, key, batch.index, sampling)

    def _moving(self, poses: Array) -> Array:
        # The root is always zero: its density would rise to that of the floor and tell nothing.
        return jnp.delete(poses, self.skeleton.root, axis=-2, assume_unique_indices=True)

    def _without_root(self, mixture: PoseMixture) -> PoseMixture:
        return PoseMixture(mixture.log_weights, self._moving(mixture.means), self._moving(mixture.std))

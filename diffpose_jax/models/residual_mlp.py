"""The residual MLP (Martinez et al., ICCV 2017): the coordinates of a frame's keypoints through linear layers."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from diffpose_jax.models.attention import LayerNorm
from diffpose_jax.models.linear import KAIMING, Linear
from diffpose_jax.models.normalisation import BatchNorm, Dropout, index_rows

Norm = Literal["batch", "layer"]

# The last layer starts small. At Kaiming's std, the release's, the first poses are metres large: after 1,000 steps of
# `residual_mlp:cmu,small` the training error is then 55 mm instead of 37.
SMALL = nn.initializers.variance_scaling(0.01, "fan_in", "normal")


class LinearUnit(nn.Module):
    """Linear layer, normalisation, ReLU and dropout: `[N, C] -> [N, features]`; the fields are `ResidualMLP`'s."""

    features: int
    dropout: float
    norm: Norm
    max_norm: float
    axis_name: str | None
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array, index: jax.Array, *, train: bool) -> jax.Array:
        batch = self.norm == "batch"
        x = Linear(self.features, KAIMING, None, self.dtype, normalised=batch, max_norm=self.max_norm, name="linear")(x)
        if batch:
            # Momentum and epsilon are TensorFlow's defaults, which the release keeps.
            x = BatchNorm(self.axis_name, momentum=0.99, epsilon=1e-3, dtype=self.dtype, name="norm")(x, train=train)
        else:
            x = LayerNorm(name="norm")(x)
        return Dropout(self.dropout, batch_axis=0, name="dropout")(jax.nn.relu(x), index, train=train)


class ResidualMLP(nn.Module):
    """The "simple yet effective baseline" (Martinez et al., ICCV 2017), a 2D-to-3D lifter of single frames.

    An input unit, `num_layers` residual blocks of two units with a skip connection around the pair, and a linear layer.
    It knows nothing of the body: all joints of a frame are one vector.

    Attributes:
        num_joints: J.
        width: channels of the hidden layers.
        num_layers: residual blocks.
        dropout: dropout rate of every unit.
        norm: normalisation of every unit, over the batch (the paper's) or over the channels.
        max_norm: largest norm of a kernel, see `Linear`; 0: not bounded.
        axis_name: mapped axis of the devices, for batch normalisation.
        dtype: type computed in.
    """

    num_joints: int = 17
    width: int = 1024
    num_layers: int = 2
    dropout: float = 0.5
    norm: Norm = "batch"
    max_norm: float = 0.0
    axis_name: str | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: jax.Array, *, train: bool, index: jax.Array | None = None, features: bool = False
    ) -> jax.Array:
        """Lift.

        Args:
            x: keypoints `[..., J, C]`, normalised image units.
            train: whether dropout acts and batch normalisation uses the batch's statistics.
            index: index of each example, along the first axis of x, from which its dropout masks derive; by default
                its place in the batch.
            features: whether to return the activations before the last layer instead. They are those of the whole
                frame, `[..., 1, width]`, repeated for every joint: `[..., J, width]`.

        Returns:
            Poses `[..., J, 3]`, root-relative metres once trained, float32.
        """
        leading = x.shape[:-2]
        options = (self.width, self.dropout, self.norm, self.max_norm, self.axis_name, self.dtype)
        x, index = x.reshape(-1, self.num_joints * x.shape[-1]), index_rows(index, leading)
        x = LinearUnit(*options, name="input")(x, index, train=train)
        for layer in range(self.num_layers):
            hidden = LinearUnit(*options, name=f"block_{layer}_unit_1")(x, index, train=train)
            x = x + LinearUnit(*options, name=f"block_{layer}_unit_2")(hidden, index, train=train)
        if features:
            per_frame = x.astype(jnp.float32).reshape(*leading, 1, self.width)
            return jnp.broadcast_to(per_frame, (*leading, self.num_joints, self.width))
        pose = Linear(3 * self.num_joints, SMALL, None, self.dtype, max_norm=self.max_norm, name="output")(x)
        return pose.astype(jnp.float32).reshape(*leading, self.num_joints, 3)

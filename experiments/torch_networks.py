"""Transformers of the papers in PyTorch: MixSTE, PoseFormer, and MixSTE as the denoiser of D3DP and Diff3DHPE.

Written from the papers and from what is known of the releases' layers; not their code. `torch_reference.py` times them.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class Attention(nn.Module):
    """Multi-head self-attention of tokens `[N, T, C]`; with diffuse the graph diffusion (A - I) V of Diff3DHPE."""

    def __init__(self, width: int, heads: int, diffuse: bool = False):
        super().__init__()
        self.heads, self.diffuse = heads, diffuse
        self.qkv, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Attend."""
        count, tokens, width = x.shape
        parts = self.qkv(x).reshape(count, tokens, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4).unbind(0)
        weights = (query @ key.transpose(-2, -1) * (width // self.heads) ** -0.5).softmax(-1)
        mixed = weights @ value - value if self.diffuse else weights @ value
        return self.project(mixed.transpose(1, 2).reshape(count, tokens, width))


class DropPath(nn.Module):
    """Stochastic depth: in training a branch of an example `[N, T, C]` is left out with a probability."""

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """Drop."""
        if not self.rate or not self.training:
            return x
        kept = torch.rand(len(x), 1, 1) >= self.rate
        return x / (1 - self.rate) * kept


class Block(nn.Module):
    """A pre-norm transformer block; with step_width it adds a projection of the timestep's embedding first."""

    def __init__(self, width: int, heads: int, ratio: float, drop: float, diffuse: bool = False, step_width: int = 0):
        super().__init__()
        self.first, self.second = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attention, inner = Attention(width, heads, diffuse), int(width * ratio)
        self.perceptron = nn.Sequential(nn.Linear(width, inner), nn.GELU(), nn.Linear(inner, width))
        self.drop = DropPath(drop)
        self.step = nn.Sequential(nn.SiLU(), nn.Linear(step_width, width)) if step_width else None

    def forward(self, x: Tensor, step: Tensor | None = None) -> Tensor:
        """Attention, then a perceptron, each with a skip connection around it; step is `[N, C']`."""
        if self.step is not None:
            assert step is not None
            x = x + self.step(step)[:, None]
        x = x + self.drop(self.attention(self.first(x)))
        return x + self.drop(self.perceptron(self.second(x)))


class MixSTE(nn.Module):
    """MixSTE (Zhang et al., CVPR 2022), `[B, F, J, C]` to `[B, F, J, 3]`; with a timestep the denoiser of D3DP, which
    adds its embedding to the tokens once, or of Diff3DHPE, which adds a projection of it in every block.
    """

    def __init__(
        self,
        frames: int,
        width: int,
        layers: int,
        heads: int,
        ratio: float,
        drop: float,
        channels: int = 2,
        step: str = "",
        joints: int = 17,
    ):
        super().__init__()
        self.embed = nn.Linear(channels, width)
        self.joint_places = nn.Parameter(torch.zeros(1, joints, width))
        self.frame_places = nn.Parameter(torch.zeros(1, frames, width))
        self.width, self.once, in_blocks = width, step == "once", step == "blocks"
        wide = 2 * width if in_blocks else width
        self.step = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, wide)) if step else None
        rates = [drop * layer / max(1, layers - 1) for layer in range(layers)]
        made = ([Block(width, heads, ratio, rate, in_blocks, wide if in_blocks else 0) for rate in rates]
                for _ in range(2))  # fmt: skip
        self.spatial, self.temporal = (nn.ModuleList(blocks) for blocks in made)
        self.norms = nn.ModuleList(nn.LayerNorm(width, eps=1e-6) for _ in range(2))
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 3))

    def forward(self, x: Tensor, timestep: Tensor | None = None) -> Tensor:
        """The poses; the timestep is `[B]`."""
        return self.head[1](self.features(x, timestep))

    def features(self, x: Tensor, timestep: Tensor | None = None) -> Tensor:
        """Blocks over joints and over frames in turns, then the norm of the head, `[B, F, J, width]`."""
        batch, frames, joints, _ = x.shape
        step = None if timestep is None or self.step is None else self.step(embed_timestep(timestep, self.width))
        x = self.embed(x).reshape(batch * frames, joints, -1) + self.joint_places
        if step is not None and self.once:
            x, step = x + step.repeat_interleave(frames, 0)[:, None], None
        of_frames, of_joints = (None if step is None else step.repeat_interleave(n, 0) for n in (frames, joints))
        for layer, (spatial, temporal) in enumerate(zip(self.spatial, self.temporal, strict=True)):
            x = self.norms[0](spatial(x, of_frames)).reshape(batch, frames, joints, -1).transpose(1, 2)
            x = x.reshape(batch * joints, frames, -1)
            x = x + self.frame_places if layer == 0 else x
            x = self.norms[1](temporal(x, of_joints)).reshape(batch, joints, frames, -1).transpose(1, 2)
            x = x.reshape(batch * frames, joints, -1)
        return self.head[0](x).reshape(batch, frames, joints, -1)


class PoseFormer(nn.Module):
    """PoseFormer (Zheng et al., ICCV 2021): `[B, F, J, 2]` to the middle frame, `[B, 1, J, 3]`."""

    def __init__(self, frames: int, width: int, layers: int, heads: int, ratio: float, drop: float, joints: int = 17):
        super().__init__()
        wide = joints * width
        self.embed = nn.Linear(2, width)
        self.joint_places = nn.Parameter(torch.zeros(1, joints, width))
        self.frame_places = nn.Parameter(torch.zeros(1, frames, wide))
        rates = [drop * layer / max(1, layers - 1) for layer in range(layers)]
        self.spatial, self.temporal = (
            nn.Sequential(*(Block(size, heads, ratio, rate) for rate in rates), nn.LayerNorm(size, eps=1e-6))
            for size in (width, wide)
        )
        self.mix, self.head = nn.Conv1d(frames, 1, 1), nn.Sequential(nn.LayerNorm(wide), nn.Linear(wide, 3 * joints))

    def forward(self, x: Tensor) -> Tensor:
        """Blocks over the joints of each frame, then over the frames."""
        batch, frames, joints, _ = x.shape
        x = self.embed(x.reshape(batch * frames, joints, 2)) + self.joint_places
        x = self.spatial(x).reshape(batch, frames, -1) + self.frame_places
        return self.head(self.mix(self.temporal(x))).reshape(batch, 1, joints, 3)


def embed_timestep(timestep: Tensor, width: int) -> Tensor:
    """Sines and cosines of timesteps `[B]`, `[B, width]`."""
    half = width // 2
    rates = torch.exp(torch.arange(half) * -(math.log(10_000) / (half - 1)))
    angles = timestep[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=-1)

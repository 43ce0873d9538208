"""DiffHPE's noise predictor in PyTorch: CSDI's residual network with graph layers, joints and frames last as there.

Written from the paper (Rommel et al., ICCV workshops 2023) and from what is known of the release's layers; not its
code. `torch_reference.py` times it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch_networks import MixSTE

from diffpose_jax.models.embeddings import tabulate_steps
from diffpose_jax.models.graph import normalise_rows
from diffpose_jax.models.non_local import POOLING_GROUPS
from diffpose_jax.skeleton import H36M_17


class GraphLayer(nn.Module):
    """A graph convolution with a matrix per source joint, batch normalisation, ReLU and dropout, `[N, J, C]`."""

    def __init__(self, features: int, dropout: float):
        super().__init__()
        affinity = torch.tensor(normalise_rows(H36M_17.adjacency()))
        self.register_buffer("own", affinity.diagonal()[:, None].clone())
        self.register_buffer("others", affinity - affinity.diagonal().diag())
        self.weight = nn.Parameter(0.01 * torch.randn(2, len(affinity), features, features))
        self.bias = nn.Parameter(torch.zeros(features))
        self.norm, self.dropout = nn.BatchNorm1d(features), nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Transform each joint by its own matrices, then sum over neighbours."""
        itself, neighbour = (torch.einsum("njc,jcd->njd", x, weight) for weight in self.weight)
        y = self.own * itself + self.others @ neighbour + self.bias
        return self.dropout(torch.relu(self.norm(y.transpose(1, 2)).transpose(1, 2)))


class NonLocal(nn.Module):
    """The concatenation form of the non-local block over joints, with pooled keys and values, `[N, J, C]`."""

    def __init__(self, channels: int):
        super().__init__()
        order = [joint for group in POOLING_GROUPS["h36m17"] for joint in group]
        self.register_buffer("order", torch.tensor(order))
        self.register_buffer("back", torch.tensor(order).argsort())
        half = channels // 2
        self.theta, self.phi, self.value = (nn.Conv1d(channels, half, 1) for _ in range(3))
        self.pool, self.score = nn.MaxPool1d(2), nn.Conv2d(2 * half, 1, 1, bias=False)
        self.project, self.norm = nn.Conv1d(half, channels, 1), nn.BatchNorm1d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Scores of the concatenated pairs weight the pooled values; the input is added."""
        ordered = x[:, self.order].transpose(1, 2)
        theta, phi, value = self.theta(ordered), self.pool(self.phi(ordered)), self.pool(self.value(ordered))
        joints, pooled = theta.shape[-1], phi.shape[-1]
        pairs = torch.cat(
            [theta[..., None].expand(-1, -1, -1, pooled), phi[:, :, None].expand(-1, -1, joints, -1)], dim=1
        )
        scores = torch.relu(self.score(pairs)[:, 0]) / pooled
        y = self.norm(self.project((scores @ value.transpose(1, 2)).transpose(1, 2)))
        return (y + ordered).transpose(1, 2)[:, self.back]


class ResidualBlock(nn.Module):
    """The timestep, a graph layer along time, one along channels, the non-local block and the gate of WaveNet."""

    def __init__(self, channels: int, frames: int, step_width: int, dropout: float, non_local: bool):
        super().__init__()
        self.step = nn.Linear(step_width, channels)
        self.time, self.feature = GraphLayer(frames, dropout), GraphLayer(channels, dropout)
        self.non_local = NonLocal(channels) if non_local else None
        self.gate, self.output = nn.Conv1d(channels, 2 * channels, 1), nn.Conv1d(channels, 2 * channels, 1)

    def forward(self, h: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
        """The residual stream `[B, C, J, F]` and the skip connection."""
        batch, channels, joints, frames = h.shape
        y = h + self.step(step)[:, :, None, None]
        y = self.time(y.reshape(batch * channels, joints, frames)).reshape(h.shape)
        y = self.feature(y.permute(0, 3, 2, 1).reshape(batch * frames, joints, channels))
        y = y if self.non_local is None else self.non_local(y)
        y = y.reshape(batch, frames, joints, channels).permute(0, 3, 2, 1).reshape(batch, channels, joints * frames)
        gate, filtered = self.gate(y).chunk(2, dim=1)
        residual, skip = self.output(gate.sigmoid() * filtered.tanh()).chunk(2, dim=1)
        return (h + residual.reshape(h.shape)) / math.sqrt(2), skip


class CSDIGCN(nn.Module):
    """The noise of poses `[B, F, J, 3]` at timesteps `[B]`, given keypoints `[B, F, J, 2]`; with a context (a MixSTE,
    frozen) DiffHPE-Wrapper, whose condition is that network's features.
    """

    def __init__(
        self,
        frames: int,
        width: int,
        layers: int,
        step_width: int,
        steps: int,
        dropout: float,
        non_local: bool,
        context: MixSTE | None = None,
    ):
        super().__init__()
        self.context = None if context is None else context.eval().requires_grad_(False)
        wide = 0 if context is None else context.width
        self.encode = nn.Linear(3, wide) if wide else None
        self.input = nn.Conv1d(2 * wide or 5, width, 1)
        self.register_buffer("table", torch.tensor(tabulate_steps(steps, step_width)))
        self.step = nn.Sequential(
            nn.Linear(step_width, step_width), nn.SiLU(), nn.Linear(step_width, step_width), nn.SiLU()
        )
        self.blocks = nn.ModuleList(ResidualBlock(width, frames, step_width, dropout, non_local) for _ in range(layers))
        self.mix, self.output = nn.Conv1d(width, width, 1), nn.Conv1d(width, 3, 1)

    def forward(self, keypoints: Tensor, poses: Tensor, timestep: Tensor) -> Tensor:
        """Predict the noise; as in the release the context is asked again at every timestep."""
        condition = keypoints if self.context is None else self.context.features(keypoints)
        shown = poses if self.encode is None else self.encode(poses)
        x = torch.cat([shown, condition], dim=-1).permute(0, 3, 2, 1)
        batch, channels, joints, frames = x.shape
        h = torch.relu(self.input(x.reshape(batch, channels, joints * frames))).reshape(batch, -1, joints, frames)
        step, skips = self.step(self.table[timestep]), []
        for block in self.blocks:
            h, skip = block(h, step)
            skips.append(skip)
        total = torch.stack(skips).sum(dim=0) / math.sqrt(len(skips))
        noise = self.output(torch.relu(self.mix(total)))
        return noise.reshape(batch, 3, joints, frames).permute(0, 3, 2, 1)

    def train(self, mode: bool = True) -> CSDIGCN:
        """Training, in which the context stays as it is."""
        super().train(mode)
        if self.context is not None:
            self.context.eval()
        return self

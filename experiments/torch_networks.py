"""MixSTE and PoseFormer in PyTorch, written from the papers, to set beside ours.

    taskset -c 0 python experiments/benchmark.py --only train --sizes small,paper --lifters mixste,poseformer \
        --reference "python experiments/torch_networks.py"

Same layers, sizes, batch, loss and optimiser as the config's, random data, no stochastic depth; not the official code,
whose training loops do more around the network. It reads the case that `benchmark_reference.py` describes, and needs
PyTorch. On AMD processors PyTorch's MKL does not take its fastest path unless it is told to.
"""

from __future__ import annotations

import json
import os
import re
import time

import torch
from benchmark_lifters import find_cases
from torch import Tensor, nn
from torch.nn import functional

CALLS = 4


class Attention(nn.Module):
    """Multi-head self-attention of tokens `[N, T, C]`."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads, self.qkv, self.project = heads, nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Attend."""
        count, tokens, width = x.shape
        parts = self.qkv(x).reshape(count, tokens, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4).unbind(0)
        weights = (query @ key.transpose(-2, -1) * (width // self.heads) ** -0.5).softmax(-1)
        return self.project((weights @ value).transpose(1, 2).reshape(count, tokens, width))


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, width: int, heads: int, ratio: float):
        super().__init__()
        self.first, self.second = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attention, inner = Attention(width, heads), int(width * ratio)
        self.perceptron = nn.Sequential(nn.Linear(width, inner), nn.GELU(), nn.Linear(inner, width))

    def forward(self, x: Tensor) -> Tensor:
        """Attention, then a perceptron, each with a skip connection around it."""
        x = x + self.attention(self.first(x))
        return x + self.perceptron(self.second(x))


class MixSTE(nn.Module):
    """MixSTE (Zhang et al., CVPR 2022): `[B, F, J, 2]` to `[B, F, J, 3]`."""

    def __init__(self, frames: int, width: int, layers: int, heads: int, ratio: float, joints: int = 17):
        super().__init__()
        self.embed = nn.Linear(2, width)
        self.joint_places = nn.Parameter(torch.zeros(1, joints, width))
        self.frame_places = nn.Parameter(torch.zeros(1, frames, width))
        self.spatial = nn.ModuleList(Block(width, heads, ratio) for _ in range(layers))
        self.temporal = nn.ModuleList(Block(width, heads, ratio) for _ in range(layers))
        self.norms = nn.ModuleList(nn.LayerNorm(width, eps=1e-6) for _ in range(2))
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 3))

    def forward(self, keypoints: Tensor) -> Tensor:
        """Blocks over joints and over frames in turns."""
        batch, frames, joints, _ = keypoints.shape
        x = self.embed(keypoints).reshape(batch * frames, joints, -1) + self.joint_places
        for layer, (spatial, temporal) in enumerate(zip(self.spatial, self.temporal, strict=True)):
            x = self.norms[0](spatial(x)).reshape(batch, frames, joints, -1).transpose(1, 2)
            x = x.reshape(batch * joints, frames, -1) + (self.frame_places if layer == 0 else 0)
            x = self.norms[1](temporal(x)).reshape(batch, joints, frames, -1).transpose(1, 2)
            x = x.reshape(batch * frames, joints, -1)
        return self.head(x).reshape(batch, frames, joints, 3)


class PoseFormer(nn.Module):
    """PoseFormer (Zheng et al., ICCV 2021): `[B, F, J, 2]` to the middle frame, `[B, 1, J, 3]`."""

    def __init__(self, frames: int, width: int, layers: int, heads: int, ratio: float, joints: int = 17):
        super().__init__()
        wide = joints * width
        self.embed = nn.Linear(2, width)
        self.joint_places = nn.Parameter(torch.zeros(1, joints, width))
        self.frame_places = nn.Parameter(torch.zeros(1, frames, wide))
        self.spatial = nn.Sequential(*(Block(width, heads, ratio) for _ in range(layers)), nn.LayerNorm(width))
        self.temporal = nn.Sequential(*(Block(wide, heads, ratio) for _ in range(layers)), nn.LayerNorm(wide))
        self.mix, self.head = nn.Conv1d(frames, 1, 1), nn.Sequential(nn.LayerNorm(wide), nn.Linear(wide, 3 * joints))

    def forward(self, keypoints: Tensor) -> Tensor:
        """Blocks over the joints of each frame, then over the frames."""
        batch, frames, joints, _ = keypoints.shape
        x = self.embed(keypoints.reshape(batch * frames, joints, 2)) + self.joint_places
        x = self.spatial(x).reshape(batch, frames, -1) + self.frame_places
        return self.head(self.mix(self.temporal(x))).reshape(batch, 1, joints, 3)


NETWORKS = {"mixste": MixSTE, "poseformer": PoseFormer}


def main() -> None:
    """Times training steps of the case in the environment and prints a line of JSON."""
    case = os.environ["BENCHMARK_CASE"]
    name, size, shape = case.split(", ")
    if os.environ["BENCHMARK_SECTION"] != "train" or name not in NETWORKS:
        print(json.dumps({"calls": 0}))
        return
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", torch.get_num_threads())))
    torch.manual_seed(0)
    batch, frames = map(int, re.findall(r"\d+", shape)[:2])
    # One call of ours makes several steps.
    steps = int(os.environ["BENCHMARK_WORK"]) // (batch * frames)
    options = find_cases([size], [name])[0].config.lifter
    width = options.get("joint_width", options.width)
    network = NETWORKS[name](frames, width, options.num_layers, options.num_heads, options.get("mlp_ratio", 2.0))
    optimiser = torch.optim.Adam(network.parameters(), 1e-4)
    keypoints = torch.randn(batch, frames, 17, 2)
    poses = torch.randn(network(keypoints).shape)

    def step() -> None:
        found = network(keypoints)
        loss = torch.linalg.vector_norm(found - poses, dim=-1).mean()
        if found.shape[1] > 1:
            moved, wanted = found.diff(dim=1), poses.diff(dim=1)
            loss = loss + 0.5 * functional.mse_loss(moved, torch.zeros_like(moved))
            loss = loss + 2 * torch.linalg.vector_norm(moved - wanted, dim=-1).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    for _ in range(2):
        step()
    begin, begin_cpu = time.perf_counter(), time.process_time()
    for _ in range(CALLS * steps):
        step()
    seconds = {"seconds": time.perf_counter() - begin, "cpu_seconds": time.process_time() - begin_cpu}
    print(json.dumps({"calls": CALLS, **seconds}))


if __name__ == "__main__":
    main()

"""The networks of `torch_networks.py` and `torch_csdi_gcn.py` timed, to set PyTorch beside ours.

    taskset -c 0 python experiments/benchmark.py --only train --sizes small,paper --lifters mixste,poseformer \
        --reference "python experiments/torch_reference.py"
    taskset -c 0 python experiments/benchmark.py --only sample --sizes paper --lifters d3dp \
        --set lifter.frames=27,evaluation.hypotheses=5,diffusion.sampling_steps=2 \
        --reference "python experiments/torch_reference.py"
    taskset -c 0 python experiments/benchmark.py --only sample --sizes paper --lifters diffhpe_2d,diffhpe_wrapper \
        --reference "python experiments/torch_reference.py"

The same layers, sizes, batch, stochastic depth, loss, optimiser and reverse steps as the config's, on random data; not
the official code, whose loops do more around the network. It reads the case that `benchmark_reference.py` describes,
and needs PyTorch. On AMD processors PyTorch's MKL does not take its fastest path unless it is told to.
"""

from __future__ import annotations

import itertools
import json
import os
import time
from collections.abc import Callable

import numpy as np
import torch
from ml_collections import ConfigDict
from torch import Tensor, nn
from torch.nn import functional
from torch_csdi_gcn import CSDIGCN
from torch_networks import MixSTE, PoseFormer

from diffpose_jax.lifters.building import make_schedule_of

CALLS = 4
JOINTS = 17
# How the denoisers are told the timestep, and what they clamp poses to.
STEPS = {"d3dp": "once", "diff3dhpe": "blocks"}
CLAMPS = {"d3dp": 1.1, "diff3dhpe": 1.0}
DIFFUSED = (*STEPS, "diffhpe")
K_CLIP = 2.0
_ORDER = [0, 4, 5, 6, 1, 2, 3, 7, 8, 9, 10, 14, 15, 16, 11, 12, 13]


def main() -> None:
    """Times the case in the environment and prints a line of JSON."""
    config = ConfigDict(json.loads(os.environ["BENCHMARK_CONFIG"]))
    if not _is_known(config.lifter):
        print(json.dumps({"calls": 0}))
        return
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", torch.get_num_threads())))
    torch.manual_seed(0)
    make = make_training if os.environ["BENCHMARK_SECTION"] == "train" else make_sampling
    step = make(config, int(os.environ["BENCHMARK_WINDOWS"]))
    # One call of ours makes several training steps.
    times = int(os.environ["BENCHMARK_STEPS"])
    step()
    begin, begin_cpu = time.perf_counter(), time.process_time()
    for _ in range(CALLS * times):
        step()
    seconds = {"seconds": time.perf_counter() - begin, "cpu_seconds": time.process_time() - begin_cpu}
    print(json.dumps({"calls": CALLS, **seconds}))


def _is_known(lifter: ConfigDict) -> bool:
    return lifter.name in ("mixste", "poseformer", "d3dp", "diffhpe") or (
        lifter.name == "diff3dhpe" and lifter.get("backbone", "mixste") == "mixste"
    )


def make_network(config: ConfigDict) -> nn.Module:
    """The network of a config."""
    lifter = config.lifter
    if lifter.name == "diffhpe":
        context = make_network(ConfigDict({"lifter": config.context})) if config.context else None
        sizes = (lifter.frames, lifter.width, lifter.num_layers, lifter.step_width)
        return CSDIGCN(*sizes, config.diffusion.steps, lifter.dropout, lifter.non_local, context)
    sizes = (lifter.num_layers, lifter.num_heads, lifter.get("mlp_ratio", 2.0), lifter.drop_path)
    if lifter.name == "poseformer":
        return PoseFormer(lifter.frames, lifter.get("joint_width", lifter.width), *sizes)
    step = STEPS.get(lifter.name, "")
    return MixSTE(lifter.frames, lifter.width, *sizes, channels=5 if step else 2, step=step)


def make_training(config: ConfigDict, windows: int) -> Callable[[], None]:
    """A function that makes one training step of random windows."""
    lifter, training = config.lifter, config.training
    network = make_network(config)
    alpha_bar = None if lifter.name not in DIFFUSED else _alpha_bar(config)
    optimiser = torch.optim.AdamW(network.parameters(), 1e-4, weight_decay=training.weight_decay)
    keypoints = torch.randn(windows, lifter.frames, JOINTS, 2)
    poses = torch.randn(windows, 1 if lifter.name == "poseformer" else lifter.frames, JOINTS, 3)

    def step() -> None:
        if alpha_bar is None:
            loss = supervised_loss(network(keypoints), poses)
        else:
            loss = denoising_loss(network, lifter.name, keypoints, poses, alpha_bar)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        loss.item()

    return step


def supervised_loss(found: Tensor, poses: Tensor) -> Tensor:
    """The mean distance, and for sequences MixSTE's two terms of motion."""
    loss = torch.linalg.vector_norm(found - poses, dim=-1).mean()
    if found.shape[1] > 1:
        moved, wanted = found.diff(dim=1), poses.diff(dim=1)
        loss = loss + 0.5 * functional.mse_loss(moved, torch.zeros_like(moved))
        loss = loss + 2 * torch.linalg.vector_norm(moved - wanted, dim=-1).mean()
    return loss


def denoising_loss(network: nn.Module, method: str, keypoints: Tensor, poses: Tensor, alpha_bar: Tensor) -> Tensor:
    """The loss of DiffHPE, D3DP, or the weighted one of Diff3DHPE, at random timesteps."""
    timestep = torch.randint(len(alpha_bar), (len(poses),))
    at_step, noise = alpha_bar[timestep].float()[:, None, None, None], torch.randn_like(poses)
    noisy = at_step.sqrt() * poses + (1 - at_step).sqrt() * noise
    if method == "diffhpe":
        return functional.mse_loss(network(keypoints, noisy, timestep), noise)
    if method == "d3dp":
        noisy = noisy.clamp(-CLAMPS[method], CLAMPS[method])
    found = network(torch.cat([keypoints, noisy], dim=-1), timestep.float())
    if method == "d3dp":
        return torch.linalg.vector_norm(found - poses, dim=-1).mean()
    weight = 1 + (at_step / (1 - at_step)).sqrt().clamp(max=K_CLIP)
    return (weight * (found - poses) ** 2).mean()


def make_sampling(config: ConfigDict, windows: int) -> Callable[[], Tensor]:
    """A function that draws the hypotheses of random windows: in one batch or in turns, as the release does."""
    lifter = config.lifter
    network = make_network(config).eval()
    keypoints = torch.randn(windows, lifter.frames, JOINTS, 2)
    if lifter.name not in DIFFUSED:
        return torch.no_grad()(lambda: network(keypoints))
    draw = make_ancestral_sampling if lifter.name == "diffhpe" else make_ddim_sampling
    return draw(config, network, keypoints)


def make_ancestral_sampling(config: ConfigDict, network: nn.Module, keypoints: Tensor) -> Callable[[], Tensor]:
    """All timesteps of DiffHPE, one hypothesis after the other."""
    alpha_bar = _alpha_bar(config)
    alpha = alpha_bar / torch.cat([torch.ones(1, dtype=alpha_bar.dtype), alpha_bar[:-1]])
    before = alpha_bar / alpha
    sigma = ((1 - before) / (1 - alpha_bar) * (1 - alpha)).sqrt()
    factors = list(
        zip(*(part.tolist() for part in ((1 - alpha) / (1 - alpha_bar).sqrt(), alpha.sqrt(), sigma)), strict=True)
    )

    @torch.no_grad()
    def draw() -> Tensor:
        found = []
        for _ in range(config.evaluation.hypotheses):
            x = torch.randn(*keypoints.shape[:3], 3)
            for k in reversed(range(len(factors))):
                towards_mean, scale, deviation = factors[k]
                x = (x - towards_mean * network(keypoints, x, torch.full((len(x),), k))) / scale
                x = x + deviation * torch.randn_like(x) if k else x
            found.append(x)
        return torch.stack(found)

    return draw


def make_ddim_sampling(config: ConfigDict, network: nn.Module, keypoints: Tensor) -> Callable[[], Tensor]:
    """The reverse steps of D3DP and Diff3DHPE, all hypotheses in one batch."""
    lifter, hypotheses = config.lifter, config.evaluation.hypotheses
    alpha_bar, count = _alpha_bar(config), config.diffusion.sampling_steps
    # The releases' steps: evenly from the last one down, without 0.
    steps = np.trunc(np.linspace(-1, len(alpha_bar) - 1, count + 1)).astype(int)[::-1].tolist()
    flips, limit = lifter.get("flip_inside", False) and config.evaluation.flip == "average", CLAMPS[lifter.name]
    clamped = lifter.name == "d3dp"

    def denoise(x: Tensor, two: Tensor, timestep: int) -> Tensor:
        k = torch.full((len(x),), float(timestep))
        shown = x.clamp(-limit, limit) if clamped else x
        found = network(torch.cat([two, shown], dim=-1), k)
        if flips:
            found = (found + mirror(network(torch.cat([mirror(two), mirror(shown)], dim=-1), k))) / 2
        return found.clamp(-limit, limit)

    @torch.no_grad()
    def draw() -> Tensor:
        two = keypoints[:, None].repeat(1, hypotheses, 1, 1, 1).flatten(0, 1)
        x = torch.randn(len(two), lifter.frames, JOINTS, 3)
        for now, following in itertools.pairwise(steps):
            x0, a = denoise(x, two, now), alpha_bar[now]
            if following < 0:
                break
            b = alpha_bar[following]
            noise = ((x.double() - a.sqrt() * x0) / (1 - a).sqrt()).float()
            sigma = config.diffusion.eta * ((1 - a / b) * (1 - b) / (1 - a)).sqrt()
            x = b.sqrt() * x0 + (1 - b - sigma**2).sqrt() * noise + sigma * torch.randn_like(x)
            x = x.float()
        return x0

    return draw


def mirror(points: Tensor) -> Tensor:
    """Points `[..., J, C]` with x negated and sides exchanged."""
    return points[..., _ORDER, :] * torch.tensor([-1.0] + [1.0] * (points.shape[-1] - 1))


def _alpha_bar(config: ConfigDict) -> Tensor:
    return torch.tensor(np.asarray(make_schedule_of(config.diffusion).alpha_bar))


if __name__ == "__main__":
    main()

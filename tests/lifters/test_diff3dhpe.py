"""Diff3DHPE: the release's sampler and loss replayed in numpy, both noise estimates, weights, the middle frame."""

from __future__ import annotations

import dataclasses
from functools import partial
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffpose_jax.diffusion.plans import ddim_plan
from diffpose_jax.diffusion.process import diffuse, draw_timesteps, snr_weight
from diffpose_jax.diffusion.samplers import initial_noise, sample_trajectory
from diffpose_jax.diffusion.schedules import cosine
from diffpose_jax.interop.mixste import diff3dhpe_backbone_variables
from diffpose_jax.keys import example_keys
from diffpose_jax.lifters.base import Sampling
from diffpose_jax.lifters.batches import flip_batch
from diffpose_jax.lifters.diff3dhpe import Diff3DHPE, Diff3DHPEOptions
from diffpose_jax.lifters.wrappers import with_flips
from diffpose_jax.models.frame_transformer import FrameTransformer
from diffpose_jax.models.mixste import MixSTE
from diffpose_jax.models.poseformer import PoseFormer
from diffpose_jax.registry import build_lifter, config_for
from diffpose_jax.skeleton import H36M_17, mirror

from ..parity.systems import all_systems
from ..parity.vectors import Vector, generate_weights
from .toys import KEY, Oracle, pose_batch, sample

SCHEDULE = cosine(1000)
PLAN = ddim_plan(SCHEDULE, 5)
B, F, J = 4, 3, 17


@pytest.fixture(scope="module")
def batch():
    return pose_batch(B, F)


def lifter(network, *, plan=PLAN, middle_frame: bool = False, backbone: str = "", **options) -> Diff3DHPE:
    backbone = backbone or ("mixste_middle" if middle_frame else "mixste")
    return Diff3DHPE(network, H36M_17, SCHEDULE, plan, Diff3DHPEOptions(frames=F, backbone=backbone, **options))


# --- the release's whole procedure, written once more in float64 numpy around the network


def recorded(config, seed=71):
    """A vector in the form of the published checks, made by a loop of its own."""
    rng = np.random.default_rng(seed)
    width, frames, joints, depth = (config[name] for name in ("embed_dim", "num_frame", "num_joints", "depth"))
    keys = state_dict_keys(width, frames, joints, depth, int(width * config["mlp_ratio"]), config["with_time_emb"])
    weights = generate_weights(keys, seed)
    step = "blocks" if config["with_time_emb"] else "none"
    network = MixSTE(frames, joints, width, depth, config["num_heads"], config["mlp_ratio"], pde=True, step=step)
    apply = jax.jit(partial(network.apply, diff3dhpe_backbone_variables(weights), train=False))

    def model(keypoints, y, t):
        x = np.concatenate([keypoints, y], axis=-1).astype(np.float32)
        return np.asarray(apply(x, np.broadcast_to(t, len(x)).astype(np.int32)), np.float64)

    order = np.arange(joints)
    order[config["joints_left"] + config["joints_right"]] = config["joints_right"] + config["joints_left"]

    def flip(x):
        return (x * np.array([-1, 1, 1][: x.shape[-1]]))[..., order, :]

    shape = (2, frames, joints)
    inputs = {name: rng.standard_normal((*shape, 2)) for name in ("pose_2d", "loss_pose_2d")}
    inputs |= {name: rng.standard_normal((*shape, 3)) for name in ("init_noise", "init_noise_flip", "loss_noise")}
    inputs |= {"pose_2d_flip": flip(inputs["pose_2d"]), "loss_y0": np.clip(rng.standard_normal((*shape, 3)), -1, 1)}
    inputs = {name: value.astype(np.float32) for name, value in inputs.items()}
    inputs["loss_t"] = np.array([270, 640])

    f = np.cos((np.arange(1001) / 1000 + 0.008) / 1.008 * np.pi / 2) ** 2
    abar = np.cumprod(1 - np.clip(1 - f[1:] / f[:-1], 0, 0.999))
    steps = config["sampling_timesteps"]
    times = [1000 * k // steps - 1 for k in range(steps, 0, -1)] + [-1]
    outputs = {"times": np.array(times), "alphas_cumprod": abar.astype(np.float32)}
    for variant in ("paper", "released"):

        def chain(keypoints, y, variant=variant):
            x0s, states = [], []
            for t, following in pairwise(times):
                x0 = np.clip(model(keypoints, y, t), -1, 1)
                signal = np.sqrt(abar[t]) if variant == "paper" else abar[t]
                eps = (y - signal * x0) / np.sqrt(1 - abar[t])
                kept = abar[following] if following >= 0 else 1.0
                y = np.sqrt(kept) * x0 + np.sqrt(1 - kept) * eps
                x0s.append(x0)
                states.append(y)
            return np.stack(x0s, 1), np.stack(states, 1)

        x0s, states = chain(inputs["pose_2d"], inputs["init_noise"])
        _, flipped = chain(inputs["pose_2d_flip"], inputs["init_noise_flip"])
        outputs |= {f"{variant}_x0": x0s, f"{variant}_y": states, f"{variant}_pred": states[:, -1]}
        outputs |= {f"{variant}_pred_flip_raw": flipped[:, -1]}
        outputs |= {f"{variant}_pred_tta": (states[:, -1] + flip(flipped[:, -1])) / 2}
        t = inputs["loss_t"]
        root = np.sqrt(abar[t]) if variant == "paper" else abar[t]
        outputs[f"loss_weight_{variant}"] = 1 + np.minimum(root / np.sqrt(1 - abar[t]), 2)
    kept = abar[t][:, None, None, None]
    outputs["loss_y_t"] = np.sqrt(kept) * inputs["loss_y0"] + np.sqrt(1 - kept) * inputs["loss_noise"]
    outputs["loss_model_out"] = model(inputs["loss_pose_2d"], outputs["loss_y_t"], t)
    square = (outputs["loss_model_out"] - inputs["loss_y0"]) ** 2
    for variant in ("paper", "released"):
        outputs[f"loss_{variant}"] = np.mean(outputs[f"loss_weight_{variant}"][:, None, None, None] * square)
    return Vector("diff3dhpe_sampler", config, inputs, outputs, weights)


def state_dict_keys(width, frames, joints, depth, hidden, step):
    """Names and shapes of the release's denoiser."""

    def linear(name, inputs, outputs):
        return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}

    def norm(name):
        return {f"{name}.weight": (width,), f"{name}.bias": (width,)}

    keys = {"Spatial_pos_embed": (1, joints, width), "Temporal_pos_embed": (1, frames, width)}
    keys |= linear("fusion_layer", 5, width) | norm("Spatial_norm") | norm("Temporal_norm")
    keys |= norm("head.0") | linear("head.1", width, 3)
    if step:
        keys |= linear("time_mlp.1", width, 2 * width) | linear("time_mlp.3", 2 * width, 2 * width)
    for block in [f"{kind}.{i}" for kind in ("STEblocks", "TTEblocks") for i in range(depth)]:
        keys |= norm(f"{block}.norm1") | norm(f"{block}.norm2")
        keys |= linear(f"{block}.attn.qkv", width, 3 * width) | linear(f"{block}.attn.proj", width, width)
        keys |= linear(f"{block}.mlp.fc1", width, hidden) | linear(f"{block}.mlp.fc2", hidden, width)
        if step:
            keys |= linear(f"{block}.time_mlp.1", 2 * width, width)
    return list(keys.items())


CONFIG = {
    "num_frame": 3, "num_joints": 17, "in_chans": 2, "embed_dim": 16, "depth": 1, "num_heads": 2, "mlp_ratio": 2.0,
    "qkv_bias": True, "with_time_emb": True, "ln_eps": 1e-6, "head_ln_eps": 1e-5, "pde_attention": True,
    "timesteps": 1000, "sampling_timesteps": 4, "beta_schedule": "cosine", "eta": 0.0, "clip_denoised": True,
    "joints_left": [4, 5, 6, 11, 12, 13], "joints_right": [1, 2, 3, 14, 15, 16],
}  # fmt: skip


@pytest.mark.slow
def test_the_parity_adapter_meets_an_independent_replay():
    vector = recorded(CONFIG)
    system = all_systems()["diff3dhpe_sampler"]
    found = system.adapter(vector)
    assert set(found) == set(vector.outputs)
    for name, expected in vector.outputs.items():
        np.testing.assert_allclose(found[name], expected, atol=1e-4, err_msg=name)
    # The two variants are apart by much more than the tolerance, so one cannot pass for the other.
    for name in ("y", "loss_weight"):
        name = f"{name}_{{}}" if "loss" in name else f"{{}}_{name}"
        assert np.abs(found[name.format("paper")] - found[name.format("released")]).max() > 10 * system.absolute


# --- the lifter


@pytest.mark.parametrize("eps_release", [False, True])
def test_an_oracle_gets_the_clean_poses_out_of_both_variants(batch, eps_release):
    known = lifter(Oracle(batch.poses / 1.5), scale=1.5, eps_release=eps_release)
    poses = sample(known, {}, KEY, batch, Sampling(2))
    np.testing.assert_allclose(poses, np.broadcast_to(batch.poses[None], poses.shape), atol=1e-6)


@pytest.mark.parametrize("eps_release", [False, True])
def test_equation_13_keeps_one_noise_and_the_release_does_not(batch, eps_release):
    denoiser = lifter(Oracle(batch.poses), eps_release=eps_release).denoiser({}, batch.keypoints)
    eps = initial_noise(KEY, batch.poses.shape)
    start = diffuse(SCHEDULE, batch.poses, jnp.asarray(999), eps)
    _, trajectory = sample_trajectory(None, denoiser, start, PLAN)
    off = [
        float(np.abs(state - diffuse(SCHEDULE, batch.poses, jnp.asarray(k), eps)).max())
        for state, k in zip(trajectory.x, PLAN.step[1:], strict=False)
    ]
    # The first update, from alpha_bar 2.4e-9, is hardly affected.
    assert off[0] < 1e-4
    assert (min(off[1:]) > 1e-2) if eps_release else (max(off) < 1e-5)


def test_x0_is_clipped_and_the_state_in_the_networks_input_is_not(batch):
    inputs = []

    class Far(Oracle):
        def apply(self, variables, x, k, *, train):
            jax.debug.callback(lambda x: inputs.append(np.asarray(x)), x)
            return self.poses

    far = batch.poses.at[:, :, 3, 0].set(4.0)
    poses = sample(lifter(Far(far), scale=1.5), {}, KEY, batch, Sampling())
    jax.effects_barrier()
    np.testing.assert_allclose(poses[0, :, :, 3, 0], 1.5, rtol=1e-6)
    np.testing.assert_array_equal(inputs[0][..., :2], batch.keypoints)
    assert inputs[0][..., 2:].max() > 2.5


class Halving:
    """Clean poses are half the noisy ones; records its input."""

    def __init__(self, middle_frame=False):
        self.middle_frame, self.input = middle_frame, None

    def apply(self, variables, x, k, *, train, index=None, rngs=None, mutable=()):
        self.input = x
        output = 0.5 * x[:, :1, :, 2:] if self.middle_frame else 0.5 * x[..., 2:]
        return (output, {}) if mutable else output


@pytest.mark.parametrize("middle_frame", [False, True])
@pytest.mark.parametrize("release", [False, True])
def test_the_loss_is_the_weighted_squared_error_of_scaled_poses(batch, release, middle_frame):
    network = Halving(middle_frame)
    options = {"scale": 1.25, "weight_release": release, "middle_frame": middle_frame}
    value, _ = lifter(network, **options).loss({}, KEY, batch)
    keys = example_keys(KEY, batch.index)
    k = draw_timesteps(keys, B, 1000)
    y0 = np.asarray(batch.poses[:, 1:2] if middle_frame else batch.poses) / 1.25
    noise = np.asarray(initial_noise(keys, y0.shape))
    abar = np.float64(SCHEDULE.alpha_bar)[k]
    signal, spread = (np.sqrt(part)[:, None, None, None] for part in (abar, 1 - abar))
    y_t = signal * y0 + spread * noise
    weight = 1 + np.minimum((abar if release else np.sqrt(abar)) / np.sqrt(1 - abar), 2)
    expected = np.mean(weight[:, None, None, None] * (0.5 * y_t - y0) ** 2)
    assert float(value) == pytest.approx(expected, rel=1e-5)
    # A single noisy pose is shown beside the keypoints of every frame.
    np.testing.assert_allclose(network.input[..., 2:], np.broadcast_to(y_t, (B, F, J, 3)), atol=1e-5)
    np.testing.assert_array_equal(network.input[..., :2], batch.keypoints)


def test_the_weights_of_the_published_table():
    t = [300, 400, 500, 700, 900, 999]
    np.testing.assert_allclose(snr_weight(SCHEDULE)[t], [2.9144, 2.3508, 1.9847, 1.5029, 1.1555, 1.0], atol=1e-4)
    released = snr_weight(SCHEDULE, release=True)
    np.testing.assert_allclose(released[t], [2.6968, 2.0857, 1.6909, 1.2260, 1.0239, 1.0], atol=1e-4)
    np.testing.assert_allclose(released[[266, 288]], [2.992, 2.79], atol=5e-3)


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        (5, [999, 799, 599, 399, 199]),
        (6, [999, 832, 665, 499, 332, 165]),
        (7, [999, 856, 713, 570, 427, 284, 141]),
        (9, [999, 887, 776, 665, 554, 443, 332, 221, 110]),
    ],
)
def test_the_published_timesteps(steps, expected):
    assert ddim_plan(SCHEDULE, steps).step.tolist() == expected


def test_the_sequence_to_frame_lifter_gives_the_middle_frame(batch):
    middle = lifter(Halving(middle_frame=True), middle_frame=True)
    assert middle.middle_frame
    assert jax.eval_shape(lambda: middle.sample({}, KEY, batch, Sampling(2))).shape == (2, B, 1, J, 3)


def test_flips_are_averaged_after_the_chain_with_noise_of_their_own(batch):
    chain = lifter(Halving(), plan=ddim_plan(SCHEDULE, 2))
    averaged = with_flips(chain)
    straight, flipped = (
        sample(chain, {}, jax.random.fold_in(KEY, number), view, Sampling())
        for number, view in enumerate((batch, flip_batch(batch, H36M_17)))
    )
    found = sample(averaged, {}, KEY, batch, Sampling(flip="average"))
    np.testing.assert_allclose(found, (straight + mirror(flipped, H36M_17)) / 2, atol=1e-6)
    inside = lifter(Halving(), flip_inside=True)
    found = sample(with_flips(inside), {}, KEY, batch, Sampling(flip="average"))
    np.testing.assert_array_equal(found, sample(inside, {}, KEY, batch, Sampling(flip="average")))


@pytest.mark.parametrize(
    ("network", "middle_frame"),
    [
        (MixSTE(F, J, width=16, num_layers=1, num_heads=2, pde=True, step="blocks"), False),
        (MixSTE(F, J, width=16, num_layers=1, num_heads=2, pde=True, step="blocks", middle_frame=True), True),
        (PoseFormer(F, J, joint_width=8, num_layers=1, num_heads=2, pde=True, step="blocks"), True),
    ],
    ids=["M", "sequence to frame", "P"],
)
def test_every_published_network_fits(batch, network, middle_frame):
    fitting = lifter(network, middle_frame=middle_frame)
    variables = jax.eval_shape(fitting.init, KEY, batch)
    value = jax.eval_shape(lambda v: jax.grad(lambda v: fitting.loss(v, KEY, batch)[0])(v), variables)
    assert jax.tree.structure(value) == jax.tree.structure(variables)
    poses = jax.eval_shape(lambda v: fitting.sample(v, KEY, batch, Sampling(2)), variables)
    assert poses.shape == (2, B, 1 if middle_frame else F, J, 3)


def test_a_transformer_over_frames_lifts_all_frames_of_a_window(batch):
    config = config_for("diff3dhpe")
    config.lifter.update(
        backbone="frames", frames=F, width=16, num_layers=1, num_heads=2, visibility="confidence", scale=0.25
    )
    config.diffusion.update(clip=6.0)
    built = build_lifter(config)
    assert isinstance(built.network, FrameTransformer)
    assert not built.middle_frame
    assert (built.options.scale, built.clip) == (0.25, 6.0)
    variables = jax.eval_shape(built.init, KEY, batch)
    gradient = jax.eval_shape(lambda v: jax.grad(lambda v: built.loss(v, KEY, batch)[0])(v), variables)
    assert jax.tree.structure(gradient) == jax.tree.structure(variables)
    poses = jax.eval_shape(lambda v: built.sample(v, KEY, batch, Sampling(2)), variables)
    assert poses.shape == (2, B, F, J, 3)


def test_an_oracle_over_frames_gets_the_clean_poses(batch):
    known = lifter(Oracle(batch.poses / 0.25), backbone="frames", scale=0.25)
    poses = sample(dataclasses.replace(known, clip=6.0), {}, KEY, batch, Sampling(2))
    np.testing.assert_allclose(poses, np.broadcast_to(batch.poses[None], poses.shape), atol=1e-6)

"""Diff3DHPE: the release's sampler and loss replayed in numpy, both noise estimates, weights, the middle frame."""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from diffpose_jax.lifters.reverse import bound_denoiser

from diffpose_jax.diffusion.plans import ddim_plan
from diffpose_jax.diffusion.process import diffuse, draw_timesteps, snr_weight
from diffpose_jax.diffusion.samplers import initial_noise, sample_trajectory
from diffpose_jax.diffusion.schedules import cosine
from diffpose_jax.interop.mixste import diff3dhpe_backbone_variables
from diffpose_jax.keys import example_keys
from diffpose_jax.lifters.base import Batch, flip_averaged
from diffpose_jax.lifters.batches import flip_batch
from diffpose_jax.lifters.diff3dhpe import diff3dhpe, diff3dhpe_reverse
from diffpose_jax.models.mixste import MixSTE
from diffpose_jax.models.poseformer import PoseFormer
from diffpose_jax.skeleton import H36M_17, mirror

from ..parity.systems import all_systems
from ..parity.vectors import Vector, generate_weights

SCHEDULE = cosine(1000)
PLAN = ddim_plan(SCHEDULE, 5)
KEY = jax.random.key(3)
B, F, J = 4, 3, 17


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    poses = np.clip(0.3 * rng.standard_normal((B, F, J, 3)), -0.5, 0.5).astype(np.float32)
    keypoints = rng.standard_normal((B, F, J, 2)).astype(np.float32)
    parts = (keypoints, poses - poses[:, :, :1], np.ones((B, F, J), np.float32), np.arange(B, dtype=np.int32) * 5)
    return Batch(*(jnp.asarray(part) for part in parts))


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


class Oracle:
    """Knows the scaled poses."""

    def __init__(self, poses):
        self.poses = poses

    def apply(self, variables, x, k, *, train):
        return self.poses


@pytest.mark.parametrize("released_eps", [False, True])
def test_an_oracle_gets_the_clean_poses_out_of_both_variants(batch, released_eps):
    options = {"frames": F, "scale": 1.5, "released_eps": released_eps}
    lifter = diff3dhpe(Oracle(batch.poses / 1.5), H36M_17, SCHEDULE, PLAN, **options)
    poses = jax.jit(lifter.sample, static_argnums=3)({}, KEY, batch, 2)
    np.testing.assert_allclose(poses, np.broadcast_to(batch.poses[None], poses.shape), atol=1e-6)


@pytest.mark.parametrize("released_eps", [False, True])
def test_equation_13_keeps_one_noise_and_the_release_does_not(batch, released_eps):
    reverse = diff3dhpe_reverse(Oracle(batch.poses), H36M_17, SCHEDULE, PLAN, frames=F, released_eps=released_eps)
    eps = initial_noise(KEY, batch.poses.shape)
    start = diffuse(SCHEDULE, batch.poses, jnp.asarray(999), eps)
    _, history = sample_trajectory(None, bound_denoiser(reverse, {}, batch)[0], start, PLAN)
    off = [
        float(np.abs(state - diffuse(SCHEDULE, batch.poses, jnp.asarray(k), eps)).max())
        for state, k in zip(history.x, PLAN.step[1:], strict=False)
    ]
    # The first update, from alpha_bar 2.4e-9, is hardly affected.
    assert off[0] < 1e-4
    assert (min(off[1:]) > 1e-2) if released_eps else (max(off) < 1e-5)


def test_x0_is_clipped_and_the_state_the_network_sees_is_not(batch):
    seen = []

    class Far(Oracle):
        def apply(self, variables, x, k, *, train):
            jax.debug.callback(lambda x: seen.append(np.asarray(x)), x)
            return self.poses

    far = batch.poses.at[:, :, 3, 0].set(4.0)
    lifter = diff3dhpe(Far(far), H36M_17, SCHEDULE, PLAN, frames=F, scale=1.5)
    poses = jax.jit(lifter.sample, static_argnums=3)({}, KEY, batch, 1)
    jax.effects_barrier()
    np.testing.assert_allclose(poses[0, :, :, 3, 0], 1.5, rtol=1e-6)
    np.testing.assert_array_equal(seen[0][..., :2], batch.keypoints)
    assert seen[0][..., 2:].max() > 2.5


class Halving:
    """Clean poses are half the noisy ones; remembers its input."""

    def __init__(self, middle_frame=False):
        self.middle_frame, self.seen = middle_frame, None

    def apply(self, variables, x, k, *, train, index=None, rngs=None, mutable=()):
        self.seen = x
        output = 0.5 * x[:, :1, :, 2:] if self.middle_frame else 0.5 * x[..., 2:]
        return (output, {}) if mutable else output


@pytest.mark.parametrize("middle_frame", [False, True])
@pytest.mark.parametrize("released", [False, True])
def test_the_loss_is_the_weighted_squared_error_of_scaled_poses(batch, released, middle_frame):
    network = Halving(middle_frame)
    options = {"frames": F, "scale": 1.25, "released_weight": released, "middle_frame": middle_frame}
    value, _ = diff3dhpe(network, H36M_17, SCHEDULE, PLAN, **options).loss({}, KEY, batch)
    keys = example_keys(KEY, batch.index)
    k = draw_timesteps(keys, B, 1000)
    y0 = np.asarray(batch.poses[:, 1:2] if middle_frame else batch.poses) / 1.25
    noise = np.asarray(initial_noise(keys, y0.shape))
    abar = np.float64(SCHEDULE.alpha_bar)[k]
    signal, spread = (np.sqrt(part)[:, None, None, None] for part in (abar, 1 - abar))
    y_t = signal * y0 + spread * noise
    weight = 1 + np.minimum((abar if released else np.sqrt(abar)) / np.sqrt(1 - abar), 2)
    expected = np.mean(weight[:, None, None, None] * (0.5 * y_t - y0) ** 2)
    assert float(value) == pytest.approx(expected, rel=1e-5)
    # A single noisy pose is shown beside the keypoints of every frame.
    np.testing.assert_allclose(network.seen[..., 2:], np.broadcast_to(y_t, (B, F, J, 3)), atol=1e-5)
    np.testing.assert_array_equal(network.seen[..., :2], batch.keypoints)


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
def test_the_published_steps(steps, expected):
    assert ddim_plan(SCHEDULE, steps).step.tolist() == expected


def test_the_sequence_to_frame_lifter_gives_the_middle_frame(batch):
    lifter = diff3dhpe(Halving(middle_frame=True), H36M_17, SCHEDULE, PLAN, frames=F, scale=1.0, middle_frame=True)
    assert lifter.middle_frame
    assert jax.eval_shape(lambda: lifter.sample({}, KEY, batch, 2)).shape == (2, B, 1, J, 3)


def test_flips_are_averaged_after_the_chain_with_noise_of_their_own(batch):
    lifter = diff3dhpe(Halving(), H36M_17, SCHEDULE, PLAN, frames=F, scale=1.0)
    assert lifter.sample_flipped is None
    chain = jax.jit(lifter.sample, static_argnums=3)
    straight, flipped = (
        chain({}, jax.random.fold_in(KEY, number), view, 1)
        for number, view in enumerate((batch, flip_batch(batch, H36M_17)))
    )
    found = jax.jit(flip_averaged(lifter).sample, static_argnums=3)({}, KEY, batch, 1)
    np.testing.assert_allclose(found, (straight + mirror(flipped, H36M_17)) / 2, atol=1e-6)
    assert diff3dhpe(Halving(), H36M_17, SCHEDULE, PLAN, frames=F, scale=1.0, flip_inside=True).sample_flipped


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
    lifter = diff3dhpe(network, H36M_17, SCHEDULE, PLAN, frames=F, scale=1.0, middle_frame=middle_frame)
    variables = jax.eval_shape(lifter.init, KEY, batch)
    value = jax.eval_shape(lambda v: jax.grad(lambda v: lifter.loss(v, KEY, batch)[0])(v), variables)
    assert jax.tree.structure(value) == jax.tree.structure(variables)
    poses = jax.eval_shape(lambda v: lifter.sample(v, KEY, batch, 2), variables)
    assert poses.shape == (2, B, 1 if middle_frame else F, J, 3)

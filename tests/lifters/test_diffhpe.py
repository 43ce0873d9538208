"""DiffHPE: its loss, an oracle that returns the pose, noise by example, the context encoded once, guidance, starts."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from diffpose_jax.diffusion.plans import ddim_plan, ddpm_plan
from diffpose_jax.diffusion.process import to_eps
from diffpose_jax.diffusion.schedules import cosine
from diffpose_jax.errors import UserError
from diffpose_jax.interop.csdi_gcn import diffhpe_2d_variables, diffhpe_wrapper_variables
from diffpose_jax.lifters.base import Batch, Lifter
from diffpose_jax.lifters.batches import example_batch
from diffpose_jax.lifters.diffhpe import denoising_loss, diffhpe
from diffpose_jax.lifters.supervised import supervised
from diffpose_jax.models.csdi_gcn import CSDIGCN
from diffpose_jax.models.linear import Linear
from diffpose_jax.models.mixste import MixSTE
from diffpose_jax.models.normalisation import BatchNorm, Dropout
from diffpose_jax.skeleton import H36M_17

from ..parity.vectors import read_vector, vector_paths

FRAMES = 4
SCHEDULE = cosine(8, max_beta=0.5)
PLAN = ddpm_plan(SCHEDULE, mean="eps")
KEY = jax.random.key(3)


class Tiny(nn.Module):
    """A network with what the lifter may rely on: a step, batch statistics, dropout, features; quick to compile."""

    dropout: float = 0.0

    @nn.compact
    def __call__(self, x, k=None, *, train, index=None, features=False):
        k = jnp.float32(0) if k is None else 0.1 * k.astype(jnp.float32)
        h = Linear(8, name="input")(x) + (k[:, None, None, None] if k.ndim else k)
        h = jnp.tanh(BatchNorm(name="norm")(h, train=train))
        index = jnp.arange(len(x)) if index is None else index
        h = jnp.sinh(Dropout(self.dropout, batch_axis=0, name="dropout")(h, index, train=train))
        return h if features else Linear(3, name="output")(h)


CONTEXT = supervised(Tiny(), H36M_17, denoising_loss, FRAMES)


@pytest.fixture(scope="module")
def batch() -> Batch:
    rng = np.random.default_rng(0)
    poses = 0.3 * rng.standard_normal((4, FRAMES, 17, 3)).astype(np.float32)
    keypoints = rng.standard_normal((4, FRAMES, 17, 2)).astype(np.float32)
    parts = (keypoints, poses - poses[:, :, :1], np.ones((4, FRAMES, 17), np.float32), np.arange(4, dtype=np.int32) * 9)
    return Batch(*(jnp.asarray(part) for part in parts))


def lifter_2d(network=None, plan=PLAN, **options) -> Lifter:
    return diffhpe(network or Tiny(), H36M_17, SCHEDULE, plan, frames=FRAMES, **options)


def wrapper(context: Lifter = CONTEXT, **options) -> Lifter:
    return lifter_2d(context=context, **options)


def sample(lifter: Lifter, variables, batch: Batch, num_hypotheses: int = 1) -> np.ndarray:
    return np.asarray(jax.jit(lifter.sample, static_argnums=3)(variables, KEY, batch, num_hypotheses))


@pytest.fixture(scope="module")
def variables(batch):
    return jax.jit(lifter_2d().init)(jax.random.key(1), batch)


@pytest.fixture(scope="module")
def run():
    return jax.jit(lifter_2d().sample, static_argnums=3)


@pytest.fixture(scope="module")
def conditional(wrapped, batch):
    """Three hypotheses of the wrapper."""
    return sample(wrapper(), wrapped, batch, 3)


@pytest.fixture(scope="module")
def wrapped(batch):
    return jax.jit(wrapper().init)(jax.random.key(1), batch)


def mixste_lifter(frames: int, width: int, layers: int, heads: int) -> Lifter:
    return supervised(MixSTE(frames, 17, width, layers, heads), H36M_17, denoising_loss, frames)


def counted(tree) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def test_the_wrapper_has_the_published_number_of_parameters():
    context = mixste_lifter(27, 64, 8, 8)
    schedule = cosine(50, max_beta=0.5)
    lifter = diffhpe(CSDIGCN(H36M_17), H36M_17, schedule, ddpm_plan(schedule, mean="eps"), context=context)
    variables = jax.eval_shape(lambda: lifter.init(KEY, example_batch(lifter)))
    frozen = variables["frozen"]["params"]
    assert counted(variables["params"]) == 3_210_099
    assert counted(variables["params"]["pose_encoder"]) == 256
    # The release drops the frozen lifter's last layer.
    assert counted(variables["params"]) + counted(frozen) - counted(frozen["output"]) == 3_749_043


def test_the_loss_is_the_mean_over_all_coordinates_and_the_root():
    noise = jnp.zeros((1, 1, 2, 3)).at[0, 0, 0].set(jnp.array([1.0, 2.0, 2.0]))
    assert denoising_loss(jnp.zeros_like(noise), noise) == pytest.approx(9 / 6)


def test_the_loss_depends_on_every_input_and_not_on_the_place_in_the_batch(variables, batch):
    loss = jax.jit(lambda key, batch: lifter_2d(Tiny(0.2)).loss(variables, key, batch)[0])
    value = float(loss(KEY, batch))
    changes = {
        "poses": batch._replace(poses=batch.poses + 0.5),
        "keypoints": batch._replace(keypoints=2 * batch.keypoints),
        "index": batch._replace(index=batch.index + 1),
    }
    for name, changed in changes.items():
        assert abs(float(loss(KEY, changed)) - value) > 1e-5, name
    assert abs(float(loss(jax.random.key(4), batch)) - value) > 1e-5
    order = np.array([2, 0, 3, 1])
    assert loss(KEY, Batch(*(part[order] for part in batch[:4]))) == pytest.approx(value, rel=1e-5)


def test_training_learns_the_pose_encoder_and_keeps_the_statistics(wrapped, batch):
    def value(params):
        return wrapper().loss({**wrapped, "params": params}, KEY, batch)

    slopes, aux = jax.jit(jax.grad(value, has_aux=True))(wrapped["params"])
    assert set(wrapped) == {"params", "batch_stats", "frozen"}
    assert set(slopes) == {"denoiser", "pose_encoder"}
    assert np.any(slopes["pose_encoder"]["kernel"])
    # Those of the denoiser only: the context is frozen, its statistics too.
    assert jax.tree.structure(aux.batch_stats) == jax.tree.structure(wrapped["batch_stats"])
    assert set(aux.batch_stats) == {"denoiser"}


class Oracle:
    """A network that knows the poses `[B, F, J, 3]`; the first three channels it sees are the noisy ones."""

    def __init__(self, poses: jax.Array):
        self.poses = poses

    def __call__(self, x, k, *, train, index=None):
        return to_eps(x[..., :3], self.poses, jnp.asarray(SCHEDULE.alpha_bar)[k])


@pytest.mark.parametrize("plan", [PLAN, ddpm_plan(SCHEDULE, 3, mean="eps"), ddim_plan(SCHEDULE, 4)])
def test_an_oracle_gets_the_clean_pose_out_of_the_sampler(batch, plan):
    poses = sample(lifter_2d(Oracle(batch.poses), plan), {}, batch, 2)
    np.testing.assert_allclose(poses, np.broadcast_to(batch.poses[None], (2, *batch.poses.shape)), atol=2e-5)


def test_the_root_is_subtracted_unless_the_released_output_is_asked_for(batch):
    moved = batch.poses + 0.5
    for root_relative, expected in ((True, batch.poses), (False, moved)):
        poses = sample(lifter_2d(Oracle(moved), root_relative=root_relative), {}, batch)
        np.testing.assert_allclose(poses[0], expected, atol=2e-5)


def test_hypotheses_differ_and_depend_neither_on_their_number_nor_on_the_batch(run, variables, batch):
    five = np.asarray(run(variables, KEY, batch, 5))
    assert five.shape == (5, 4, FRAMES, 17, 3)
    assert all(np.abs(five[a] - five[b]).max() > 0.01 for a in range(5) for b in range(a))
    last = Batch(*(part[3:] for part in batch[:4]))
    np.testing.assert_allclose(sample(lifter_2d(), variables, last, 2), five[:2, 3:], atol=1e-4)


def test_samples_follow_the_keypoints_and_never_the_true_pose(run, variables, batch):
    poses = run(variables, KEY, batch, 5)
    np.testing.assert_array_equal(run(variables, KEY, batch._replace(poses=batch.poses + 1), 5), poses)
    assert np.abs(run(variables, KEY, batch._replace(keypoints=2 * batch.keypoints), 5) - poses).max() > 1e-3


def test_a_context_encoded_once_gives_the_samples_of_one_encoded_in_every_step(conditional, wrapped, batch):
    """The release encodes it inside the network, at each of T x H calls."""
    own = {name: wrapped[name]["denoiser"] for name in ("params", "batch_stats")}
    encoder = wrapped["params"]["pose_encoder"]

    def every_time(x, k, *, train, index=None):
        pose = x[..., :3] @ encoder["kernel"] + encoder["bias"][None, None, None]
        seen = jnp.concatenate([pose, CONTEXT.features(wrapped["frozen"], x[..., 3:])], axis=-1)
        return Tiny().apply(own, seen, k, train=train)

    expected = sample(lifter_2d(every_time), {}, batch, 3)
    np.testing.assert_allclose(conditional, expected, atol=1e-4)


def test_the_context_is_encoded_outside_the_steps_and_the_hypotheses(wrapped, batch):
    context = CONTEXT._replace(features=lambda *args: jnp.arccosh(2 + CONTEXT.features(*args)))
    text = str(jax.make_jaxpr(lambda: wrapper(context).sample(wrapped, KEY, batch, 3))())
    assert text.count("acosh") == 1
    assert text.index("acosh") < text.index("scan[")
    assert f"f32[4,{FRAMES},17,8] = acosh" in text


def test_guidance_of_minus_one_leaves_the_condition_out(conditional, wrapped, batch):
    blind = CONTEXT._replace(features=lambda frozen, keypoints: jnp.zeros((*keypoints.shape[:3], 8)))
    unconditional = sample(wrapper(blind), wrapped, batch, 3)
    assert np.abs(conditional - unconditional).max() > 0.1
    np.testing.assert_allclose(sample(wrapper(guidance=-1.0), wrapped, batch, 3), unconditional, atol=1e-4)


def test_conditions_are_dropped_by_example(wrapped, batch):
    @jax.jit
    def slope(keypoints):
        lifter = wrapper(p_uncond=0.5)
        return jax.grad(lambda seen: lifter.loss(wrapped, KEY, batch._replace(keypoints=seen))[0])(keypoints)

    seen = np.any(slope(batch.keypoints) != 0, axis=(2, 3))
    assert {tuple(row) for row in seen.tolist()} == {(True,) * FRAMES, (False,) * FRAMES}


def test_a_start_from_the_context_begins_at_its_pose(wrapped, batch):
    pose = CONTEXT.sample(wrapped["frozen"], KEY, batch, 1)[0]

    def no_noise(x, k, *, train, index=None):
        return jnp.zeros_like(x[..., :3])

    # Without predicted noise the step to clean data divides by the root of alpha bar.
    options = {"encode_pose": False, "start": "context", "context": CONTEXT}
    found = sample(lifter_2d(no_noise, ddim_plan(SCHEDULE, (2,)), **options), wrapped, batch)[0]
    np.testing.assert_allclose(found, pose / np.sqrt(SCHEDULE.alpha_bar[2]), atol=1e-5)


@pytest.mark.parametrize(
    ("options", "width"), [({}, 16), ({"condition": "pose"}, 6), ({"encoding": "sum"}, 8), ({"encode_pose": False}, 11)]
)
def test_the_network_sees_pose_and_condition_as_asked(batch, options, width):
    lifter = wrapper(**options)
    variables = jax.eval_shape(lifter.init, KEY, batch)
    assert variables["params"]["denoiser"]["input"]["kernel"].shape == (width, 8)
    poses = jax.eval_shape(lambda variables: lifter.sample(variables, KEY, batch, 2), variables)
    assert poses.shape == (2, 4, FRAMES, 17, 3)


def test_options_that_make_no_sense_are_refused(batch):
    with pytest.raises(UserError, match="encoding: expected one of concat, sum, found 'mean'"):
        wrapper(encoding="mean")
    with pytest.raises(UserError, match="where there is no context"):
        lifter_2d(start="context")
    with pytest.raises(UserError, match="of one width, found 3 and 8"):
        jax.eval_shape(wrapper(encoding="sum", encode_pose=False).init, KEY, batch)


@pytest.mark.parametrize("name", ["diffhpe_2d_denoiser", "diffhpe_wrapper_denoiser"])
def test_released_weights_have_the_form_of_the_lifters_variables(name):
    vector = next(read_vector(path) for path in vector_paths() if path.stem == name)
    config, wrap = vector.config, name.startswith("diffhpe_wrapper")
    frames = config["seq_len"]
    sizes = (config["channels"], config["layers"], config["diffusion_embedding_dim"], config["num_steps"])
    context = None
    if wrap:
        context = mixste_lifter(frames, config["cond_channels"], config["cond_layers"], config["cond_nheads"])
    lifter = diffhpe(CSDIGCN(H36M_17, frames, *sizes), H36M_17, SCHEDULE, PLAN, frames=frames, context=context)
    expected = jax.eval_shape(lifter.init, KEY, example_batch(lifter))
    found = (diffhpe_wrapper_variables if wrap else diffhpe_2d_variables)(vector.weights)
    assert jax.tree.map(jnp.shape, found) == jax.tree.map(jnp.shape, expected)


def test_missing_and_unknown_entries_are_named():
    vector = next(read_vector(path) for path in vector_paths() if path.stem == "diffhpe_wrapper_denoiser")
    key = "conditioning.data_enc.weight"
    with pytest.raises(UserError, match=f"entry '{key}' is missing"):
        diffhpe_wrapper_variables({name: value for name, value in vector.weights.items() if name != key})
    with pytest.raises(UserError, match="not understood, the first is 'ema'"):
        diffhpe_wrapper_variables({**vector.weights, "ema": np.zeros(1)})

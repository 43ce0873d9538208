"""DiffHPE: its loss, an oracle that returns the pose, noise by example, the context encoded once, guidance, starts."""

from __future__ import annotations

import dataclasses
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
from diffpose_jax.lifters.base import Batch, Lifter, Sampling
from diffpose_jax.lifters.batches import example_batch
from diffpose_jax.lifters.diffhpe import Conditioned, DiffHPE, DiffHPEOptions, denoising_loss
from diffpose_jax.lifters.supervised import MixSTELifter, MixSTEOptions
from diffpose_jax.models.csdi_gcn import CSDIGCN
from diffpose_jax.models.linear import Linear
from diffpose_jax.models.mixste import MixSTE
from diffpose_jax.models.normalisation import BatchNorm, Dropout
from diffpose_jax.skeleton import H36M_17

from ..parity.vectors import read_vector, vector_paths
from .toys import KEY, pose_batch, take
from .toys import sample as draw

FRAMES = 4
SCHEDULE = cosine(8, max_beta=0.5)
PLAN = ddpm_plan(SCHEDULE, mean="eps")


class Tiny(nn.Module):
    """A network with what the lifter may rely on: a timestep, batch statistics, dropout, features; quick to compile."""

    dropout: float = 0.0

    @nn.compact
    def __call__(self, x, k=None, *, train, index=None, features=False):
        k = jnp.float32(0) if k is None else 0.1 * k.astype(jnp.float32)
        h = Linear(8, name="input")(x) + (k[:, None, None, None] if k.ndim else k)
        h = jnp.tanh(BatchNorm(name="norm")(h, train=train))
        index = jnp.arange(len(x)) if index is None else index
        h = jnp.sinh(Dropout(self.dropout, batch_axis=0, name="dropout")(h, index, train=train))
        return h if features else Linear(3, name="output")(h)


def context_of(network: nn.Module) -> MixSTELifter:
    return MixSTELifter(network, H36M_17, MixSTEOptions(frames=FRAMES))


CONTEXT = context_of(Tiny())


@pytest.fixture(scope="module")
def batch() -> Batch:
    return pose_batch(4, FRAMES, spacing=9)


def lifter_2d(denoiser=None, plan=PLAN, context=None, **options) -> DiffHPE:
    options = DiffHPEOptions(frames=FRAMES, **options)
    network = Conditioned(denoiser or Tiny(), options.encode_pose and context is not None, options.encoding)
    return DiffHPE(network, H36M_17, SCHEDULE, plan, options, context)


class Steps(nn.Module):
    """A network that answers with the timestep."""

    @nn.compact
    def __call__(self, x, condition, k, *, train):
        return jnp.broadcast_to(k.astype(jnp.float32)[:, None, None, None], x.shape)


def test_the_plateau_judges_the_noise_loss_at_every_tenth_timestep(batch):
    lifter = dataclasses.replace(lifter_2d(), network=Steps(), schedule=cosine(25, max_beta=0.5))
    loss = lifter.valid_loss({}, KEY, batch)
    # The mean of (k - noise)^2 at k = 0, 10 and 20.
    assert loss == pytest.approx((0 + 100 + 400) / 3 + 1, rel=0.03)
    assert loss == lifter.valid_loss({}, KEY, batch)
    assert lifter.valid_loss({}, KEY, batch._replace(index=batch.index + 1)) != loss


def wrapper(context: Lifter = CONTEXT, **options) -> DiffHPE:
    return lifter_2d(context=context, **options)


def sample(lifter: Lifter, variables, batch: Batch, hypotheses: int = 1) -> np.ndarray:
    return np.asarray(draw(lifter, variables, KEY, batch, Sampling(hypotheses)))


@pytest.fixture(scope="module")
def variables(batch):
    return jax.jit(lifter_2d().init)(jax.random.key(1), batch)


@pytest.fixture(scope="module")
def conditional(wrapped, batch):
    """Three hypotheses of the wrapper."""
    return sample(wrapper(), wrapped, batch, 3)


@pytest.fixture(scope="module")
def wrapped(batch):
    return jax.jit(wrapper().init)(jax.random.key(1), batch)


def mixste_lifter(frames: int, width: int, layers: int, heads: int) -> MixSTELifter:
    return MixSTELifter(MixSTE(frames, 17, width, layers, heads), H36M_17, MixSTEOptions(frames=frames))


def count(tree) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def test_the_wrapper_has_the_published_number_of_parameters():
    context = mixste_lifter(27, 64, 8, 8)
    schedule, network = cosine(50, max_beta=0.5), Conditioned(CSDIGCN(H36M_17), encode_pose=True)
    lifter = DiffHPE(network, H36M_17, schedule, ddpm_plan(schedule, mean="eps"), DiffHPEOptions(), context)
    variables = jax.eval_shape(lambda: lifter.init(KEY, example_batch(lifter)))
    frozen = variables["frozen"]["params"]
    assert count(variables["params"]) == 3_210_099
    assert count(variables["params"]["pose_encoder"]) == 256
    # The release drops the frozen lifter's last layer.
    assert count(variables["params"]) + count(frozen) - count(frozen["output"]) == 3_749_043


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
    assert loss(KEY, take(batch, [2, 0, 3, 1])) == pytest.approx(value, rel=1e-5)


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
    """A network that knows the poses `[B, F, J, 3]`; the first three channels of its input are the noisy ones."""

    def __init__(self, poses: jax.Array):
        self.poses = poses

    def __call__(self, x, k, *, train, index=None):
        return to_eps(x[..., :3], self.poses, jnp.asarray(SCHEDULE.alpha_bar)[k])


@pytest.mark.parametrize("plan", [PLAN, ddpm_plan(SCHEDULE, 3, mean="eps"), ddim_plan(SCHEDULE, 4)])
def test_an_oracle_gets_the_clean_pose_out_of_the_sampler(batch, plan):
    poses = sample(lifter_2d(Oracle(batch.poses), plan), {}, batch, 2)
    np.testing.assert_allclose(poses, np.broadcast_to(batch.poses[None], (2, *batch.poses.shape)), atol=2e-5)


def test_the_root_is_subtracted_unless_the_output_of_the_release_is_asked_for(batch):
    moved = batch.poses + 0.5
    for root_release, expected in ((False, batch.poses), (True, moved)):
        poses = sample(lifter_2d(Oracle(moved), root_release=root_release), {}, batch)
        np.testing.assert_allclose(poses[0], expected, atol=2e-5)


def test_hypotheses_differ_and_depend_neither_on_their_number_nor_on_the_batch(variables, batch):
    three = sample(lifter_2d(), variables, batch, 3)
    assert three.shape == (3, 4, FRAMES, 17, 3)
    assert all(np.abs(three[a] - three[b]).max() > 0.01 for a in range(3) for b in range(a))
    np.testing.assert_allclose(sample(lifter_2d(), variables, take(batch, [3]), 2), three[:2, 3:], atol=1e-4)


def test_samples_follow_the_keypoints_and_never_the_true_pose(variables, batch):
    poses = sample(lifter_2d(), variables, batch, 3)
    np.testing.assert_array_equal(sample(lifter_2d(), variables, batch._replace(poses=batch.poses + 1), 3), poses)
    other = sample(lifter_2d(), variables, batch._replace(keypoints=2 * batch.keypoints), 3)
    assert np.abs(other - poses).max() > 1e-3


def test_a_context_encoded_once_gives_the_samples_of_one_encoded_in_every_step(conditional, wrapped, batch):
    """The release encodes it inside the network, at each of T x H calls."""
    own = {name: wrapped[name]["denoiser"] for name in ("params", "batch_stats")}
    encoder = wrapped["params"]["pose_encoder"]

    def every_time(x, k, *, train, index=None):
        pose = x[..., :3] @ encoder["kernel"] + encoder["bias"][None, None, None]
        given = jnp.concatenate(
            [pose, CONTEXT.features(wrapped["frozen"], batch._replace(keypoints=x[..., 3:]))], axis=-1
        )
        return Tiny().apply(own, given, k, train=train)

    expected = sample(lifter_2d(every_time), {}, batch, 3)
    np.testing.assert_allclose(conditional, expected, atol=1e-4)


@dataclasses.dataclass(frozen=True)
class Marked(MixSTELifter):
    """A context whose features are taken from an operation that occurs nowhere else."""

    def features(self, variables, batch):
        return jnp.arccosh(2 + jnp.abs(super().features(variables, batch)))


def test_the_context_is_encoded_outside_the_steps_and_the_hypotheses(wrapped, batch):
    lifter = wrapper(Marked(Tiny(), H36M_17, CONTEXT.options))
    text = str(jax.make_jaxpr(lambda: lifter.sample(wrapped, KEY, batch, Sampling(3)))())
    assert text.count("acosh") == 1
    assert text.index("acosh") < text.index("scan[")
    assert f"f32[4,{FRAMES},17,8] = acosh" in text


def test_guidance_moves_the_noise_away_from_what_is_predicted_without_a_condition(wrapped, batch):
    """Equation 6 of Ho and Salimans, for a predicted noise that depends on the condition."""
    condition, x, k = wrapper().encode(wrapped, batch).condition, batch.poses, jnp.int32(3)

    def eps(lifter: DiffHPE, condition: jax.Array) -> jax.Array:
        return jax.jit(lifter.denoiser(wrapped, condition))(x, k)[1]

    with_condition, without = eps(wrapper(), condition), eps(wrapper(), jnp.zeros_like(condition))
    assert np.abs(with_condition - without).max() > 0.1
    guided = eps(wrapper(guidance=0.5), condition)
    np.testing.assert_allclose(guided, 1.5 * with_condition - 0.5 * without, atol=1e-5)


def test_conditions_are_dropped_by_example(wrapped, batch):
    @jax.jit
    def slope(keypoints):
        lifter = wrapper(p_uncond=0.5)
        return jax.grad(lambda given: lifter.loss(wrapped, KEY, batch._replace(keypoints=given))[0])(keypoints)

    matters = np.any(slope(batch.keypoints) != 0, axis=(2, 3))
    assert {tuple(row) for row in matters.tolist()} == {(True,) * FRAMES, (False,) * FRAMES}


def test_a_start_from_the_context_begins_at_its_pose(wrapped, batch):
    pose = sample(CONTEXT, wrapped["frozen"], batch)[0]

    def no_noise(x, k, *, train, index=None):
        return jnp.zeros_like(x[..., :3])

    # Without predicted noise the step to clean data divides by the root of alpha bar.
    lifter = lifter_2d(no_noise, ddim_plan(SCHEDULE, (2,)), CONTEXT, encode_pose=False, start="context")
    found = sample(lifter, wrapped, batch)[0]
    np.testing.assert_allclose(found, pose / np.sqrt(SCHEDULE.alpha_bar[2]), atol=1e-5)


@pytest.mark.parametrize(
    ("options", "width"), [({}, 16), ({"condition": "pose"}, 6), ({"encoding": "sum"}, 8), ({"encode_pose": False}, 11)]
)
def test_the_networks_input_is_pose_and_condition_as_asked(batch, options, width):
    lifter = wrapper(**options)
    variables = jax.eval_shape(lifter.init, KEY, batch)
    assert variables["params"]["denoiser"]["input"]["kernel"].shape == (width, 8)
    poses = jax.eval_shape(lambda variables: lifter.sample(variables, KEY, batch, Sampling(2)), variables)
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
    network = Conditioned(CSDIGCN(H36M_17, frames, *sizes), wrap)
    lifter = DiffHPE(network, H36M_17, SCHEDULE, PLAN, DiffHPEOptions(frames=frames), context)
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

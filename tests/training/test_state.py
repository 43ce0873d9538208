"""Optimisers, schedules and averages against closed forms and against torch's rules written out in plain Python."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from diffpose_jax.sections import TrainingOptions
from diffpose_jax.training.state import (
    Plateau,
    TrainState,
    current_rate,
    learning_rate,
    make_optimizer,
    update_average,
    update_plateau,
)


def scales(errors, training: TrainingOptions) -> list[float]:
    """The scale of the learning rate after each of the validations with these errors."""
    plateau, found = Plateau(np.float32(1), np.float32(np.inf), np.float32(np.inf), np.int32(0)), []
    for error in errors:
        plateau = update_plateau(plateau, error, training)
        found.append(float(plateau.scale))
    return found


def torch_rule(errors, factor, patience, threshold, least) -> list[float]:
    """ReduceLROnPlateau with mode 'min' and threshold_mode 'rel', as its documentation describes it."""
    rate, best, bad, found = 1.0, float("inf"), 0, []
    for error in errors:
        if error < best * (1 - threshold):
            best, bad = error, 0
        else:
            bad += 1
        if bad > patience:
            rate, bad = max(rate * factor, least), 0
        found.append(rate)
    return found


@pytest.mark.parametrize("feed", ["current", "best"])
def test_a_plateau_follows_torchs_rule(feed):
    training = TrainingOptions(learning_rate=1e-3, plateau_patience=2, plateau_threshold=0.05, plateau_factor=0.5,
                               plateau_min_rate=1e-4, plateau_feed=feed)  # fmt: skip
    rng = np.random.default_rng(0)
    errors = 50 + 100 * np.exp(-np.arange(60) / 8) + 8 * rng.standard_normal(60)
    fed = np.minimum.accumulate(errors) if feed == "best" else errors
    expected = torch_rule(fed, 0.5, 2, 0.05, 0.1)
    np.testing.assert_allclose(scales(errors, training), expected, rtol=1e-6)
    assert expected[-1] == 0.1
    assert len(set(expected)) > 3


def test_a_plateau_lowers_the_rate_when_no_error_is_lower_by_the_threshold():
    training = TrainingOptions(plateau_patience=2, plateau_threshold=0.1)
    # Every error is the lowest so far, none by a tenth.
    slowly_falling = [100 * 0.98**n for n in range(12)]
    assert scales(slowly_falling, training)[3] == 0.5
    # Judged by the lowest error so far, three higher ones are three validations without progress.
    training = TrainingOptions(plateau_patience=2, plateau_threshold=0.1, plateau_feed="best")
    assert scales([100, 80, 200, 200, 200], training) == [1, 1, 1, 1, 0.5]


def test_a_validation_that_is_no_number_counts_as_no_progress():
    assert scales([10, float("nan"), 5], TrainingOptions(plateau_patience=0)) == [1, 0.5, 0.5]


def take_steps(training: TrainingOptions, steps: int = 3) -> np.ndarray:
    """Parameters (1, -2) after steps with the gradients (0.3, -0.1), twice that, and so on."""
    optimizer, params = make_optimizer(training), {"bias": jnp.array([1.0, -2.0])}
    state = optimizer.init(params)
    for number in range(steps):
        gradient = {"bias": jnp.array([0.3, -0.1]) * (number + 1)}
        updates, state = optimizer.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
    return np.asarray(params["bias"])


@pytest.mark.parametrize("kind", ["decoupled", "l2"])
def test_weight_decay_is_torchs_adamw_or_adam(kind):
    training = TrainingOptions(learning_rate=0.1, weight_decay=0.2, weight_decay_kind=kind)
    params, first, second = np.array([1.0, -2.0]), np.zeros(2), np.zeros(2)
    for number in range(1, 4):
        gradient = np.array([0.3, -0.1]) * number
        if kind == "l2":
            gradient = gradient + 0.2 * params
        else:
            params = params * (1 - 0.1 * 0.2)
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        params = params - 0.1 * (first / (1 - 0.9**number)) / (np.sqrt(second / (1 - 0.999**number)) + 1e-8)
    np.testing.assert_allclose(take_steps(training), params, rtol=1e-5)


def test_clipping_comes_before_l2_decay():
    training = TrainingOptions(learning_rate=0.1, weight_decay=0.5, weight_decay_kind="l2", clip_norm=0.1)
    optimizer, params = make_optimizer(training), jnp.array([3.0, 4.0])
    _, state = optimizer.update(jnp.array([30.0, 40.0]), optimizer.init(params), params)
    # The first moment is a tenth of the gradient clipped to (0.06, 0.08), plus half of the parameters.
    np.testing.assert_allclose(optax.tree.get(state, "mu"), [0.156, 0.208], rtol=1e-5)


def test_a_rate_of_a_tenth_less_every_sixty_epochs_is_a_staircase():
    training = TrainingOptions(learning_rate=1e-3, decay="exponential", decay_rate=0.9, decay_every=60 * 1524)
    rate = learning_rate(training)
    for epoch in (0, 59, 60, 79, 120):
        assert rate(epoch * 1524) == pytest.approx(1e-3 * 0.9 ** (epoch // 60))


def test_the_rate_in_the_log_is_that_of_the_last_step_with_the_scale_of_the_plateau():
    training = TrainingOptions(learning_rate=1e-3, decay="exponential", decay_rate=0.5, decay_every=20)
    state = TrainState(*[None] * 6)
    assert [current_rate(state, training, step) for step in (1, 20, 21)] == pytest.approx([1e-3, 1e-3, 5e-4])
    state = state._replace(plateau=Plateau(jnp.float32(0.25), jnp.float32(1), jnp.float32(1), jnp.int32(0)))
    assert current_rate(state, TrainingOptions(learning_rate=1e-3, decay="plateau"), 7) == pytest.approx(2.5e-4)


def average_of(values, **options) -> list[float]:
    """The averages after each of the values that follow the first, which training starts from."""
    average, found, training = jnp.float32(values[0]), [], TrainingOptions(**options)
    for step, value in enumerate(values[1:], 1):
        average = update_average(average, jnp.float32(value), jnp.int32(step), training)
        found.append(float(average))
    return found


def test_the_grown_average_is_the_latest_value_at_first_and_slow_later():
    training = TrainingOptions(ema_decay=0.9995)
    early, late = (update_average(jnp.zeros(3), jnp.ones(3), jnp.int32(step), training) for step in (1, 10_000_000))
    assert float(early[0]) == pytest.approx(2 ** (-2 / 3), rel=1e-6)
    assert float(late[0]) == pytest.approx(0.0005, rel=1e-3)


def test_a_constant_average_of_a_jump_closes_geometrically():
    found = average_of([0.0] + [1.0] * 10, ema_decay=0.9, ema_kind="constant")
    np.testing.assert_allclose(found, 1 - 0.9 ** np.arange(1, 11), rtol=1e-6)


def test_no_decay_is_no_average():
    for kind in ("grown", "constant"):
        assert average_of([5.0, 1.0, 7.0, -2.0], ema_decay=0.0, ema_kind=kind) == [1, 7, -2]


def test_an_average_of_every_third_step_is_constant_in_between_and_copies_until_it_starts():
    found = average_of(range(11), ema_decay=0.5, ema_kind="constant", ema_every=3, ema_start=4)
    # Steps 1, 4, 7, 10 move: 1 and 4 are copies, then halfway to 7, then halfway to 10.
    assert found == [1, 1, 1, 4, 4, 4, 5.5, 5.5, 5.5, 7.75]


def test_the_average_of_ema_pytorch_every_ten_steps():
    """Its rule in its own counter: a copy up to call 100, then 1 - (1 + n)^(-2/3) with n calls since, at most 0.995."""
    values = np.random.default_rng(0).standard_normal(4000)
    shadow, expected = values[0], []
    for call, value in enumerate(values[1:]):
        if call % 10 == 0:
            n = call + 1 - 100 - 1
            decay = 0.0 if call <= 100 or n <= 0 else min(0.995, 1 - (1 + n) ** (-2 / 3))
            shadow = value + decay * (shadow - value)
        expected.append(shadow)
    latest, steps = jnp.asarray(values[1:], jnp.float32), jnp.arange(1, len(values), dtype=jnp.int32)

    training = TrainingOptions(ema_decay=0.995, ema_every=10, ema_start=101)

    def advance(average, one):
        average = update_average(average, one[0], one[1], training)
        return average, average

    _, found = jax.lax.scan(advance, jnp.float32(values[0]), (latest, steps))
    np.testing.assert_allclose(found, expected, atol=1e-5)

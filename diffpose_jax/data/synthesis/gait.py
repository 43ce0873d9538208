"""Synthetic people on their feet: walking, running, turning and climbing as planted footsteps along a path."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from diffpose_jax.data.synthesis.body import (
    ABDUCTION,
    BEND,
    ELBOW,
    FLEXION,
    INWARD,
    LEFT,
    RIGHT,
    TWIST,
    Body,
    Posture,
    settle,
)
from diffpose_jax.data.synthesis.courses import FPS, Rng, ease, glide, smooth

EDGE = 50  # frames simulated before and after a walk, so that its first and last steps are whole

Course = Callable[[np.ndarray], np.ndarray]


class Gait(NamedTuple):
    """How feet take turns on the ground."""

    cycle: float  # s of two steps
    duty: float  # share of the cycle that a foot stands
    ahead: float  # share of the cycle after landing at which the pelvis passes over the foot
    lift: float  # m that the ankle rises in mid-swing


def _level(places: np.ndarray) -> np.ndarray:
    return np.zeros(len(places))


def stride(
    body: Body, path: Course, heading: Course, frames: int, gait: Gait, terrain: Course = _level
) -> tuple[Posture, np.ndarray]:
    """Step along a path: planted feet, heels that rise, swinging feet.

    Args:
        body: The person.
        path: The pelvis on the ground `[N, 2]` (m) at times `[N]` (s).
        heading: Its direction `[N]` at times `[N]` (s).
        frames: T.
        gait: How the feet take turns.
        terrain: The height `[N]` (m) of the ground at places `[N, 2]`.

    Returns:
        The posture, legs not yet limited to their reach (`settle`), and the phase `[T]` of the cycle in radians, 0
        when the left foot lands.
    """
    cycle, duty = gait.cycle, gait.duty
    now = np.arange(frames) / FPS
    posture = Posture.standing(body, frames)
    posture.pelvis[:, :2], posture.heading = path(now), heading(now)
    for foot, (offset, side) in enumerate(((0.0, 1), (0.5, -1))):
        count, share = np.divmod(now / cycle + offset, 1.0)
        standing, swing = np.clip(share / duty, 0, 1), np.clip((share - duty) / (1 - duty), 0, 1)

        def plant(index: np.ndarray, offset: float = offset, side: int = side) -> tuple[np.ndarray, np.ndarray]:
            """Where the ankle stands in the cycle `index`, `[T, 3]`, and the foot's direction `[T]`."""
            # The foot is put down where the pelvis will be when it passes over the foot.
            time = (index - offset + gait.ahead) * cycle
            angle = heading(time)
            across = np.stack([-np.sin(angle), np.cos(angle)], axis=-1)
            place = path(time) + side * 0.6 * body.hip * across
            return np.concatenate([place, terrain(place)[:, None] + body.ankle], axis=-1), angle

        (here, angle), (there, next_angle) = plant(count), plant(count + 1)
        length = np.linalg.norm((there - here)[:, :2], axis=-1) + 0.1 * np.abs(next_angle - angle)
        left_from = here + _roll(body, standing, angle, length)
        posture.ankles[:, foot] = left_from + (there - left_from) * _swing(swing, there[:, 2] > here[:, 2])
        posture.ankles[:, foot, 2] += gait.lift * np.clip(length / 0.3, 0, 1) * np.sin(np.pi * swing) ** 2
        posture.toes[:, foot] = angle + (next_angle - angle) * ease(swing) + side * np.radians(7)
    posture.ankles = smooth(posture.ankles, 1.0)
    return posture, 2 * np.pi * now / cycle


def _roll(body: Body, standing: np.ndarray, angle: np.ndarray, length: np.ndarray) -> np.ndarray:
    """How far the ankle has moved `[T, 3]` because the heel rises about the ball of the foot, late in the stance.

    By up to 48 degrees when the foot leaves, less in steps shorter than 1.4 m.
    """
    # From the ball of the foot the ankle lies at (-ball, ankle), forward and up. Turned forwards by the angle r it lies
    # at (-ball cos r + ankle sin r, ball sin r + ankle cos r); what has changed is below.
    rise = np.radians(55) * np.clip(length / 1.4, 0, 1) * ease((standing - 0.45) / 0.75)
    forward = body.ball * (1 - np.cos(rise)) + body.ankle * np.sin(rise)
    upward = body.ball * np.sin(rise) + body.ankle * (np.cos(rise) - 1)
    return np.stack([np.cos(angle) * forward, np.sin(angle) * forward, upward], axis=-1)


def _swing(swing: np.ndarray, upstairs: np.ndarray) -> np.ndarray:
    """The share of its way `[T, 3]` a swinging foot has gone; upstairs it climbs first."""
    # The cubic Hermite course from 0 to 1 that leaves the ground at 0.6 of the mean speed and lands at 0.1 of it:
    # 0.6 s (1 - s)^2 - 0.1 s^2 (1 - s) + s^2 (3 - 2 s).
    level = 0.6 * swing * (1 - swing) ** 2 - 0.1 * swing**2 * (1 - swing) + swing**2 * (3 - 2 * swing)
    return np.stack([level, level, np.where(upstairs, ease(1.5 * swing), ease(1.5 * swing - 0.5))], axis=-1)


def swing_along(posture: Posture, phase: np.ndarray, arm: float, elbow: tuple[float, float], style: Rng) -> None:
    """Move pelvis, trunk and arms with the steps: arms swing opposite the legs, shoulders opposite the pelvis.

    Args:
        posture: Changed in place.
        phase: Of the cycle `[T]`, radians.
        arm: Half the range of the shoulder's flexion, degrees.
        elbow: Mean flexion of the elbow when the arm is behind, and half of what it gains in front, degrees.
        style: Source of the person's habits.
    """
    lead = np.cos(phase)  # +1 when the left foot is in front
    factor = style.uniform(0.8, 1.2, 4)
    posture.heading = posture.heading - np.radians(5) * factor[0] * lead
    posture.thorax[:, TWIST] += np.radians(9) * factor[1] * lead
    posture.list += np.radians(3.5) * factor[2] * np.sin(phase)
    posture.spine[:, BEND] -= np.radians(3) * factor[2] * np.sin(phase)
    sideways = 0.018 * factor[3] * np.sin(phase)
    posture.pelvis[:, 0] -= sideways * np.sin(posture.heading)
    posture.pelvis[:, 1] += sideways * np.cos(posture.heading)
    for side, sign in ((LEFT, -1.0), (RIGHT, 1.0)):
        posture.arms[:, side, FLEXION] = np.radians(arm * sign * lead + 0.15 * arm)
        posture.arms[:, side, ELBOW] = np.radians(elbow[0] + elbow[1] * (1 + sign * lead) / 2)


def _draw_route(rng: Rng, speed: float, curvature: float) -> tuple[Course, Course]:
    """A path of constant speed and curvature (1/m) as functions of time in s, and its heading."""
    start = rng.uniform(-np.pi, np.pi)

    def heading(time: np.ndarray) -> np.ndarray:
        return start + curvature * speed * np.asarray(time)

    def path(time: np.ndarray) -> np.ndarray:
        # The chord of an arc of length l and curvature c is l sinc(c l / 2) long and points half way between the
        # headings at its ends; sinc keeps straight lines (c = 0) exact.
        length, half = speed * np.asarray(time), 0.5 * curvature * speed * np.asarray(time)
        chord = length * np.sinc(half / np.pi)
        return np.stack([chord * np.cos(start + half), chord * np.sin(start + half)], axis=-1)

    return path, heading


def _trim(posture: Posture) -> Posture:
    return Posture(**{name: value[EDGE:-EDGE] for name, value in vars(posture).items()})


def walk(body: Body, frames: int, rng: Rng) -> Posture:
    """Walk straight on or in a curve, at 0.6 to 2.0 m/s; cadence by the walk ratio (Sekiya et al. 1996)."""
    speed = rng.uniform(0.6, 2.0)
    # The walk ratio r is step length over cadence, in m per step a minute, and hardly depends on speed. With 60 v =
    # length times cadence the cadence is sqrt(60 v / r), and a cycle of two steps lasts 120 / cadence seconds. A leg
    # swings like a pendulum: longer legs take longer, by the root.
    cycle = 120 / np.sqrt(60 * speed / rng.uniform(0.0058, 0.0070)) * np.sqrt(body.leg / 0.85)
    path, heading = _draw_route(rng, speed, rng.choice([0, rng.uniform(-0.6, 0.6)]))
    duty = np.clip(0.68 - 0.05 * speed, 0.58, 0.66)
    posture, phase = stride(body, path, heading, frames + 2 * EDGE, Gait(cycle, duty, 0.22, 0.07))
    swing_along(posture, phase, 7 + 11 * speed, (10 + 8 * speed, 10 * speed), rng)
    posture.tilt += np.radians(1 + 1.5 * speed)
    settle(body, posture)
    return _trim(posture)


def jog(body: Body, frames: int, rng: Rng) -> Posture:
    """Run at 2.2 to 3.2 m/s with a flight phase, elbows bent."""
    speed = rng.uniform(2.2, 3.2)
    cycle = 120 / rng.uniform(155, 172) * np.sqrt(body.leg / 0.85)
    path, heading = _draw_route(rng, speed, rng.choice([0, rng.uniform(-0.35, 0.35)]))
    posture, phase = stride(body, path, heading, frames + 2 * EDGE, Gait(cycle, 0.36, 0.14, 0.22))
    swing_along(posture, phase, 32, (80, 15), rng)
    posture.arms[:, :, ABDUCTION] += np.radians(8)
    posture.arms[:, :, INWARD] += np.radians(15)
    posture.tilt += np.radians(6)
    posture.spine[:, 0] += np.radians(2)
    # Two bounces in a cycle; the middle of a stance of 0.36 of the cycle is at 0.18.
    # Lowest in the middle of each stance, highest in flight.
    posture.pelvis[:, 2] -= 0.045 * body.leg + 0.04 * np.cos(2 * (phase - 2 * np.pi * 0.18))
    settle(body, posture, width=2)
    return _trim(posture)


def turn(body: Body, frames: int, rng: Rng) -> Posture:
    """Turn on the spot, several times, left and right, in small steps."""
    times, angles = [0.0], [rng.uniform(-np.pi, np.pi)]
    length = (frames + 2 * EDGE) / FPS
    while times[-1] < length:
        angle = rng.choice([-1, 1]) * rng.uniform(0.6, 2.8)
        times += [times[-1] + abs(angle) / rng.uniform(1.1, 1.9), 0.0]
        times[-1] = times[-2] + rng.uniform(0.2, 1.0)
        angles += [angles[-1] + angle] * 2
    clock = np.arange(int(2 * length * FPS))
    course = glide(len(clock), times, np.array(angles))

    def heading(time: np.ndarray) -> np.ndarray:
        return np.interp(time, clock / FPS, course)

    drift = rng.normal(0, 0.04, 2)

    def path(time: np.ndarray) -> np.ndarray:
        return np.asarray(time)[..., None] * drift

    gait = Gait(rng.uniform(0.95, 1.2), 0.62, 0.3, 0.07)
    posture, phase = stride(body, path, heading, frames + 2 * EDGE, gait)
    busy = np.abs(np.gradient(posture.heading)) * FPS
    posture.neck[:, TWIST] += 0.25 * smooth(np.gradient(posture.heading) * FPS, 6)
    posture.thorax[:, TWIST] += 0.1 * smooth(np.gradient(posture.heading) * FPS, 6)
    posture.pelvis[:, 1] += 0.012 * np.clip(busy, 0, 1) * np.sin(phase)
    posture.arms[:, :, ABDUCTION] += np.radians(6) * np.clip(smooth(busy, 8), 0, 1)[:, None]
    posture.tilt += np.radians(4)
    settle(body, posture)
    return _trim(posture)


def step_up(body: Body, frames: int, rng: Rng) -> Posture:
    """Walk up one to six steps of 12 to 20 cm and on."""
    depth, rise, steps = rng.uniform(0.28, 0.36), rng.uniform(0.12, 0.20), rng.integers(1, 7)
    cycle = rng.uniform(1.15, 1.45)
    # One step of the stairs per step of the feet.
    speed = depth / (cycle / 2)
    start = speed * (EDGE / FPS + rng.uniform(0.4, 1.6))

    def path(time: np.ndarray) -> np.ndarray:
        time = np.asarray(time, np.float64)
        return np.stack([speed * time, np.zeros_like(time)], axis=-1)

    def terrain(places: np.ndarray) -> np.ndarray:
        return rise * np.clip(np.floor((places[:, 0] - start) / depth) + 1, 0, steps)

    def heading(time: np.ndarray) -> np.ndarray:
        return np.zeros(np.shape(time))

    posture, phase = stride(body, path, heading, frames + 2 * EDGE, Gait(cycle, 0.62, 0.3, 0.09), terrain)
    swing_along(posture, phase, 12, (18, 12), rng)
    ground = smooth(terrain(path(np.arange(frames + 2 * EDGE) / FPS + 0.08 * cycle)), 7)
    posture.pelvis[:, 2] += ground
    posture.spine[:, 0] += np.radians(5)
    posture.tilt += np.radians(5)
    settle(body, posture, width=4)
    return _trim(posture)

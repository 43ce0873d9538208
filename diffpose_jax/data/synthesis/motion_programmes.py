"""What the synthetic people do: programmes of postures, each a function of a body, a number of frames and an rng.

One-handed programmes are written for the right hand; `synthetic` mirrors half of the clips.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from diffpose_jax.data.synthesis.body import BEND, ELBOW, FLEXION, LEFT, RIGHT, TWIST, Body, Posture, settle
from diffpose_jax.data.synthesis.courses import FPS, Rng, draw_bouts, draw_unrest
from diffpose_jax.data.synthesis.gait import jog, step_up, turn, walk


def enliven(rng: Rng, posture: Posture) -> None:
    """Add a person's small unrest and bearing to the trunk, the head and the arms; the head stays half upright."""
    frames = len(posture.heading)
    posture.spine += draw_unrest(rng, frames, (3,), np.radians(1.5)) + np.radians(rng.normal([1, 0, 0], [3, 1.5, 2]))
    posture.thorax += draw_unrest(rng, frames, (3,), np.radians(1.5)) + np.radians(rng.normal([1, 0, 0], [3, 1.5, 2]))
    posture.neck += draw_unrest(rng, frames, (3,), np.radians(4)) + np.radians(rng.normal([0, 0, 0], [7, 3, 8]))
    posture.neck[:, 0] -= 0.5 * _lean(posture)
    posture.arms += draw_unrest(rng, frames, (2, 4), np.radians(2)) + np.radians(rng.normal(0, 4, (2, 4)))


def _lean(posture: Posture) -> np.ndarray:
    """How far the thorax leans forward `[T]`."""
    return posture.tilt + posture.spine[:, 0] + posture.thorax[:, 0]


def _sway(rng: Rng, posture: Posture) -> None:
    """Shift the weight of somebody whose feet stay where they are."""
    posture.pelvis[:, :2] += draw_unrest(rng, len(posture.heading), (2,), 0.012)
    posture.tilt += np.radians(rng.normal(2, 2.5))
    posture.list += draw_unrest(rng, len(posture.heading), (), np.radians(1.0))


def _stand(body: Body, frames: int, rng: Rng) -> Posture:
    posture = Posture.standing(body, frames, stance=body.hip * rng.uniform(0.8, 1.6))
    posture.ankles[:, :, 0] += rng.normal(0, 0.04, 2)
    posture.toes += np.radians(rng.normal(0, 6, 2))
    _sway(rng, posture)
    return posture


def reach(body: Body, frames: int, rng: Rng) -> Posture:
    """Reach for things, high and low, in front and beside, with one hand or with both."""
    posture = _stand(body, frames, rng)
    for amount in draw_bouts(rng, frames, (0.6, 1.0), (0.2, 0.8), (0.1, 0.6)):
        height = rng.uniform(-1, 1)  # -1: the floor, 1: overhead
        low = max(0.0, -height - 0.1)
        side = rng.uniform(-0.3, 1.0)  # 1: out to the side of the hand
        hands = ([RIGHT], [RIGHT, LEFT])[rng.integers(2)]
        both = len(hands) == 2
        lean = np.radians(8 + 85 * low) * amount
        posture.tilt += 0.35 * lean
        posture.spine[:, 0] += 0.35 * lean
        posture.thorax[:, 0] += 0.3 * lean
        posture.neck[:, 0] += np.radians(-15 * height) * amount
        # An arm that does nothing hangs; a reaching one has its direction in the world.
        posture.arms[:, :, FLEXION] += 0.9 * lean[:, None]
        if not both:
            posture.thorax[:, TWIST] += np.radians(12 - 35 * max(side, 0)) * amount
            posture.neck[:, TWIST] += np.radians(-25 * side) * amount
        posture.pelvis[:, 2] -= 0.35 * body.leg * low * rng.uniform(0.2, 1.0) * amount
        posture.pelvis[:, 0] -= 0.16 * low * amount
        raised = 90 + (55 if height > 0 else 80) * height + np.degrees(lean.max())
        target = np.radians([raised, 5 if both else 5 + 35 * side, -5, rng.uniform(6, 35)])
        for hand in hands:
            posture.arms[:, hand] += (target - posture.arms[:, hand]) * amount[:, None]
    settle(body, posture)
    return posture


def squat(body: Body, frames: int, rng: Rng) -> Posture:
    """Bend the knees more or less deep, hips back, trunk forward, arms forward for balance."""
    posture = _stand(body, frames, rng)
    arms = rng.uniform(20, 90)
    for amount in draw_bouts(rng, frames, (0.7, 1.3), (0.1, 0.6), (0.1, 0.6)):
        depth = rng.uniform(0.2, 0.55) * amount
        posture.pelvis[:, 2] -= depth * body.leg
        posture.pelvis[:, 0] -= 0.42 * depth * body.leg
        posture.tilt += np.radians(45) * depth
        posture.spine[:, 0] += np.radians(35) * depth
        posture.thorax[:, 0] += np.radians(15) * depth
        raised = np.radians([arms + 60 * depth.max(), 8, 5, 12])
        posture.arms += (raised - posture.arms) * amount[:, None, None]
    settle(body, posture)
    return posture


def sit(body: Body, frames: int, rng: Rng) -> Posture:
    """Sit down on a seat of 40 to 50 cm, stay, and get up again, leaning forward on the way."""
    posture = _stand(body, frames, rng)
    posture.ankles[:, :, 0] = rng.normal(0, 0.03, 2)
    seat = rng.uniform(0.40, 0.50) + 0.05 * body.leg
    drop = posture.pelvis[:, 2] - seat
    rested = np.radians([rng.uniform(15, 40), 8, rng.uniform(0, 35), rng.uniform(40, 80)])
    for amount in draw_bouts(rng, frames, (1.1, 1.7), (0.8, 2.5), (0.3, 1.0)):
        posture.pelvis[:, 2] -= drop * amount
        # Back first, then down.
        posture.pelvis[:, 0] -= (0.95 * body.thigh + 0.02) * np.sin(0.5 * np.pi * amount)
        lean = 4 * amount * (1 - amount)
        posture.tilt += np.radians(24 * lean - 8 * amount)
        posture.spine[:, 0] += np.radians(18 * lean + 4 * amount)
        posture.thorax[:, 0] += np.radians(8 * lean)
        posture.arms[:, :, FLEXION] += np.radians(25) * lean[:, None]
        posture.arms += (rested - posture.arms) * amount[:, None, None]
    settle(body, posture)
    return posture


def wave(body: Body, frames: int, rng: Rng) -> Posture:
    """Wave with a raised hand, the forearm swinging at 1.2 to 2.2 Hz; at times with both."""
    posture = _stand(body, frames, rng)
    now = np.arange(frames) / FPS
    for amount in draw_bouts(rng, frames, (0.5, 0.8), (1.2, 3.0), (0.3, 0.8)):
        beat = np.sin(2 * np.pi * rng.uniform(1.2, 2.2) * now)
        raised = np.radians([rng.uniform(65, 100), rng.uniform(60, 105), 0, rng.uniform(55, 85)])
        for hand in ([RIGHT], [RIGHT, LEFT])[int(rng.random() < 0.3)]:
            posture.arms[:, hand] += (raised - posture.arms[:, hand]) * amount[:, None]
            posture.arms[:, hand, ELBOW] += np.radians(rng.uniform(15, 28)) * beat * amount
        posture.spine[:, BEND] -= np.radians(3) * amount
    settle(body, posture)
    return posture


PROGRAMMES: dict[str, Callable[[Body, int, Rng], Posture]] = {
    "walk": walk,
    "jog": jog,
    "turn": turn,
    "step_up": step_up,
    "reach": reach,
    "squat": squat,
    "sit": sit,
    "wave": wave,
}

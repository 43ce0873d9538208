"""What the synthetic people do: smooth programmes of postures, each a function of a body, a frame count and an rng.

Handed programmes are written for one side; `synthetic` mirrors every other clip.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from diffpose_jax.data.body import Body, Posture, reachable_height

FPS = 50.0
LEFT, RIGHT = 0, 1
FLEXION, ABDUCTION, INWARD, ELBOW = range(4)
BEND, TWIST = 1, 2
EDGE = 50  # frames simulated before and after a walk, so that its first and last steps are whole

Rng = np.random.Generator


def ease(share: np.ndarray) -> np.ndarray:
    """The minimum-jerk course from 0 to 1 (Flash and Hogan 1985) over `share` in [0, 1]."""
    share = np.clip(share, 0, 1)
    return share**3 * (10 - 15 * share + 6 * share**2)


def glide(frames: int, times: Sequence[float], values: np.ndarray) -> np.ndarray:
    """Passes through `values` `[K, ...]` at `times` `[K]` (s), minimum-jerk between them: `[T, ...]`."""
    times, values = np.asarray(times, np.float64), np.asarray(values, np.float64)
    now = np.arange(frames) / FPS
    leg = np.clip(np.searchsorted(times, now, side="right") - 1, 0, len(times) - 2)
    share = ease((now - times[leg]) / (times[leg + 1] - times[leg]))
    share = share.reshape(-1, *[1] * (values.ndim - 1))
    return values[leg] * (1 - share) + values[leg + 1] * share


def rhythm(rng: Rng, frames: int, rise: tuple[float, float], stay: tuple[float, float], rest: tuple[float, float]):
    """How far something done again and again has gone: bouts `[R, T]`, each from 0 to 1 and back, one after another."""
    start, bouts = rng.uniform(0.1, 0.5), []
    now = np.arange(frames) / FPS
    while start < frames / FPS - 0.5 or not bouts:
        up, hold, down = rng.uniform(*rise), rng.uniform(*stay), rng.uniform(*rise)
        bouts.append(ease((now - start) / up) - ease((now - start - up - hold) / down))
        start += up + hold + down + rng.uniform(*rest)
    return np.stack(bouts)


def wander(rng: Rng, frames: int, shape: tuple[int, ...], scale: float) -> np.ndarray:
    """Slow unrest `[T, *shape]` of standard deviation `scale`: three sines of 0.1 to 0.6 Hz."""
    now = np.arange(frames).reshape(-1, *[1] * len(shape)) / FPS
    waves = [np.sin(2 * np.pi * (rng.uniform(0.1, 0.6, shape) * now + rng.uniform(0, 1, shape))) for _ in range(3)]
    return scale * np.sqrt(2 / 3) * np.sum(waves, axis=0)


def smooth(values: np.ndarray, deviation: float) -> np.ndarray:
    """Gaussian smoothing along the first axis; `deviation` in frames."""
    reach = int(4 * deviation) + 1
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / deviation) ** 2)
    padded = np.pad(values, [(reach, reach)] + [(0, 0)] * (values.ndim - 1), mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, len(kernel), axis=0)
    return windows @ (kernel / kernel.sum())


def settle(body: Body, posture: Posture, width: int = 3) -> None:
    """Lowers the pelvis smoothly wherever the legs would not reach the feet otherwise."""
    height = np.minimum(posture.pelvis[:, 2], reachable_height(body, posture))
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(height, 2 * width, mode="edge"), 2 * width + 1)
    # The mean of moving minima never exceeds the bound itself.
    lowest = np.lib.stride_tricks.sliding_window_view(windows.min(axis=-1), 2 * width + 1)
    weights = np.hanning(2 * width + 3)[1:-1]
    posture.pelvis[:, 2] = lowest @ (weights / weights.sum())


def enliven(rng: Rng, posture: Posture) -> None:
    """Adds a person's small unrest and bearing to the trunk, the head and the arms; the head stays half upright."""
    frames = len(posture.heading)
    posture.spine += wander(rng, frames, (3,), np.radians(1.5)) + np.radians(rng.normal([1, 0, 0], [3, 1.5, 2]))
    posture.thorax += wander(rng, frames, (3,), np.radians(1.5)) + np.radians(rng.normal([1, 0, 0], [3, 1.5, 2]))
    posture.neck += wander(rng, frames, (3,), np.radians(4)) + np.radians(rng.normal([0, 0, 0], [7, 3, 8]))
    posture.neck[:, 0] -= 0.5 * _lean(posture)
    posture.arms += wander(rng, frames, (2, 4), np.radians(2)) + np.radians(rng.normal(0, 4, (2, 4)))


def _lean(posture: Posture) -> np.ndarray:
    """How far the thorax leans forward `[T]`."""
    return posture.tilt + posture.spine[:, 0] + posture.thorax[:, 0]


def _sway(rng: Rng, posture: Posture) -> None:
    """Shifts the weight of somebody whose feet stay where they are."""
    posture.pelvis[:, :2] += wander(rng, len(posture.heading), (2,), 0.012)
    posture.tilt += np.radians(rng.normal(2, 2.5))
    posture.list += wander(rng, len(posture.heading), (), np.radians(1.0))


def _stand(body: Body, frames: int, rng: Rng) -> Posture:
    posture = Posture.standing(body, frames, stance=body.hip * rng.uniform(0.8, 1.6))
    posture.ankles[:, :, 0] += rng.normal(0, 0.04, 2)
    posture.toes += np.radians(rng.normal(0, 6, 2))
    _sway(rng, posture)
    return posture


def stride(
    body: Body,
    path: Callable[[np.ndarray], np.ndarray],
    heading: Callable[[np.ndarray], np.ndarray],
    frames: int,
    cycle: float,
    duty: float,
    ahead: float,
    lift: float,
    terrain: Callable[[np.ndarray], np.ndarray] = lambda places: np.zeros(len(places)),
) -> tuple[Posture, np.ndarray]:
    """Steps along `path` (s to `[N, 2]`) with `heading` (s to `[N]`): planted feet, heels that rise, swinging feet.

    `cycle` is the time of two steps in s, `duty` the share of it a foot stands, `ahead` the share after landing at
    which the pelvis passes over the foot, `lift` the ankle's rise in mid-swing in m. Returns the posture, pelvis high,
    and the phase `[T]` of the cycle in radians, 0 when the left foot lands.
    """
    now = np.arange(frames) / FPS
    posture = Posture.standing(body, frames)
    posture.pelvis[:, :2], posture.heading = path(now), heading(now)
    for foot, (offset, side) in enumerate(((0.0, 1), (0.5, -1))):
        count, share = np.divmod(now / cycle + offset, 1.0)

        def plant(number: np.ndarray, offset: float = offset, side: int = side) -> tuple[np.ndarray, np.ndarray]:
            time = (number - offset + ahead) * cycle
            angle = heading(time)
            across = np.stack([-np.sin(angle), np.cos(angle)], axis=-1)
            place = path(time) + side * 0.6 * body.hip * across
            return np.concatenate([place, terrain(place)[:, None] + body.ankle], axis=-1), angle

        (here, angle), (there, next_angle) = plant(count), plant(count + 1)
        gap = np.linalg.norm((there - here)[:, :2], axis=-1) + 0.1 * np.abs(next_angle - angle)
        swing = np.clip((share - duty) / (1 - duty), 0, 1)
        # The heel rises about the ball of the foot in the last part of the stance, more in longer steps.
        rise = np.radians(55) * np.clip(gap / 1.4, 0, 1) * ease((share - 0.45 * duty) / (0.75 * duty)) * (share < duty)
        rise = np.where(share < duty, rise, np.radians(55) * np.clip(gap / 1.4, 0, 1) * ease(np.array(0.55 / 0.75)))
        forward = body.ball * (1 - np.cos(rise)) + body.ankle * np.sin(rise)
        upward = body.ball * np.sin(rise) + body.ankle * (np.cos(rise) - 1)
        ahead_of = np.stack([np.cos(angle) * forward, np.sin(angle) * forward, upward], axis=-1)
        # A cubic that leaves the ground at 0.6 of the mean speed and lands at 0.1 of it.
        across_ground = 0.6 * swing * (1 - swing) ** 2 - 0.1 * swing**2 * (1 - swing) + swing**2 * (3 - 2 * swing)
        climb = np.where(there[:, 2] > here[:, 2], ease(1.5 * swing), ease(1.5 * swing - 0.5))
        share_of_way = np.stack([across_ground, across_ground, climb], axis=-1)
        posture.ankles[:, foot] = here + ahead_of + (there - here - ahead_of) * share_of_way
        posture.ankles[:, foot, 2] += lift * np.clip(gap / 0.3, 0, 1) * np.sin(np.pi * swing) ** 2
        posture.toes[:, foot] = angle + (next_angle - angle) * ease(swing) + side * np.radians(7)
    posture.ankles = smooth(posture.ankles, 1.0)
    return posture, 2 * np.pi * now / cycle


def swing_along(posture: Posture, phase: np.ndarray, arm: float, elbow: tuple[float, float], style: Rng) -> None:
    """Moves pelvis, trunk and arms with the steps: arms swing opposite the legs, shoulders opposite the pelvis."""
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


def _route(rng: Rng, speed: float, curvature: float) -> tuple[Callable, Callable]:
    """A path of constant speed and curvature (1/m) as functions of time in s, and its heading."""
    start = rng.uniform(-np.pi, np.pi)

    def heading(time: np.ndarray) -> np.ndarray:
        return start + curvature * speed * np.asarray(time)

    def path(time: np.ndarray) -> np.ndarray:
        # The chord of an arc points half way between the headings at its ends; sinc keeps straight lines exact.
        length, half = speed * np.asarray(time), 0.5 * curvature * speed * np.asarray(time)
        chord = length * np.sinc(half / np.pi)
        return np.stack([chord * np.cos(start + half), chord * np.sin(start + half)], axis=-1)

    return path, heading


def _trimmed(posture: Posture) -> Posture:
    return Posture(**{name: value[EDGE:-EDGE] for name, value in vars(posture).items()})


def walk(body: Body, frames: int, rng: Rng) -> Posture:
    """Walks straight on or in a curve, at 0.6 to 2.0 m/s; cadence by the walk ratio (Sekiya et al. 1996)."""
    speed = rng.uniform(0.6, 2.0)
    cycle = 120 / np.sqrt(60 * speed / rng.uniform(0.0058, 0.0070)) * np.sqrt(body.leg / 0.85)
    path, heading = _route(rng, speed, rng.choice([0, rng.uniform(-0.6, 0.6)]))
    duty = np.clip(0.68 - 0.05 * speed, 0.58, 0.66)
    posture, phase = stride(body, path, heading, frames + 2 * EDGE, cycle, duty, 0.22, 0.07)
    swing_along(posture, phase, 7 + 11 * speed, (10 + 8 * speed, 10 * speed), rng)
    posture.tilt += np.radians(1 + 1.5 * speed)
    settle(body, posture)
    return _trimmed(posture)


def jog(body: Body, frames: int, rng: Rng) -> Posture:
    """Runs at 2.2 to 3.2 m/s with a flight phase, elbows bent."""
    speed = rng.uniform(2.2, 3.2)
    cycle = 120 / rng.uniform(155, 172) * np.sqrt(body.leg / 0.85)
    path, heading = _route(rng, speed, rng.choice([0, rng.uniform(-0.35, 0.35)]))
    posture, phase = stride(body, path, heading, frames + 2 * EDGE, cycle, 0.36, 0.14, 0.22)
    swing_along(posture, phase, 32, (80, 15), rng)
    posture.arms[:, :, ABDUCTION] += np.radians(8)
    posture.arms[:, :, INWARD] += np.radians(15)
    posture.tilt += np.radians(6)
    posture.spine[:, 0] += np.radians(2)
    # Lowest in the middle of each stance, highest in flight.
    posture.pelvis[:, 2] -= 0.045 * body.leg + 0.04 * np.cos(2 * (phase - 2 * np.pi * 0.18))
    settle(body, posture, width=2)
    return _trimmed(posture)


def turn(body: Body, frames: int, rng: Rng) -> Posture:
    """Turns on the spot, several times, left and right, in small steps."""
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

    posture, phase = stride(body, path, heading, frames + 2 * EDGE, rng.uniform(0.95, 1.2), 0.62, 0.3, 0.07)
    busy = np.abs(np.gradient(posture.heading)) * FPS
    posture.neck[:, TWIST] += 0.25 * smooth(np.gradient(posture.heading) * FPS, 6)
    posture.thorax[:, TWIST] += 0.1 * smooth(np.gradient(posture.heading) * FPS, 6)
    posture.pelvis[:, 1] += 0.012 * np.clip(busy, 0, 1) * np.sin(phase)
    posture.arms[:, :, ABDUCTION] += np.radians(6) * np.clip(smooth(busy, 8), 0, 1)[:, None]
    posture.tilt += np.radians(4)
    settle(body, posture)
    return _trimmed(posture)


def step_up(body: Body, frames: int, rng: Rng) -> Posture:
    """Walks up one to six steps of 12 to 20 cm and on."""
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

    posture, phase = stride(body, path, heading, frames + 2 * EDGE, cycle, 0.62, 0.3, 0.09, terrain)
    swing_along(posture, phase, 12, (18, 12), rng)
    ground = smooth(terrain(path(np.arange(frames + 2 * EDGE) / FPS + 0.08 * cycle)), 7)
    posture.pelvis[:, 2] += ground
    posture.spine[:, 0] += np.radians(5)
    posture.tilt += np.radians(5)
    settle(body, posture, width=4)
    return _trimmed(posture)


def reach(body: Body, frames: int, rng: Rng) -> Posture:
    """Reaches for things, high and low, in front and beside, with one hand or with both."""
    posture = _stand(body, frames, rng)
    for amount in rhythm(rng, frames, (0.6, 1.0), (0.2, 0.8), (0.1, 0.6)):
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
    """Bends the knees more or less deep, hips back, trunk forward, arms forward for balance."""
    posture = _stand(body, frames, rng)
    arms = rng.uniform(20, 90)
    for amount in rhythm(rng, frames, (0.7, 1.3), (0.1, 0.6), (0.1, 0.6)):
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
    """Sits down on a seat of 40 to 50 cm, stays, and gets up again; leans forward on the way."""
    posture = _stand(body, frames, rng)
    posture.ankles[:, :, 0] = rng.normal(0, 0.03, 2)
    seat = rng.uniform(0.40, 0.50) + 0.05 * body.leg
    drop = posture.pelvis[:, 2] - seat
    rested = np.radians([rng.uniform(15, 40), 8, rng.uniform(0, 35), rng.uniform(40, 80)])
    for amount in rhythm(rng, frames, (1.1, 1.7), (0.8, 2.5), (0.3, 1.0)):
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
    """Waves with a raised hand, the forearm swinging at 1.2 to 2.2 Hz; at times with both."""
    posture = _stand(body, frames, rng)
    now = np.arange(frames) / FPS
    for amount in rhythm(rng, frames, (0.5, 0.8), (1.2, 3.0), (0.3, 0.8)):
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

"""How uncertain a joint is, as a colour: one measure and one scale for the page and the overlay."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from diffpose_jax.people import LiftedVideo

# From sure to unsure: blue, yellow, vermilion, dark red, which people with colour vision deficiencies tell apart too.
STOPS = ("#2c8fd1", "#9fc7a6", "#f2c14e", "#e4572e", "#9c1340")

# Where the scale may end, mm.
_TOPS = (20, 50, 100, 150, 200, 300, 400, 500, 750, 1000, 1500, 2000)


class UncertaintyScale(NamedTuple):
    """What the colours of joints stand for.

    Attributes:
        values: One array per person, `[T, J]` mm.
        label: What the values are.
        top: The value of the last colour, mm; the first one's is 0.
    """

    values: tuple[np.ndarray, ...]
    label: str
    top: float


def measure_uncertainty(video: LiftedVideo) -> UncertaintyScale:
    """Take the radius of the 90 % regions where every person has them, else the standard deviation of the hypotheses.

    The scale ends at the first round number that 95 % of all values do not exceed.
    """
    calibrated = all(person.radius_90 is not None for person in video.people)
    chosen = [person.radius_90 if calibrated else person.spread for person in video.people]
    values = tuple(1000 * np.asarray(array, np.float32) for array in chosen)
    known = np.concatenate([np.zeros(0, np.float32), *(array[np.isfinite(array)] for array in values)])
    high = float(np.percentile(known, 95)) if known.size else 0.0
    top = next((float(top) for top in _TOPS if top >= high), float(_TOPS[-1]))
    label = "radius of the 90 % region" if calibrated else "standard deviation over the hypotheses"
    return UncertaintyScale(values, label, top)


def colour_uncertainty(values: np.ndarray, top: float) -> np.ndarray:
    """Interpolate the colours of `STOPS` at values `[...]` mm: `[..., 3]` rgb in 0..1; grey where a value is NaN."""
    stops = np.array([[int(stop[i : i + 2], 16) / 255 for i in (1, 3, 5)] for stop in STOPS])
    share = np.clip(np.nan_to_num(np.asarray(values, np.float64) / top), 0, 1) * (len(STOPS) - 1)
    colours = np.stack([np.interp(share, np.arange(len(STOPS)), channel) for channel in stops.T], axis=-1)
    return np.where(np.isfinite(values)[..., None], colours, 0.6)

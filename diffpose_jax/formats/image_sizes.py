"""The size of the picture that keypoints lie in, which decides how they are normalised."""

from __future__ import annotations

import numpy as np

from diffpose_jax.errors import UserError

_MARGIN = 0.2  # of the picture's size: detectors place joints a little beyond its edge


def choose_image_size(where: str, stored: tuple[float, float] | None, given: tuple[float, float] | None) -> np.ndarray:
    """Width and height `[2]` in pixels: those in the file, or those that the caller gives.

    Args:
        where: What an error names.
        stored: Those in the file, or None.
        given: The caller's, or None.

    Raises:
        UserError: Nobody says, both say, but not the same, or they are no size.
    """
    if stored is None and given is None:
        raise UserError(
            f"{where}: expected the size of the image, which the file does not hold: give image_size (width, height), "
            "as a flag --image_size 1920x1080"
        )
    if stored is not None and given is not None and tuple(stored) != tuple(given):
        raise UserError(
            f"{where}: expected image_size {stored[0]:g} x {stored[1]:g} as in the file, found {given[0]:g} x "
            f"{given[1]:g}"
        )
    size = np.asarray(stored if stored is not None else given, np.float64)
    if size.shape != (2,) or not (np.isfinite(size).all() and (size > 0).all()):
        raise UserError(f"{where}: expected image_size as [width, height] in pixels, found {size.tolist()}")
    return size


def check_image_size(where: str, size: np.ndarray, seen: np.ndarray) -> None:
    """Raises UserError where keypoints `[K, 2]` cannot be pixels of an image of a size `[2]`."""
    # Normalised image units lie within -1 and 1 (0 and 1 in some tools). Taken for pixels they would be lifted without
    # a complaint, as a person of two pixels in the corner of the image.
    reach = np.abs(seen).max()
    if reach <= 2 and size.min() > 20:
        raise UserError(f"{where}: expected keypoints in pixels, found none beyond {reach:.3g} (normalised already?)")
    if measure_outside(size, seen) > 0.5:
        x, y = np.quantile(seen, 0.95, axis=0)
        swapped = measure_outside(size[::-1], seen) < 0.05
        hint = "width and height exchanged?" if swapped else "of another resolution, or other coordinates?"
        raise UserError(
            f"{where}: expected keypoints within the image of {size[0]:g} x {size[1]:g}, found most of them outside, "
            f"up to x {x:.0f}, y {y:.0f} ({hint})"
        )


def measure_outside(size: np.ndarray, points: np.ndarray, margin: float = _MARGIN) -> float:
    """The share of points `[K, 2]` outside an image of a size `[2]`, by more than a margin in units of its size."""
    outside = (points < -margin * size) | (points > (1 + margin) * size)
    return float(outside.any(axis=-1).mean())

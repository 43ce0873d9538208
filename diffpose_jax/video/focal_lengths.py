"""The focal length that a picture's or a video's own metadata give, as cameras and phones write it.

Photographs have it as EXIF `FocalLengthIn35mmFilm` (CIPA DC-008: that of a 35 mm camera with the same angle of view
along the diagonal), iPhones' videos as `com.apple.quicktime.camera.focal_length.35mm_equivalent`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from PIL import ExifTags, Image

FILM_DIAGONAL = math.hypot(36, 24)  # mm
# In mm on film: below there are fisheyes and mistakes (some front cameras write a negative one), above no lenses.
_SHORTEST, _LONGEST = 8.0, 2000.0
_VIDEO_KEYS = ("com.apple.quicktime.camera.focal_length.35mm_equivalent", "camera.focal_length.35mm_equivalent")


def read_image_focal(image: Image.Image) -> float | None:
    """The focal length on 35 mm film that an image's EXIF data say, mm; None where they do not."""
    return _plausible(image.getexif().get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.FocalLengthIn35mmFilm))


def find_video_focal(*metadata: Mapping[str, str]) -> float | None:
    """The focal length on 35 mm film that the metadata of a file or of its tracks say, mm; None where they do not."""
    found = (_plausible(each[key]) for each in metadata for key in _VIDEO_KEYS if key in each)
    return next((value for value in found if value is not None), None)


def convert_focal(millimetres: float, image_size: tuple[int, int]) -> float:
    """The focal length in pixels of a picture of that size, from that on 35 mm film."""
    return millimetres / FILM_DIAGONAL * math.hypot(*image_size)


def _plausible(value: object) -> float | None:
    try:
        millimetres = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return millimetres if _SHORTEST <= millimetres <= _LONGEST else None

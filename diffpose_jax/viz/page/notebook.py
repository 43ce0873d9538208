"""The page inside a notebook."""

from __future__ import annotations

import html
from collections.abc import Mapping

import numpy as np

from diffpose_jax.people import LiftedVideo
from diffpose_jax.viz.film import Frames
from diffpose_jax.viz.page.writing import compose_page


class EmbeddedPage:
    """A page that a notebook shows below its cell.

    Args:
        text: The page.
        height: Height in the notebook, pixels.
    """

    def __init__(self, text: str, height: int) -> None:
        self.text = text
        self.height = height

    def _repr_html_(self) -> str:
        """What Jupyter and Colab ask for: the page in a frame of its own, whose styles and scripts stay inside."""
        return (
            f'<iframe srcdoc="{html.escape(self.text)}" style="width: 100%; height: {self.height}px; border: 0" '
            'sandbox="allow-scripts" title="People in 3D"></iframe>'
        )

    def __repr__(self) -> str:
        return f"EmbeddedPage({len(self.text) / 1e6:.1f} MB)"


def show_page(
    video: LiftedVideo, frames: Frames | None = None, truth: Mapping[str, np.ndarray] | None = None, height: int = 860
) -> EmbeddedPage:
    """Show the people of a video in a notebook, as the last expression of a cell.

    Args:
        video: The people, lifted.
        frames: As in `write_page`.
        truth: As in `write_page`.
        height: Height in the notebook, pixels.

    Returns:
        What Jupyter and Colab display. IPython itself is not needed.
    """
    return EmbeddedPage(compose_page(video, frames, truth), height)

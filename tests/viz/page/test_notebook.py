"""The page in a notebook: one frame element that holds all of it."""

from __future__ import annotations

from html.parser import HTMLParser

from diffpose_jax.viz.page.notebook import show_page
from diffpose_jax.viz.page.writing import compose_page

from ..lifted_people import lifted_video


class Elements(HTMLParser):
    """Notes the elements of a text and what they are given."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_a_notebook_gets_one_frame_with_the_whole_page():
    video, _ = lifted_video(('"><script>', "b"))
    reader = Elements()
    reader.feed(show_page(video, height=500)._repr_html_())
    [(tag, attributes)] = reader.found
    assert tag == "iframe"
    assert attributes["srcdoc"] == compose_page(video)
    assert "height: 500px" in str(attributes["style"])

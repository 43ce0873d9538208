"""The pages agree with the code and with each other."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

import diffpose_jax
from diffpose_jax.registry import METHODS

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
PAGES += sorted(path for path in ROOT.glob("docs/**/*.md") if "reference" not in path.parts)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def load_generator():
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_configuration_page_is_what_the_option_dataclasses_say():
    generator = load_generator()
    assert generator.PAGE.read_text() == generator.write_page(), "run `python docs/generate.py`"


def test_the_configuration_page_has_every_method():
    headings = re.findall(r"^### `(\w+)`$", (ROOT / "docs" / "configuration.md").read_text(), re.MULTILINE)
    assert set(headings) == set(METHODS)


def test_every_method_has_a_page():
    text = "".join(path.read_text() for path in ROOT.glob("docs/methods/*.md"))
    for name in METHODS:
        assert f"](../configuration.md#{name})" in text


def headings_of(page: Path) -> set[str]:
    """The anchors of a page, as GitHub and MyST make them."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_inside_the_repository_lead_somewhere(page):
    for link in LINK.findall(page.read_text()):
        path, _, anchor = link.partition("#")
        if path.startswith(("http:", "https:")):
            continue
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.name}: {link}"
        if anchor:
            assert anchor in headings_of(target), f"{page.name}: {link}"


def test_the_front_door_is_listed_whole():
    listed = (ROOT / "docs" / "api.md").read_text().partition("## Modules")[0]
    names = re.findall(r"`(\w+)`", re.sub(r"`import[^`]*`", "", listed))
    assert sorted(names) == sorted(diffpose_jax.__all__)

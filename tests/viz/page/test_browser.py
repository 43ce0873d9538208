"""The page in a real browser without a network: it loads fast, turns, plays, and keys, mouse and touch work."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from diffpose_jax.viz.page.writing import write_page

from ..chromium import CHROMIUM, Tab, open_browser
from ..lifted_people import lifted_video, painted_frames

# Repeats: in a browser what the other tests say of the page and its data.
pytestmark = [pytest.mark.slow, pytest.mark.repeats, pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")]

HOSTILE = "</script><b>x"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    video, truth = lifted_video(("person 0", HOSTILE), 500, 20)
    write_page(video, folder / "large.html")
    small, truth = lifted_video(("person 0", HOSTILE), 50, 20)
    frames = painted_frames(small, (320, 180)) if has_av() else None
    write_page(small, folder / "film.html", frames=frames, truth=truth)
    write_page(small._replace(people=()), folder / "nobody.html")
    write_page(small._replace(people=(), times=small.times[:0]), folder / "empty.html")
    still, _ = lifted_video(("a",), 1, 1)
    write_page(still, folder / "still.html")
    return folder


def has_av() -> bool:
    try:
        import av  # noqa: F401
    except ImportError:
        return False
    return True


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[Tab]:
    with open_browser(tmp_path_factory.mktemp("profile")) as tab:
        yield tab


@pytest.fixture
def tab(browser: Tab) -> Iterator[Tab]:
    browser.show(900, 600)
    browser.complaints.clear()
    browser.requests.clear()
    yield browser
    assert not browser.complaints
    assert all(address.startswith("file:") for address in browser.requests)


def stage(tab: Tab) -> dict[str, float]:
    return tab.evaluate(
        "(({x, y, width, height}) => ({x, y, width, height}))"
        "(document.getElementById('stage-canvas').getBoundingClientRect())"
    )


def middle(tab: Tab) -> tuple[float, float]:
    box = stage(tab)
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def test_five_hundred_frames_of_two_people_are_ready_in_two_seconds(tab, folder):
    # The best of two: the first one also starts the browser's graphics.
    assert min(tab.open(folder / "large.html") for _ in range(2)) < 2
    assert tab.evaluate("document.querySelectorAll('#people button').length") == 3
    assert tab.evaluate("document.querySelectorAll('#people button')[2].textContent") == HOSTILE


@pytest.mark.parametrize("touch", [False, True], ids=["mouse", "touch"])
def test_dragging_turns_the_people(tab, folder, touch):
    tab.show(390 if touch else 900, 700, phone=touch)
    tab.open(folder / "large.html")
    tab.settle()
    x, y = middle(tab)
    before = tab.screenshot(**stage(tab))
    tab.drag((x, y), (x + 80, y + 10), touch=touch)
    assert tab.screenshot(**stage(tab)) != before
    assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_playing_advances_and_stops(tab, folder):
    tab.open(folder / "large.html")
    tab.press(" ")
    tab.wait_for("view.frame > 3")
    tab.press(" ")
    stopped = tab.evaluate("view.frame")
    tab.settle()
    assert tab.evaluate("view.frame") == stopped
    assert tab.evaluate("Number(document.getElementById('time').value)") == stopped


def test_the_film_plays_with_the_people_and_follows_the_slider(tab, folder):
    pytest.importorskip("av")
    tab.open(folder / "film.html")
    tab.wait_for("document.getElementById('film').readyState >= 2")
    tab.press(" ")
    tab.wait_for("view.frame > 3 && document.getElementById('film').currentTime > 0.1")
    tab.press(" ")
    tab.press("End")
    tab.wait_for("Math.abs(document.getElementById('film').currentTime - 49 / 25) < 0.02")
    tab.evaluate("document.getElementById('time').value = 10;"
                 "document.getElementById('time').dispatchEvent(new Event('input'))")  # fmt: skip
    tab.wait_for("Math.abs(document.getElementById('film').currentTime - 10 / 25) < 0.02")
    assert tab.evaluate("view.frame") == 10


def test_keys_choose_frames_people_hypotheses_and_views(tab, folder):
    tab.open(folder / "film.html")
    for key, expression in [
        *((".", "view.frame === 1"), (",", "view.frame === 0"), ("End", "view.frame === 49")),
        *(("2", "view.person === 1"), ("0", "view.person === -1"), ("u", "view.show === 'regions'")),
        *(("h", "view.hypothesis === 0"), ("a", "view.hypothesis === -1"), ("]", "view.speed === 2")),
        *(("l", "view.colour === 'side'"), ("Home", "view.frame === 0"), ("ArrowRight", "view.frame === 1")),
    ]:
        tab.press(key)
        assert tab.evaluate(expression), key
    for key in ("c", "t", "s", "f"):
        before = tab.screenshot(**stage(tab))
        tab.press(key)
        assert tab.screenshot(**stage(tab)) != before, key
    tab.evaluate("document.getElementById('stage-canvas').focus()")
    before = tab.screenshot(**stage(tab))
    tab.press("ArrowRight")
    assert tab.evaluate("view.frame") == 1
    assert tab.screenshot(**stage(tab)) != before


def test_every_way_of_showing_and_plotting_can_be_chosen(tab, folder):
    tab.open(folder / "film.html")
    pictures = set()
    for show in ("hypotheses", "regions", "ellipsoids", "none"):
        tab.evaluate(f"change({{frame: 20, show: '{show}', person: 0}})")
        tab.settle()
        pictures.add(tab.screenshot(**stage(tab)))
    assert len(pictures) == 4
    tab.evaluate("change({joint: 2})")
    for quantity, unit in (("z", "m"), ("x", "m"), ("y", "m"), ("angle", "°"), ("uncertainty", "mm"), ("error", "mm")):
        tab.evaluate(f"change({{quantity: '{quantity}'}})")
        tab.settle()
        assert f" {unit}" in tab.evaluate("document.getElementById('plot-value').textContent")
    assert "mean error of a joint" in tab.evaluate("document.getElementById('about').textContent")


def test_the_reprojection_of_the_page_is_the_camera_of_the_video(tab, folder):
    tab.open(folder / "film.html")
    video, _ = lifted_video(("person 0", HOSTILE), 50, 20)
    person = video.people[0]
    x, y, z = (person.poses + person.root[:, None])[7, 16]
    wanted = [video.focal * x / z + video.image_size[0] / 2, video.focal * y / z + video.image_size[1] / 2]
    found = tab.evaluate(
        "(({people, camera}) => camera.project(...people[0].positions(7, -1).slice(48, 51)))(readVideo())"
    )
    assert found == pytest.approx(wanted, abs=0.5)


@pytest.mark.parametrize("name", ["nobody", "empty", "still"])
def test_pages_with_little_on_them_open_and_say_so(tab, folder, name):
    tab.open(folder / f"{name}.html")
    for key in (" ", ".", "h", "u", "c", "t", "End"):
        tab.press(key)
    expected = "1 frame in 0.0 s" if name == "still" else "nobody was found"
    assert expected in tab.evaluate("document.getElementById('summary').textContent")


def test_the_dark_theme_is_dark(tab, folder):
    tab.show(1200, 800, dark=True)
    tab.open(folder / "film.html")
    tab.settle()
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(17, 21, 27)"

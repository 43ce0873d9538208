"""Live lifting: whoever is in the frame, at once, on a page that only this machine sees."""

from __future__ import annotations

import dataclasses
import http.client
import json
import sys
import threading
import time
import types
import urllib.request

import numpy as np
import pytest
from PIL import Image

from diffpose_jax import live_lifting
from diffpose_jax.errors import UserError
from diffpose_jax.live import LiveOptions, show_live
from diffpose_jax.live_lifting import LiveLifter
from diffpose_jax.model import load
from diffpose_jax.registry import config_for
from diffpose_jax.skeleton import COCO_17
from diffpose_jax.video.finding import PeopleFinder
from diffpose_jax.video.frames import Frame
from diffpose_jax.video.tracking import Body
from diffpose_jax.viz.live_page import LivePage

FIGURE = np.random.default_rng(0).uniform(0, 1, (17, 2)) * [10, 30]


def body(shift: float, unseen: int | None = None) -> Body:
    scores = np.full(17, 0.9)
    if unseen is not None:
        scores[unseen] = 0
    return Body(FIGURE + np.array([shift, 10.0]), scores)


@pytest.fixture(scope="module")
def model(tmp_path_factory, untrained):
    config = config_for("diffupose")
    config.data.view = "person"
    config.lifter.update({"width": 32, "num_layers": 1, "variant": "mlp"})
    config.diffusion.steps = 3
    return load(untrained(tmp_path_factory.mktemp("runs") / "live", config))


@pytest.fixture(scope="module")
def lifter(model):
    return LiveLifter(model, COCO_17, (128, 64), hypotheses=4)


@pytest.mark.slow
def test_a_person_is_lifted_alike_whoever_else_is_in_the_picture(lifter):
    alone, one = lifter.lift({3: body(20, unseen=9)})
    names, five = lifter.lift({**{other: body(50 + other) for other in (5, 6, 7, 8)}, 3: body(20, unseen=9)})
    assert (alone, names) == ([3], [5, 6, 7, 8, 3])
    assert five.hypotheses.shape == (5, 4, 17, 3)
    for field in ("poses", "hypotheses", "spread", "root", "seen"):
        np.testing.assert_allclose(getattr(five, field)[-1], getattr(one, field)[0], atol=1e-4)
    assert not one.seen.all()


@pytest.mark.slow
def test_nothing_is_compiled_while_people_come_and_go(lifter, monkeypatch):
    monkeypatch.setattr(live_lifting, "_lift", None)
    for count in (1, 2, 3, 4, 6):
        names, people = lifter.lift({row: body(20 + row) for row in range(count)})
        assert len(names) == len(people.root) == count
        assert np.isfinite(people.root).all()
    assert lifter.lift({}) == ([], None)
    assert lifter.lift({0: Body(np.full((17, 2), np.nan), np.zeros(17))}) == ([], None)


@pytest.mark.slow
def test_a_film_is_shown_live_and_ends(model, tmp_path, monkeypatch, capsys):
    for number in range(6):
        Image.fromarray(np.full((64, 128, 3), 40 * number, np.uint8)).save(tmp_path / f"{number}.png")
    detector = types.ModuleType("live_detector")
    detector.detect = lambda image, time: [body(20 + 10 * time).keypoints]
    monkeypatch.setitem(sys.modules, "live_detector", detector)
    monkeypatch.setattr(live_lifting, "SIZES", (1,))
    options = LiveOptions(hypotheses=4, detector="live_detector.detect", port=0)
    assert show_live(tmp_path, model, options).frames == 6
    assert "http://127.0.0.1:" in capsys.readouterr().out
    assert show_live(tmp_path, model, LiveOptions(**{**vars(options), "seconds": 0.0})).frames == 1


@pytest.mark.slow
def test_models_of_sequences_are_refused_in_one_line(model):
    of_sequences = dataclasses.replace(model, trained=model.trained._replace(lifter=types.SimpleNamespace(frames=27)))
    with pytest.raises(UserError, match="--live: expected a model of keypoints in single frames, found live, of 27"):
        LiveLifter(of_sequences, COCO_17, (128, 64))


def test_a_finder_that_does_not_remember_keeps_nothing_of_the_frames():
    finder = PeopleFinder((128, 64), lambda image, time: [FIGURE], remember=False)
    for index in range(5):
        assert list(finder.update(Frame(index, index / 25, np.zeros((64, 128, 3), np.uint8), 1.0))) == [0]
    assert finder.times == []
    assert finder.finish() == ()


def test_whoever_looks_gets_the_newest_frame_and_the_end():
    with LivePage() as page:
        assert page.address.startswith("http://127.0.0.1:")
        text = urllib.request.urlopen(page.address).read().decode()
        assert "EventSource" in text
        seen = []
        reader = threading.Thread(target=lambda: seen.extend(urllib.request.urlopen(page.address + "stream")))
        reader.start()
        deadline = time.monotonic() + 10
        while len(seen) < 4 and time.monotonic() < deadline:
            page.show(np.zeros((48, 64, 3), np.uint8), {"people": []})
            time.sleep(0.01)
    reader.join(5)
    assert not reader.is_alive()
    message = next(json.loads(line[6:]) for line in seen if line.startswith(b'data: {"people'))
    assert message["image"].startswith("/9j/")  # a JPEG
    assert b"event: end\n" in seen


def test_a_page_elsewhere_that_names_itself_this_machine_is_refused():
    with LivePage() as page:
        connection = http.client.HTTPConnection(page.address.split("/")[2])
        connection.request("GET", "/stream", headers={"Host": "example.org"})
        assert connection.getresponse().status == 403


def test_a_port_that_is_taken_is_one_line():
    with LivePage() as page:
        port = int(page.address.rstrip("/").rsplit(":", 1)[1])
        with pytest.raises(UserError, match=f"--live_port {port}: expected a port that is free"):
            LivePage(port)

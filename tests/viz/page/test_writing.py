"""The file of the page: whole or not at all, without network, and proof against whatever names people have."""

from __future__ import annotations

import base64
import io
import json
import re

import numpy as np
import pytest

from diffpose_jax.errors import UserError
from diffpose_jax.viz.page.content import unpack
from diffpose_jax.viz.page.writing import SCRIPTS, compose_page, write_page

from ..lifted_people import lifted_video, painted_frames

HOSTILE = "</script><script>alert(1)</script> {{film}} <!-- & \u2028"


def embedded(page: str, name: str) -> str:
    """The text of one data element of a page."""
    found = re.search(rf'<script type="[^"]+" id="{name}">(.*?)</script>', page, re.DOTALL)
    assert found
    return found[1]


def test_names_and_file_names_cannot_break_out_of_the_page():
    video, _ = lifted_video((HOSTILE, "b"), source=HOSTILE)
    video = video._replace(settings={HOSTILE: HOSTILE})
    page, plain = compose_page(video), compose_page(lifted_video()[0])
    assert page.count("<script") == plain.count("<script")
    assert page.count("</script") == plain.count("</script")
    assert HOSTILE not in page
    content = json.loads(embedded(page, "data"))
    assert content["source"] == content["people"][0]["name"] == content["settings"][HOSTILE] == HOSTILE


def test_the_page_asks_no_network_for_anything():
    page = compose_page(lifted_video()[0])
    assert "default-src 'none'" in page
    assert not re.search(r"""(src|href)=["'](?!data:)""", page)


def test_the_scripts_of_the_page_end_no_element():
    page = compose_page(lifted_video()[0])
    assert len(re.findall("</script>", page)) == len(re.findall("<script", page)) == 4
    assert "{{" not in re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
    assert len(SCRIPTS) == len(set(SCRIPTS))


def test_the_library_comes_with_its_licence():
    page = compose_page(lifted_video()[0])
    assert "three.js authors" in page
    assert "Permission is hereby granted, free of charge" in page


def test_five_hundred_frames_twenty_hypotheses_and_two_people_stay_small(tmp_path):
    video, truth = lifted_video(frames=500, hypotheses=20)
    path = write_page(video, tmp_path / "index.html", truth=truth)
    assert path.stat().st_size < 5_000_000


def test_the_page_is_replaced_at_once_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "out" / "index.html"
    video, _ = lifted_video()
    assert write_page(video, path) == path
    before = path.read_bytes()

    def fail(video, frames):
        raise UserError("no film")

    monkeypatch.setattr("diffpose_jax.viz.page.writing.encode_film", fail)
    with pytest.raises(UserError):
        write_page(video, path, frames=[])
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == ["index.html"]


def test_a_place_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        write_page(lifted_video()[0], tmp_path / "file" / "index.html")


def test_the_film_has_the_frames_at_their_own_times():
    av = pytest.importorskip("av")
    video, _ = lifted_video(frames=12)
    uneven = video._replace(times=np.cumsum(np.linspace(0.02, 0.1, 12)))
    page = compose_page(uneven, frames=lambda: painted_frames(video))
    with av.open(io.BytesIO(base64.b64decode(embedded(page, "film-data")))) as film:
        found = [(frame.time, frame.to_ndarray(format="rgb24")) for frame in film.decode(video=0)]
    np.testing.assert_allclose([time for time, _ in found], uneven.times - uneven.times[0], atol=1e-3)
    assert found[0][1].shape == (360, 640, 3)
    # The bar at the top of frame i is (i + 1) / 12 wide.
    widths = [(picture[3, :, 0] > 180).mean() for _, picture in found]
    np.testing.assert_allclose(widths, np.arange(1, 13) / 12, atol=0.02)
    stored = unpack(json.loads(embedded(page, "data"))["times"])
    np.testing.assert_allclose(stored, uneven.times - uneven.times[0], atol=1e-5)


def test_more_or_fewer_frames_than_times_do_no_harm():
    pytest.importorskip("av")
    video, _ = lifted_video(frames=12)
    pictures = painted_frames(video, (64, 36))
    for frames in (pictures[:5], [*pictures, *pictures], []):
        assert compose_page(video, frames=frames)

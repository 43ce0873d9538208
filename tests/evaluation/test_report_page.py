"""The page of an evaluation holds what its other files hold, and nothing from elsewhere."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np

from diffpose_jax.evaluation.report import make_row, make_tables
from diffpose_jax.evaluation.report_page import format_page, write_page

RESULTS = {
    "title": "Evaluation of runs/<x>",
    "protocol": {"name": "standard", "description": "no ground truth"},
    "data": {
        "source": "synthetic", "split": "test", "stride": 1, "frames": 4, "clips": 2, "subjects": ["S9"],
        "keypoints": "projected",
    },
    "setting": {
        "lifter": "diffupose", "step": 10, "hypotheses_text": "10 hypotheses", "flip_text": "no flips",
        "sampling_text": "",
    },
    "notes": ["a & b"],
    "rows": [make_row("mean", "mean of 10", {"mpjpe": np.array([0.01, 0.02])}, ["Sit", "Walk"], ["S9", "S9"])],
    "command": "evaluate --workdir 'runs/<x>'",
}  # fmt: skip


class Reader(HTMLParser):
    """The cells of all tables, and the elements that are open."""

    def __init__(self) -> None:
        super().__init__()
        self.cells: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list) -> None:
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("td", "th"):
            self.cells[-1] += data


def test_every_cell_of_every_table_is_on_the_page():
    reader = Reader()
    reader.feed(format_page(RESULTS))
    assert reader.open == []
    assert reader.cells == [
        cell for _, header, lines in make_tables(RESULTS) for line in (header, *lines) for cell in line
    ]


def test_names_are_text_and_nothing_is_loaded_from_elsewhere(tmp_path: Path):
    (tmp_path / "a.png").write_bytes(b"picture")
    page = write_page(RESULTS, tmp_path, tmp_path / "a.png").read_text()
    assert "runs/&lt;x&gt;" in page
    assert "<x>" not in page
    assert "a &amp; b" in page
    assert re.findall(r'(?:src|href)="([^"]{0,22})', page) == ["data:image/png;base64,"]
    assert "prefers-color-scheme: dark" in page

"""Every Python block of the README and of `docs/` runs: the blocks of a page in order, in one namespace.

A block that begins with a line `# NAME.py` is written to that file in the working directory, from where later blocks
import it. A block that is opened by `python no-run: REASON` does not run. `runs/METHOD` in a block is the work
directory of an untrained lifter of that method, `runs/quickstart` that of the quickstart, and `pretrained:NAME` is one
too, so that pages are quick to run.
"""

from __future__ import annotations

import re
from pathlib import Path

import jax
import pytest

from diffpose_jax.diffusion.hypotheses import AGGREGATIONS
from diffpose_jax.evaluation.aggregation import AGGREGATES
from diffpose_jax.evaluation.metrics import METRICS
from diffpose_jax.evaluation.protocols import PROTOCOLS
from diffpose_jax.registry import METHODS, config_for
from diffpose_jax.skeleton import SKELETONS
from diffpose_jax.workdir import releases

from .pages import ROOT, blocks_of

PAGES = sorted(path for path in ROOT.glob("docs/**/*.md") if "reference" not in path.parts)
# `test_add_a_method.py` trains its method; the tests of `video` and `lift` find people in the clip and lift them.
REPEATS = {"add_a_method.md", "lift.md", "video.md"}


def page_id(page: Path) -> str:
    return str(page.relative_to(ROOT))


PAGES_WITH_CODE = [page for page in (ROOT / "README.md", *PAGES) if blocks_of(page)]
RELEASES = ("sequence", "frame")
LEFT_OUT = [block for page in PAGES_WITH_CODE for block in blocks_of(page) if block.reason]


@pytest.fixture
def tables():
    """Takes back what a page adds to the tables of names."""
    before = [(table, dict(table)) for table in (SKELETONS, METRICS, PROTOCOLS, AGGREGATIONS, AGGREGATES)]
    yield
    for table, entries in before:
        table.clear()
        table.update(entries)


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, id=page_id(page), marks=[pytest.mark.repeats] * (page.name in REPEATS))
        for page in PAGES_WITH_CODE
    ],
)
def test_the_code_of_a_page_runs(page, working_directory, tables, untrained, monkeypatch):
    blocks = [block for block in blocks_of(page) if not block.reason]
    (working_directory / "experiments").symlink_to(ROOT / "experiments")
    monkeypatch.setattr(releases, "shipped_releases", lambda: {name: Path("runs", name) for name in RELEASES})
    named = {found for block in blocks for found in re.findall(r"(?:runs/|pretrained:)(\w+)", block.code)}
    for name in named & {*METHODS, *RELEASES, "quickstart"}:
        config = config_for(name if name in METHODS else "diffupose")
        if name not in METHODS:
            config.diffusion.sampling_steps = 2
        config.lifter.update(width=32, num_layers=1)
        (working_directory / "runs").mkdir(exist_ok=True)
        untrained(working_directory / "runs" / name, config)
    namespace = {"__name__": "page"}
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):  # as a reader's session
        for block in blocks:
            if block.file:
                (working_directory / block.file).write_text(block.code)
            else:
                code = compile("\n" * (block.line - 1) + block.code, str(page), "exec")
                exec(code, namespace)


@pytest.mark.parametrize("block", LEFT_OUT, ids=lambda block: f"{page_id(block.page)}:{block.line}")
def test_a_block_that_does_not_run_says_why(block):
    pytest.skip(block.reason)

"""The Python blocks of a page."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
FENCE = re.compile(r"^```python(?P<info>[^\n]*)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    """A fenced Python block: its page, the line of its first statement, its code, and why it does not run, or ''."""

    page: Path
    line: int
    code: str
    reason: str

    @property
    def file(self) -> str | None:
        """The file that the block is the content of, or None."""
        found = re.match(r"# (\S+\.py)\n", self.code)
        return found and found.group(1)


def blocks_of(page: Path) -> list[Block]:
    """All Python blocks of a page, in order."""
    text = page.read_text()
    blocks = []
    for found in FENCE.finditer(text):
        reason = found["info"].strip().removeprefix("no-run").lstrip(": ") if "no-run" in found["info"] else ""
        assert reason or "no-run" not in found["info"], f"{page}: no-run needs a reason"
        blocks.append(Block(page, text.count("\n", 0, found.start("code")) + 1, found["code"], reason))
    return blocks

"""The report of an evaluation as one HTML file that needs no network: `results.html`, readable in dark and light."""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from diffpose_jax.evaluation.report import describe_conditions, make_tables
from diffpose_jax.workdir.directory import writable_directory

_PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
:root { color-scheme: light dark; --ground: #fff; --ink: #1d2430; --soft: #5d6778; --line: #d9dee6; --row: #f3f5f8; }
@media (prefers-color-scheme: dark) {
  :root { --ground: #11151b; --ink: #e7ebf1; --soft: #9aa6b8; --line: #2d3642; --row: #1a2029; }
}
body { margin: 0 auto; max-width: 72rem; padding: 1rem; background: var(--ground); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
li { color: var(--soft); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; margin: 0.3rem 0 1.6rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; padding-bottom: 0.3rem; }
th, td { padding: 0.25rem 0.7rem; text-align: right; border-bottom: 1px solid var(--line); overflow-wrap: normal; }
th:first-child { text-align: left; }
tbody th { font-weight: 400; }
tbody tr:nth-child(odd) { background: var(--row); }
img { max-width: 100%; background: #fff; border-radius: 6px; }
pre { overflow-x: auto; padding: 0.6rem; background: var(--row); }
</style>
</head>
<body>
<h1>$title</h1>
<ul>
$conditions
</ul>
$figure
$tables
<p>Command:</p>
<pre>$command</pre>
</body>
</html>
""")


def write_page(
    results: Mapping[str, Any], directory: str | os.PathLike, figure: str | os.PathLike | None = None
) -> Path:
    """Writes `results.html` with the picture (.png) in it; returns its path. Raises UserError where it cannot be."""
    path = writable_directory(directory) / "results.html"
    path.write_text(format_page(results, None if figure is None else Path(figure).read_bytes()), encoding="utf-8")
    return path


def format_page(results: Mapping[str, Any], figure: bytes | None = None) -> str:
    """The results as an HTML page: what was measured, a picture (the bytes of a .png), and all tables."""
    picture = ""
    if figure is not None:
        data = base64.b64encode(figure).decode()
        picture = f'<p><img alt="one frame with its hypotheses" src="data:image/png;base64,{data}"></p>'
    return _PAGE.substitute(
        title=escape(results["title"]),
        conditions="\n".join(f"<li>{escape(line)}</li>" for line in describe_conditions(results)),
        figure=picture,
        tables="\n".join(_format_table(*table) for table in make_tables(results)),
        command=escape(results["command"]),
    )


def _format_table(title: str, header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    head = "".join(f'<th scope="col">{escape(word)}</th>' for word in header)
    rows = "\n".join(
        f'<tr><th scope="row">{escape(line[0])}</th>'
        + "".join(f"<td>{escape(word)}</td>" for word in line[1:])
        + "</tr>"
        for line in lines
    )
    return (
        f'<div class="wide"><table><caption>{escape(title)}</caption>\n<thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{rows}\n</tbody></table></div>"
    )

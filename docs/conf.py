"""How Sphinx builds these pages: `sphinx-build -W docs build/docs`."""

from __future__ import annotations

import pkgutil
import re
from pathlib import Path
from typing import Any

import diffpose_jax

project = "diffpose_jax"
author = "the authors of diffpose_jax"
release = diffpose_jax.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.mathjax"]
html_theme = "furo"
html_title = "diffpose_jax"

# Formulas stand between dollars, as GitHub shows them too.
myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 3

# Docstrings write names and shapes in single backticks.
default_role = "code"
autodoc_default_options = {"members": True, "member-order": "bysource", "show-inheritance": True}
autodoc_typehints = "none"
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_attr_annotations = False


def _write_reference(app: Any, config: object) -> None:
    """One page per module. `diffpose_jax.train` is both a program and a function, so modules are named one by one."""
    folder = Path(app.srcdir) / "reference"
    folder.mkdir(exist_ok=True)
    modules = ["diffpose_jax", *(found.name for found in pkgutil.walk_packages(diffpose_jax.__path__, "diffpose_jax."))]
    wanted = {folder / f"{name}.rst": name for name in modules if not name.endswith("__main__")}
    for path in set(folder.glob("*.rst")) - wanted.keys():
        path.unlink()
    for path, name in wanted.items():
        # What the package itself names is documented where it is defined.
        members = "   :no-members:\n" if name == "diffpose_jax" else ""
        text = f"{name}\n{'=' * len(name)}\n\n.. automodule:: {name}\n{members}"
        if not path.is_file() or path.read_text() != text:
            path.write_text(text)


def _link_outside(app: Any, docname: str, source: list[str]) -> None:
    """Links to files of the repository outside `docs`, which the pages do not contain, become downloads.

    A link to a section of such a file becomes one to the file.
    """

    def replace(match: re.Match) -> str:
        target = (Path(app.srcdir, docname).parent / match[2]).resolve()
        if target.is_relative_to(app.srcdir):
            return match[0]
        return match[1] if target.is_dir() else f"[{match[1]}](path:{match[2]})"

    source[0] = re.sub(r"(?<!!)\[([^\]]+)\]\((\.\./[^)#]+)(?:#[^)]*)?\)", replace, source[0])


def _to_rst(app: Any, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Docstrings are read by people, as plain text: names in single backticks, indented blocks for what is verbatim."""
    text = re.sub(r"(?<!`)`([^`]+)`(?!`)(\w?)", _literal, "\n".join(lines))
    converted: list[str] = []
    section = verbatim = False
    for line in text.split("\n"):
        if line and not line.startswith(" "):
            section = bool(re.fullmatch(r"(Args|Attributes|Raises|Returns|Yields):", line))
            verbatim = False
        elif line.startswith("    ") and not section and not verbatim:
            verbatim = True
            converted += ["::", ""] if converted and not converted[-1] else ["", "::", ""]
        converted.append(line.replace("``", "`") if verbatim else line)
    lines[:] = converted


def _literal(match: re.Match) -> str:
    return f"``{' '.join(match[1].split())}``" + (f"\\ {match[2]}" if match[2] else "")


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("config-inited", _write_reference)
    app.connect("source-read", _link_outside)
    app.connect("autodoc-process-docstring", _to_rst, priority=400)  # before Napoleon reads the sections

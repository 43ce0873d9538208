"""The notebook runs from its first cell to its last, in a small setting."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).resolve().parents[2] / "experiments" / "notebooks" / "quickstart.ipynb"


@pytest.mark.repeats  # what the quickstart does, in a notebook
def test_the_quickstart_notebook_runs_top_to_bottom(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFPOSE_NOTEBOOK_QUICK", "1")
    monkeypatch.setenv("DIFFPOSE_NOTEBOOK_WORKDIR", str(tmp_path / "run"))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    printed = "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []))
    assert "running on" in printed
    assert "hypotheses [M, H, J, 3] in metres" in printed
    assert (tmp_path / "run" / "results.json").is_file()

"""The notebooks run from their first cells to their last, in small settings."""

from __future__ import annotations

from pathlib import Path

import av
import nbformat
import pytest
from nbclient import NotebookClient

EXPERIMENTS = Path(__file__).resolve().parents[2] / "experiments"
NOTEBOOK = EXPERIMENTS / "notebooks" / "quickstart.ipynb"


def cut(source: Path, path: Path, frames: int) -> Path:
    """The first frames of a video as another one."""
    with av.open(str(source)) as old, av.open(str(path), "w") as new:
        stream = new.add_stream("mpeg4", rate=old.streams.video[0].average_rate)
        stream.width, stream.height = old.streams.video[0].width, old.streams.video[0].height
        for _, frame in zip(range(frames), old.decode(video=0), strict=False):
            new.mux(stream.encode(frame))
        new.mux(stream.encode())
    return path


@pytest.mark.repeats  # what the quickstart does, in a notebook
def test_the_quickstart_notebook_runs_top_to_bottom(tmp_path, monkeypatch, diffupose_workdir):
    clip = cut(EXPERIMENTS / "data" / "beam.mp4", tmp_path / "clip.mp4", 10)
    monkeypatch.setenv("DIFFPOSE_NOTEBOOK_CLIP", str(clip))
    monkeypatch.setenv("DIFFPOSE_NOTEBOOK_MODEL", str(diffupose_workdir))
    monkeypatch.setenv("DIFFPOSE_NOTEBOOK_QUICK", "1")
    monkeypatch.setenv("DIFFPOSE_NOTEBOOK_WORKDIR", str(tmp_path / "run"))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    printed = "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []))
    shown = [output["data"].get("text/html", "") for cell in notebook.cells for output in cell.get("outputs", [])
             if "data" in output]  # fmt: skip
    assert any("iframe" in text and "clip.mp4" in text for text in shown)
    assert "running on" in printed
    assert "person 0: 10 frames" in printed
    assert (tmp_path / "lifted" / "poses.bvh").is_file() or (tmp_path / "lifted" / "poses_person_0.bvh").is_file()
    assert "hypotheses [M, H, J, 3] in metres" in printed
    assert (tmp_path / "run" / "results.json").is_file()


@pytest.mark.repeats  # what tests of on_gpu.py do, in a notebook
def test_the_notebook_of_an_accelerator_shows_the_tables_that_were_measured(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFPOSE_NOTEBOOK_OUTPUT", str(tmp_path))
    monkeypatch.setenv("DIFFPOSE_NOTEBOOK_OPTIONS", "--quick --only curves")
    notebook = nbformat.read(NOTEBOOK.with_name("accelerator.ipynb"), as_version=4)
    folder = {"metadata": {"path": str(NOTEBOOK.parent)}}
    NotebookClient(notebook, timeout=300, resources=folder).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert "parity holds" in "".join(output.get("text", "") for output in outputs)
    shown = [output["data"].get("text/markdown", "") for output in outputs if "data" in output]
    assert shown == [(tmp_path / "on_gpu.md").read_text()]

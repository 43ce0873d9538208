"""A directory in which a page's code runs."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest


@pytest.fixture
def working_directory(tmp_path, monkeypatch):
    """An empty directory that modules are imported from, as for a user's script."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) and Path(sys.modules[name].__file__).is_relative_to(tmp_path):
            del sys.modules[name]

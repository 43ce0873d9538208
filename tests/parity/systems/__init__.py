"""One module per family of published code; each names the systems it computes in its own `SYSTEMS`."""

from __future__ import annotations

import importlib
import pkgutil

from .base import System


def all_systems() -> dict[str, System]:
    """Every system that a module of this folder knows."""
    found: dict[str, System] = {}
    for module in pkgutil.iter_modules(__path__):
        found |= getattr(importlib.import_module(f".{module.name}", __name__), "SYSTEMS", {})
    return found

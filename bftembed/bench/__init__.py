"""Benchmark verbs: ``bftembed.bench.clustering(…)`` and so on; each lives with its task."""

from __future__ import annotations

import importlib
from typing import Any

_VERBS = {
    "clustering": "bftembed.tasks.cells.clustering",
    "integration": "bftembed.tasks.cells.integration",
    "genes": "bftembed.tasks.genes",
    "multimodal": "bftembed.tasks.multimodal",
    "perturbation": "bftembed.tasks.perturbation",
}

__all__ = list(_VERBS)


def __getattr__(name: str) -> Any:
    """Load a verb on first use."""
    if name not in _VERBS:
        raise AttributeError(f"module 'bftembed.bench' has no attribute {name!r}")
    return getattr(importlib.import_module(_VERBS[name]), name)

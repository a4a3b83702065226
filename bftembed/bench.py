"""Benchmark verbs: ``bftembed.bench.clustering(…)`` and so on; each lives with its task."""

from __future__ import annotations

import importlib
from typing import Any

from bftembed.tasks.base import TASKS


def __getattr__(name: str) -> Any:
    """Load a verb on first use."""
    if name not in TASKS:
        raise AttributeError(f"module 'bftembed.bench' has no attribute {name!r}")
    return getattr(importlib.import_module(TASKS[name]), name)


def __dir__() -> list[str]:
    """List the verbs."""
    return list(TASKS)

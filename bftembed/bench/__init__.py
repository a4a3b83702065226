"""The benchmark verbs: files in, the results table out. The scoring itself lives in `bftembed.tasks`."""

from __future__ import annotations

from bftembed.bench.cells import clustering
from bftembed.bench.genes import genes

__all__ = ["clustering", "genes"]

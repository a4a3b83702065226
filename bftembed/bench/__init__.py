"""The benchmark verbs: files in, the results table out. The scoring itself lives in `bftembed.tasks`."""

from __future__ import annotations

from bftembed.bench.clustering import clustering
from bftembed.bench.genes import genes
from bftembed.bench.integration import integration
from bftembed.bench.multimodal import multimodal
from bftembed.bench.perturbation import perturbation

__all__ = ["clustering", "genes", "integration", "multimodal", "perturbation"]

"""RNA and proteins of the same cells (CITE-seq) in one space: scIB metrics, and whether each cell finds its partner."""

from __future__ import annotations

from bftembed.tasks.multimodal.task import METRICS, multimodal, score, tables

__all__ = ["METRICS", "multimodal", "score", "tables"]

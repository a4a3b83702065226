"""RNA and proteins of the same cells (CITE-seq) in one space: scIB metrics, and whether each cell finds its partner."""

from __future__ import annotations

from bftembed.tasks.multimodal.task import INFO, METRICS, multimodal, score, tables

__all__ = ["INFO", "METRICS", "multimodal", "score", "tables"]

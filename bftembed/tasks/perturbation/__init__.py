"""Does a gene's text tell what perturbing the gene does? Linear predictors, splits, scores and the verdict."""

from __future__ import annotations

from bftembed.tasks.perturbation.suite import SPLITS, Predictions, Settings, run

__all__ = ["SPLITS", "Predictions", "Settings", "run"]

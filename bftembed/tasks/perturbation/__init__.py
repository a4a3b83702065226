"""Perturbation prediction: whether embeddings of the perturbed genes predict the effects of perturbations."""

from __future__ import annotations

from bftembed.tasks.perturbation.task import METRICS, helps, perturbation, tables

__all__ = ["METRICS", "helps", "perturbation", "tables"]

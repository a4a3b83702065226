"""Simulated data for tests and demonstrations. Nothing here is an observation; everything made from it says so."""

from __future__ import annotations

from bftembed.testing.perturbation import simulate_perturbations

__all__ = ["simulate_perturbations"]

"""`bftembed report`."""

from __future__ import annotations


def report() -> None:
    """Run report."""

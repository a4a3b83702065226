"""Inputs for other people's models: STATE takes them unmodified."""

from __future__ import annotations

from bftembed.export.check import Finding, check_state
from bftembed.export.state import StateExport, export_state

__all__ = ["Finding", "StateExport", "check_state", "export_state"]

"""Inputs for other people's models, written so that they cannot be misused: STATE takes them unmodified."""

from __future__ import annotations

from bftembed.export.check import check_state
from bftembed.export.findings import Finding
from bftembed.export.state import StateExport, export_state

__all__ = ["Finding", "StateExport", "check_state", "export_state"]

"""Data by name: cells that a Python package brings, and public files of labels, sets, pairs and texts about genes."""

from __future__ import annotations

from bftembed.datasets.cells import CELLS, PackagedCells, data_path
from bftembed.datasets.fetch import (
    DataMismatchError,
    DataNotFoundError,
    FileStatus,
    content_sha256,
    fetch_file,
    fetch_files,
    find_file,
    find_files,
    list_files,
    load,
    locate_file,
)
from bftembed.datasets.registry import FILES, DataFile

__all__ = [
    "CELLS",
    "FILES",
    "DataFile",
    "DataMismatchError",
    "DataNotFoundError",
    "FileStatus",
    "PackagedCells",
    "content_sha256",
    "data_path",
    "fetch_file",
    "fetch_files",
    "find_file",
    "find_files",
    "list_files",
    "load",
    "locate_file",
]

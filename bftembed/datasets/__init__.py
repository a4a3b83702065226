"""Data by name: cells inside Python packages, and public files of labels, sets, pairs and texts about genes."""

from __future__ import annotations

from bftembed.datasets.fetch import (
    FILES,
    DataFile,
    DataMismatchError,
    DataNotFoundError,
    FileStatus,
    data_path,
    fetch_files,
    find_file,
    find_files,
    list_files,
    load,
)

__all__ = [
    "FILES",
    "DataFile",
    "DataMismatchError",
    "DataNotFoundError",
    "FileStatus",
    "data_path",
    "fetch_files",
    "find_file",
    "find_files",
    "list_files",
    "load",
]

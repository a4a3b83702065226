"""Cells that a Python package brings, as a path; nothing is downloaded."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from bftembed.errors import BftembedError, unknown_name


@dataclass(frozen=True)
class PackagedCells:
    """A h5ad inside a Python package.

    Attributes
    ----------
    package, file
        Where it lies.
    description
        Cells, genes, what the matrices hold.
    source, licence
        As their owners state them.
    """

    package: str
    file: str
    description: str
    source: str
    licence: str


CELLS = {
    "pbmc68k_reduced": PackagedCells(
        "scanpy",
        "datasets/10x_pbmc68k_reduced.h5ad",
        "700 peripheral blood mononuclear cells, 765 genes; X scaled, .raw log-normalised; 10 labels in bulk_labels",
        "10x Genomics, subset by the authors of scanpy (Zheng et al. 2017)",
        "BSD-3-Clause (scanpy)",
    ),
}


def data_path(name: str) -> str:
    """Return the file of ``builtin:NAME``; anything else as it is.

    Raises
    ------
    UnknownNameError
        For a builtin name that is not known.
    BftembedError
        When the package that holds it is not installed.
    """
    if not name.startswith("builtin:"):
        return name
    key = name.removeprefix("builtin:")
    if key not in CELLS:
        raise unknown_name("builtin data set", key, CELLS)
    packaged = CELLS[key]
    found = importlib.util.find_spec(packaged.package)
    if found is None or not found.origin:
        raise BftembedError(f"builtin:{key} comes with {packaged.package}; install it: pip install {packaged.package}")
    return str(Path(found.origin).parent / packaged.file)

"""bftembed: a language model's knowledge of genes and proteins as vectors for single-cell biology.

The verbs of the main job are importable from here; each is loaded when it is first used, so that
``import bftembed`` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from bftembed._version import __version__

_LAZY = {
    "BftembedError": "bftembed.errors",
    "GeneIndex": "bftembed.entities.genes",
    "GeneEmbeddings": "bftembed.embeddings",
    "generate_profiles": "bftembed.profiles.generate",
    "embed_genes": "bftembed.embeddings",
    "embed_cells": "bftembed.cells.embed",
    "bench": "bftembed.bench",
    "export": "bftembed.export",
}

__all__ = ["__version__", *_LAZY]

if TYPE_CHECKING:
    from bftembed import bench as bench
    from bftembed import export as export
    from bftembed.cells.embed import embed_cells as embed_cells
    from bftembed.embeddings import GeneEmbeddings as GeneEmbeddings
    from bftembed.embeddings import embed_genes as embed_genes
    from bftembed.entities.genes import GeneIndex as GeneIndex
    from bftembed.errors import BftembedError as BftembedError
    from bftembed.profiles.generate import generate_profiles as generate_profiles


def __getattr__(name: str) -> Any:
    """Load a public name on first use."""
    if name not in _LAZY:
        raise AttributeError(f"module 'bftembed' has no attribute {name!r}")
    module = importlib.import_module(_LAZY[name])
    return module if _LAZY[name].endswith(f".{name}") else getattr(module, name)


def __dir__() -> list[str]:
    """List the public names."""
    return sorted(__all__)

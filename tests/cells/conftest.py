"""Small real data sets for the cells room."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anndata
import numpy as np
import pytest
import scipy.sparse as sp

from bftembed.embeddings import GeneEmbeddings

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

#: The last one has no embedding.
GENES = ["CD3D", "LYZ", "MS4A1", "GNLY", "NKG7", "CD8A"]


@pytest.fixture(scope="session")
def embeddings() -> GeneEmbeddings:
    """Give embeddings of five of the six genes, 4 dimensions."""
    matrix = np.random.default_rng(7).normal(size=(5, 4)).astype(np.float32)
    return GeneEmbeddings(GENES[:5], matrix, {"encoder": {"name": "random", "seed": 7}})


@pytest.fixture(scope="session")
def genes_file(embeddings: GeneEmbeddings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("genes") / "genes.safetensors"
    embeddings.save(path)
    return path


@pytest.fixture(scope="session")
def make_cells() -> Callable[..., anndata.AnnData]:
    """Give a function that makes an AnnData of counts, 30 cells × 6 genes, every cell with a covered gene."""

    def make(n_cells: int = 30, form: str = "csr", dtype: Any = np.float32, seed: int = 0) -> anndata.AnnData:
        rng = np.random.default_rng(seed)
        counts = rng.poisson(1.2, size=(n_cells, len(GENES)))
        counts[:, 1] += 1
        counts = counts.astype(dtype)
        values = {"csr": sp.csr_matrix, "csc": sp.csc_matrix, "dense": np.asarray}[form](counts)
        cells = anndata.AnnData(values)
        cells.var_names = GENES
        cells.obs_names = [f"cell{i}" for i in range(n_cells)]
        cells.obs["label"] = ["a", "b"] * (n_cells // 2) + ["a"] * (n_cells % 2)
        return cells

    return make


@pytest.fixture
def cells(make_cells: Callable[..., anndata.AnnData]) -> anndata.AnnData:
    return make_cells()


@pytest.fixture
def cells_file(cells: anndata.AnnData, tmp_path: Path) -> Path:
    path = tmp_path / "cells.h5ad"
    cells.write_h5ad(path)
    return path

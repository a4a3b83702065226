"""Cells with types and batches, for the integration task: made by hand, or a part of real ones."""

from __future__ import annotations

import numpy as np


def blobs(n=150, n_labels=3, n_batches=2, shift=1.0, seed=0, d=8):
    """Return (cells float32, labels, batches, an embedding with more of the batches in it)."""
    draw = np.random.default_rng(seed)
    labels, batches = np.arange(n) % n_labels, draw.integers(0, n_batches, n)
    centres, shifts = 2 * draw.normal(size=(n_labels, d)), shift * draw.normal(size=(n_batches, d))
    X = (draw.normal(size=(n, d)) + centres[labels] + shifts[batches]).astype(np.float32)
    before = X + 2 * shifts[batches].astype(np.float32)
    return X, np.array([f"t{x}" for x in labels]), np.array([f"b{x}" for x in batches]), before


def as_anndata(n=150, **options):
    """Return the same as an AnnData with counts in .X, and the embeddings ``X_a`` and ``X_pre``."""
    import anndata
    import pandas as pd

    X, labels, batches, before = blobs(n, **options)
    draw = np.random.default_rng(1)
    level = draw.gamma(1.0, 2.0, (8, 40))[np.unique(labels, return_inverse=True)[1]]
    obs = pd.DataFrame(
        {"kind": pd.Categorical(labels, categories=[*sorted(set(labels)), "unused"]), "lot": batches},
        index=[f"c{i}" for i in range(n)],
    )
    cells = anndata.AnnData(draw.poisson(level).astype(np.float32), obs=obs)
    cells.var_names = [f"g{i}" for i in range(40)]
    cells.obsm["X_a"], cells.obsm["X_pre"] = X, before
    return cells

"""Simulated perturbation screens, in which the embedding of the target tells, or does not tell, its effect.

For tests and demonstrations: nothing here is an observation, and everything made from it says so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from bftembed.embeddings import GeneEmbeddings
from bftembed.entities.genes import GeneIndex
from bftembed.errors import BftembedError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from numpy.typing import NDArray

#: Label of unperturbed cells, as STATE's data sets have it.
CONTROL = "non-targeting"
# Counts of a cell, on average.
_DEPTH = 5000.0
# Dimensions of z, standard deviation of an effect in log expression, share of controls, batches.
_RANK, _EFFECT, _CONTROLS, _BATCHES = 5, 0.5, 0.1, 2


def simulate_perturbations(
    *,
    signal: float = 1.0,
    n_perturbations: int = 30,
    n_genes: int = 300,
    cells_per_perturbation: int = 20,
    cell_types: Sequence[str] = ("k562", "rpe1", "jurkat"),
    dim: int = 32,
    seed: int = 0,
) -> tuple[AnnData, GeneEmbeddings]:
    """Simulate a CRISPRi screen and gene embeddings that tell, or do not tell, what a perturbation does.

    The effect of perturbing a gene, in log expression of every gene, is ``loadings @ z + shared shift``, and the target
    itself falls. ``z`` (5,) is ``sqrt(signal)`` times a linear map of the gene's embedding plus ``sqrt(1 - signal)``
    times noise of the same variance: at 1 the embedding tells everything, at 0 nothing. Cell types have a baseline
    each and respond with a strength of their own; a tenth of the cells are controls, and counts are Poisson.

    Parameters
    ----------
    signal
        Share of the variance of z that the embedding tells, 0 to 1.
    n_perturbations, n_genes
        Perturbed genes, and genes measured; the perturbed are among the measured.
    cells_per_perturbation
        Cells of each perturbation in each cell type.
    cell_types
        Names.
    dim
        Dimensions of the embeddings.
    seed
        Of everything.

    Returns
    -------
    AnnData
        ``X``: float32 (n_cells, n_genes), log1p of counts per 10,000. ``obs``: ``gene`` (HGNC symbol of the target, or
        ``"non-targeting"``), ``cell_type``, ``gem_group``, all categorical. ``var_names`` are HGNC symbols,
        ``var["gene_name"]`` too. ``uns["simulated"]`` holds the settings.
    GeneEmbeddings
        float32 (n_genes, dim) of the measured genes, with ``{"simulated": True}`` as provenance.

    Raises
    ------
    BftembedError
        For numbers out of range.
    """
    import pandas as pd
    from anndata import AnnData

    numbers = (n_perturbations, n_genes, cells_per_perturbation, len(cell_types), dim)
    if not 0 <= signal <= 1 or min(numbers) < 1 or n_perturbations > n_genes:
        raise BftembedError(f"signal must lie in [0, 1], numbers be at least 1, and targets be measured: {numbers}.")
    draw = np.random.default_rng(seed)
    index = GeneIndex.default()
    coding = sorted(s for s in index if (r := index.get(s)) and r.locus_type == "gene with protein product")
    if n_genes > len(coding):
        raise BftembedError(f"{n_genes} genes were asked for; HGNC has {len(coding)} that code for proteins.")
    symbols = sorted(str(s) for s in draw.choice(coding, n_genes, replace=False))
    targets = np.sort(draw.choice(n_genes, n_perturbations, replace=False))
    vectors = draw.standard_normal((n_genes, dim)).astype(np.float32)
    told = vectors @ draw.standard_normal((dim, _RANK)) / np.sqrt(dim)
    z = np.sqrt(signal) * told + np.sqrt(1 - signal) * draw.standard_normal((n_genes, _RANK))
    loadings = draw.standard_normal((_RANK, n_genes)) * (draw.random((_RANK, n_genes)) < 0.5) * np.sqrt(2 / _RANK)
    shift = 0.5 * draw.standard_normal(n_genes)
    change = _EFFECT * (z[targets] @ loadings + shift)
    change[np.arange(n_perturbations), targets] = -2.0

    base = draw.gamma(0.7, 1.0, n_genes) + 0.05
    blocks: list[NDArray[np.float32]] = []
    labels: dict[str, list[Any]] = {"gene": [], "cell_type": [], "gem_group": []}
    n_controls = round(_CONTROLS / (1 - _CONTROLS) * n_perturbations * cells_per_perturbation)
    for cell_type in cell_types:
        own = np.log(base) + 0.7 * draw.standard_normal(n_genes)
        strength = draw.uniform(0.7, 1.3)
        conditions = [(CONTROL, np.zeros(n_genes), max(1, n_controls))]
        conditions += [(symbols[t], strength * c, cells_per_perturbation) for t, c in zip(targets, change, strict=True)]
        for name, shifted, n in conditions:
            rate = np.exp(own + shifted)
            depth = _DEPTH * draw.lognormal(0, 0.2, n)
            counts = draw.poisson(depth[:, None] * rate / rate.sum())
            totals = np.maximum(counts.sum(axis=1, keepdims=True), 1)
            blocks.append(np.log1p(1e4 * counts / totals).astype(np.float32))
            labels["gene"] += [name] * n
            labels["cell_type"] += [cell_type] * n
            labels["gem_group"] += [f"batch{i % _BATCHES + 1}" for i in range(n)]
    obs = pd.DataFrame({k: pd.Categorical(v) for k, v in labels.items()})
    obs.index = pd.Index([f"cell{i}" for i in range(len(obs))])
    adata = AnnData(np.concatenate(blocks), obs, pd.DataFrame({"gene_name": symbols}, index=pd.Index(symbols)))
    settings = {"signal": signal, "seed": seed, "what": "simulated, not observed"}
    adata.uns |= {"simulated": settings, "log1p": {}}
    return adata, GeneEmbeddings(symbols, vectors, {"simulated": True, "signal": signal, "seed": seed})

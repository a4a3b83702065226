"""Which genes STATE gets: the highly variable ones, and the perturbed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bftembed.cells.normalize import log_cp10k
from bftembed.entities.genes import GeneIndex
from bftembed.errors import BftembedError, examples
from bftembed.export.state_cells import GenePlan

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

    from bftembed.cells.rows import Rows
    from bftembed.export.state_cells import Embedded

#: Most cells, and most stored values, that highly variable genes are chosen from: about 200 MB.
MOST_CELLS, MOST_VALUES = 10_000, 25_000_000


def sampled_cells(n_cells: Sequence[int], per_cell: Sequence[float], seed: int) -> list[NDArray[np.int64]]:
    """Draw the cells that highly variable genes are chosen from, of all files alike; all of them where they are few.

    Parameters
    ----------
    n_cells, per_cell
        Cells, and stored values of a cell, of each file.
    seed
        Of the draw.

    Returns
    -------
    list of ndarray
        Rising positions in each file.
    """
    values = sum(n * x for n, x in zip(n_cells, per_cell, strict=True))
    share = min(1.0, MOST_CELLS / sum(n_cells), MOST_VALUES / max(1.0, values))
    chosen = []
    for i, n in enumerate(n_cells):
        draw = np.random.default_rng([seed, 2, i])
        chosen.append(np.sort(draw.choice(n, max(1, round(share * n)), replace=False)))
    return chosen


def check_same_genes(paths: Sequence[Path], embedded: Sequence[Embedded]) -> bool:
    """Return whether the genes of some file are in another order than in the first.

    Raises
    ------
    BftembedError
        When files do not have the same genes.
    """
    first = set(embedded[0].genes)
    for path, one in zip(paths[1:], embedded[1:], strict=True):
        here = set(one.genes)
        if here != first:
            raise BftembedError(
                f"{path} and {paths[0]} have different genes: {len(here - first)} only in the former "
                f"({examples(sorted(here - first), 3) or 'none'}), {len(first - here)} only in the latter "
                f"({examples(sorted(first - here), 3) or 'none'}), {len(here & first)} in both. STATE needs the same "
                "genes in every file: cut the files to the common ones, or bring them to one reference."
            )
    return any(one.genes != embedded[0].genes for one in embedded[1:])


def choose_genes(
    embedded: Sequence[Embedded], n_top: int, perturbed: Collection[str], *, every_gene: bool
) -> tuple[GenePlan, str]:
    """Choose the genes of X: the highly variable ones, and the perturbed that were measured; or all.

    Highly variable are those of scanpy's flavour "seurat" (Satija et al. 2015) on the log1p values of the sample, of
    controls and perturbed cells of all splits: one choice for both questions. X_hvg is no input of evaluation alone,
    so what is left to leak is which genes vary.

    Parameters
    ----------
    embedded
        Files with their samples; genes in the order of the first.
    n_top
        How many; all where there are no more.
    perturbed
        Approved symbols.
    every_gene
        Whether X is to hold all genes.

    Returns
    -------
    tuple
        The plan, and how it was made, in words.
    """
    genes = embedded[0].genes
    n_cells = sum(len(one.sample) for one in embedded)
    if n_top < 1:
        raise BftembedError(f"hvg (--hvg) is {n_top}; give 1 or more.")
    if n_top >= len(genes):
        variable = np.ones(len(genes), dtype=bool)
        how = f"all {len(genes)} genes: there are no more than the {n_top} asked for"
    else:
        variable = _variable(embedded, n_top)
        all_cells = sum(one.report.n_cells for one in embedded)
        of = "all" if n_cells == all_cells else "a seeded sample of"
        how = f"scanpy, flavor seurat, {n_top} of {len(genes)} genes, from {of} {n_cells} cells of every split"
    symbols = [found.entity for found in GeneIndex.default().resolve(genes)]
    is_target = np.array(
        [gene in perturbed or symbol in perturbed for gene, symbol in zip(genes, symbols, strict=True)]
    )
    kept = np.ones(len(genes), dtype=bool) if every_gene else variable | is_target
    names = tuple(gene for gene, keep in zip(genes, kept, strict=True) if keep)
    return GenePlan(names, variable[kept]), how


def _variable(embedded: Sequence[Embedded], n_top: int) -> NDArray[np.bool_]:
    import scanpy
    from anndata import AnnData
    from scipy.sparse import vstack

    genes = embedded[0].genes
    parts = []
    for one in embedded:
        place = {gene: i for i, gene in enumerate(one.genes)}
        logged = _logged(one.sample, len(genes), counts=one.report.normalize == "log1p-cp10k")
        parts.append(logged if one.genes == genes else logged[:, [place[gene] for gene in genes]])
    cells = AnnData(vstack(parts, format="csr"))
    found = scanpy.pp.highly_variable_genes(cells, flavor="seurat", n_top_genes=n_top, inplace=False)
    assert found is not None
    return found["highly_variable"].to_numpy(dtype=bool)


def _logged(sample: Rows, n_genes: int, *, counts: bool) -> csr_matrix:
    matrix = sample.to_csr(n_genes).astype(np.float32)
    matrix.sum_duplicates()
    if counts:
        log_cp10k(matrix)
    return matrix

"""What needs no text: proteins beside the RNA of their own genes, clusters of the RNA, vectors drawn at random."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bftembed.bench.expression import whole_matrix
from bftembed.bench.joint_space import antibody_genes
from bftembed.cells.matching import match_genes
from bftembed.cells.normalize import log_cp10k
from bftembed.cells.vectors import Aggregation
from bftembed.embeddings import GeneEmbeddings
from bftembed.entities.genes import GeneIndex
from bftembed.errors import BftembedError, examples
from bftembed.metrics.leiden import LeidenGraph
from bftembed.metrics.neighbours import nearest_neighbours
from bftembed.tasks.baselines import pca

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bftembed.bench.joint_space import How
    from bftembed.bench.pairing import Modalities, Modality

#: Neighbours, itself included, and resolution of the clusters that stand in for labels.
NEIGHBOURS, RESOLUTION = 15, 1.0


@dataclass(frozen=True, eq=False)
class Linked:
    """The features that both modalities have: each an antibody and the RNA of its genes.

    Attributes
    ----------
    rna, protein
        float32 (n_cells, n_features): the mean of the normalised RNA of the genes, and the normalised antibody counts.
    note
        How many, and how they were made.
    """

    rna: NDArray[Any]
    protein: NDArray[Any]
    note: str

    def scaled(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return each feature with mean 0 and variance 1 within its modality; those that vary in both alone."""
        parts = [part.astype(np.float64) for part in (self.rna, self.protein)]
        deviations = [part.std(axis=0) for part in parts]
        varies = (deviations[0] > 0) & (deviations[1] > 0)
        if not varies.any():
            raise BftembedError("No antibody and its RNA vary both between cells: there is no linked baseline.")
        rna, protein = (
            ((part - part.mean(axis=0)) / np.where(varies, deviation, 1))[:, varies].astype(np.float32)
            for part, deviation in zip(parts, deviations, strict=True)
        )
        return rna, protein


def linked_features(modalities: Modalities, how: How) -> Linked:
    """Return the antibodies of which the data have the RNA of a gene, beside that RNA.

    The space that integrations of RNA and proteins begin with (MaxFuse, scMODAL): no embedding is asked. The RNA of an
    antibody of several genes is their mean.

    Parameters
    ----------
    modalities
        The cells.
    how
        The normalisations; weights and gene matrix do not count here.

    Raises
    ------
    BftembedError
        When no antibody has a gene in the RNA.
    """
    antibodies = modalities.protein.features()
    genes_of = antibody_genes(antibodies)
    wanted = sorted({gene for genes in genes_of.values() for gene in genes})
    names = modalities.rna.features()
    try:
        rows = match_genes(names, wanted, GeneIndex.default().resolve, where="the RNA").rows
    except BftembedError:  # none matches; the message below shows both sides
        rows = np.empty(0, dtype=np.int64)
    present = {wanted[row] for row in rows[rows >= 0]}
    features = {entity: [g for g in genes if g in present] for entity, genes in genes_of.items()}
    features = {entity: genes for entity, genes in features.items() if genes}
    if not features:
        raise BftembedError(
            f"No protein is linked to the RNA of its gene: the proteins begin with {examples(antibodies)}, the "
            f"genes of the RNA with {examples(names)}."
        )
    rows_of = {gene: i for i, gene in enumerate(sorted(present & {g for genes in features.values() for g in genes}))}
    link = np.zeros((len(rows_of), len(features)), dtype=np.float32)
    for column, genes in enumerate(features.values()):
        link[[rows_of[gene] for gene in genes], column] = 1 / len(genes)
    rna = _summed(modalities.rna, GeneEmbeddings(list(rows_of), link), Aggregation("gene", how.normalize, l2=False))
    eye = GeneEmbeddings(list(features), np.eye(len(features), dtype=np.float32))
    protein = _summed(modalities.protein, eye, Aggregation("protein", how.protein_normalize, l2=False))
    note = f"{len(features)} of {len(antibodies)} antibodies with the RNA of their genes, normalised"
    return Linked(rna, protein, note)


def _summed(modality: Modality, link: GeneEmbeddings, how: Aggregation) -> NDArray[Any]:
    """Return the sums of normalised values that `link` (features × sums) asks for; 0 for a cell with none of them."""
    vectors, report = modality.vectors(link, how)
    return np.nan_to_num(vectors * np.float32(report.n_genes), nan=0.0)  # "all-genes" divides by their number


def rna_clusters(rna: Modality, normalize: str) -> NDArray[Any]:
    """Return Leiden's clusters of the RNA as labels, object (n_cells,): ``"RNA cluster 0"`` and so on.

    50 principal components of the normalised expression, 15 neighbours, resolution 1, seed 0.

    Parameters
    ----------
    rna
        The cells.
    normalize
        What is done to the values first, as a report of their vectors says: ``"log1p-cp10k"`` or ``"none"``.

    Raises
    ------
    BftembedError
        For fewer cells than neighbours, and as `bftembed.tasks.baselines.pca`.
    MissingExtraError
        Without the extra ``scib``.
    """
    with rna.opened() as expression:
        matrix = whole_matrix(expression)
    matrix = (matrix if rna.rows is None else matrix[rna.rows]).astype(np.float32)
    if matrix.shape[0] < NEIGHBOURS:
        raise BftembedError(
            f"Labels from the RNA (Leiden) need at least {NEIGHBOURS} cells, and there are {matrix.shape[0]}. Name a "
            "column of .obs with the cell types: label=COLUMN (--label)."
        )
    if normalize == "log1p-cp10k":
        log_cp10k(matrix)
    found = LeidenGraph(nearest_neighbours(pca(matrix), NEIGHBOURS)).clusters(RESOLUTION, seed=0)
    return np.array([f"RNA cluster {cluster}" for cluster in found], dtype=object)

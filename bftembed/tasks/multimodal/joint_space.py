"""Cells of both modalities in one space: sums of gene and protein vectors, and the linked features as a reference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bftembed.cells.matching import match_genes
from bftembed.cells.normalize import log_cp10k
from bftembed.cells.transforms import GeneTransform
from bftembed.cells.vectors import Aggregation
from bftembed.embeddings import GeneEmbeddings
from bftembed.entities.genes import GeneIndex
from bftembed.entities.proteins import ProteinIndex
from bftembed.errors import BftembedError, examples
from bftembed.metrics.leiden import LeidenGraph
from bftembed.metrics.neighbors import nearest_neighbors
from bftembed.tasks.baselines import pca, whole_matrix

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from bftembed.cells.weighting import Weights
    from bftembed.tasks.multimodal.data import Modalities, Modality

#: Neighbors, itself included, and resolution of the clusters that stand in for labels.
N_NEIGHBORS, RESOLUTION = 15, 1.0


@dataclass(frozen=True)
class JointAggregation:
    """How vectors of genes and of proteins become vectors of cells; options as in `bftembed.cells.embed.embed_cells`.

    Center and components of `gene_matrix` are those of the genes of the RNA, for both modalities; `protein_normalize`
    is that of the proteins, and `center_cells` subtracts the mean of the cells of each modality.
    """

    weights: Weights = "expression"
    gene_matrix: str = "raw"
    normalize: str = "auto"
    protein_normalize: str = "clr"
    center_cells: bool = False

    def __str__(self) -> str:
        name = f"{self.weights} weights, {self.gene_matrix} gene matrix"
        return f"{name}, less the mean of the modality" if self.center_cells else name


@dataclass(frozen=True, eq=False)
class JointVectors:
    """Cells of both modalities in one space.

    Attributes
    ----------
    rna, protein
        float32 (n_cells, d), NaN for a cell that expresses nothing with an embedding.
    note
        What had a vector, and what had none.
    normalize
        What was done to the RNA: ``"log1p-cp10k"`` or ``"none"``.
    """

    rna: NDArray[Any]
    protein: NDArray[Any]
    note: str
    normalize: str


def joint_vectors(
    cells: Modalities, genes: GeneEmbeddings, proteins: GeneEmbeddings | None, how: JointAggregation, name: str
) -> JointVectors:
    """Embed the cells of both modalities; without protein embeddings by `antibody_embeddings`.

    Raises
    ------
    BftembedError
        For embeddings of different dimension, names of which none has an embedding, and as
        `bftembed.cells.embed.embed_cells`.
    """
    if proteins is not None and proteins.dim != genes.dim:
        raise BftembedError(
            f"{name}: gene embeddings have {genes.dim} dimensions, protein embeddings {proteins.dim}. Encode both with "
            "one encoder."
        )
    antibodies = cells.protein.features
    own = antibody_embeddings(antibodies, genes) if proteins is None else proteins
    matched = match_genes(antibodies, own.ids, ProteinIndex.default().resolve, where=f"{name}: the proteins").rows >= 0
    if how.gene_matrix != "raw":
        expression = cells.rna.expression
        rows = match_genes(expression.genes, genes.ids, GeneIndex.default().resolve, where=expression.where).rows
        # Centered each on its own, a protein and its gene, the same vector before, would no longer be near.
        shared = GeneTransform.fit(genes.matrix[np.unique(rows[rows >= 0])], how.gene_matrix)
        genes, own = _mapped(genes, shared), _mapped(own, shared)
    rna, of_rna = cells.rna.vectors(genes, Aggregation("gene", how.normalize, how.weights))
    protein, _ = cells.protein.vectors(own, Aggregation("protein", how.protein_normalize, how.weights))
    if how.center_cells:
        rna, protein = _centered(rna), _centered(protein)
    without = [a for a, has in zip(antibodies, matched, strict=True) if not has]
    note = (
        f"{how}; {of_rna.n_matched:,} of {of_rna.n_genes:,} genes with a vector ({of_rna.coverage:.1%} of the RNA); "
        f"{int(matched.sum())} of {len(antibodies)} antibodies with a vector"
        + (" of their genes" if proteins is None else "")
        + (f" (without: {examples(without)})" if without else "")
    )
    return JointVectors(rna, protein, note, of_rna.normalize)


def antibody_genes(names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return entity → approved symbols of its genes, of the antibodies that are known; see `ProteinIndex`.

    CD3 has three genes; CD45RA, an isoform, has the gene PTPRC.
    """
    return {found.entity: found.genes for found in ProteinIndex.default().resolve(names) if found.genes}


def antibody_embeddings(names: Sequence[str], genes: GeneEmbeddings) -> GeneEmbeddings:
    """Return a vector for each antibody: that of its gene, of several the mean of those that have one.

    A name that is an id of `genes` itself is taken as it is.

    Raises
    ------
    BftembedError
        When no antibody has a gene with an embedding.
    """
    genes_of: dict[str, tuple[str, ...]] = {name: (name,) for name in names if name in genes}
    genes_of |= {entity: symbols for entity, symbols in antibody_genes(names).items() if entity not in genes_of}
    known = {entity: [s for s in symbols if s in genes] for entity, symbols in genes_of.items()}
    means = {entity: genes.matrix[genes.rows(symbols)].mean(axis=0) for entity, symbols in known.items() if symbols}
    means = {entity: mean for entity, mean in means.items() if mean.any()}
    if not means:
        raise BftembedError(
            f"None of the {len(names)} proteins ({examples(names)}) has a gene with an embedding ({examples(genes.ids)}"
            "). Names of antibodies, genes and UniProt accessions of human proteins are known."
        )
    return GeneEmbeddings(list(means), np.stack(list(means.values())), genes.provenance)


def _mapped(embeddings: GeneEmbeddings, transform: GeneTransform) -> GeneEmbeddings:
    """Return embeddings mapped; one that becomes zero (the mean itself) has no direction and is left out."""
    matrix = transform.of(embeddings.matrix)
    has = np.asarray(matrix.any(axis=1))
    if not has.any():
        raise BftembedError("All embeddings are equal: no direction is left about their mean. Take gene_matrix='raw'.")
    ids = [name for name, kept in zip(embeddings.ids, has, strict=True) if kept]
    return GeneEmbeddings(ids, matrix[has], embeddings.provenance)


def _centered(vectors: NDArray[Any]) -> NDArray[np.float32]:
    """Return the vectors of the cells of a modality less their mean, of length 1 again."""
    moved = vectors.astype(np.float64) - np.nanmean(vectors, axis=0, dtype=np.float64)
    length = np.linalg.norm(moved, axis=1, keepdims=True)
    return np.divide(moved, length, out=np.full_like(moved, np.nan), where=length > 0).astype(np.float32)


@dataclass(frozen=True, eq=False)
class LinkedFeatures:
    """Antibodies and the RNA of their genes, float32 (n_cells, n_features): normalized counts, mean normalized RNA."""

    rna: NDArray[Any]
    protein: NDArray[Any]
    note: str

    def scaled(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return each feature with mean 0 and variance 1 within its modality; those alone that vary in both."""
        parts = [part.astype(np.float64) for part in (self.rna, self.protein)]
        deviations = [part.std(axis=0) for part in parts]
        varies = (deviations[0] > 0) & (deviations[1] > 0)
        if not varies.any():
            raise BftembedError("No antibody varies between cells in its counts and in its RNA: no linked features.")
        rna, protein = (
            ((part - part.mean(axis=0)) / np.where(varies, deviation, 1))[:, varies].astype(np.float32)
            for part, deviation in zip(parts, deviations, strict=True)
        )
        return rna, protein


def linked_features(cells: Modalities, how: JointAggregation) -> LinkedFeatures:
    """Return the antibodies of which the data have the RNA of a gene, and that RNA; the mean of several genes.

    Integrations of RNA and proteins (MaxFuse, scMODAL) start from this space. It needs no embedding; of `how` the
    normalizations alone count.

    Raises
    ------
    BftembedError
        When no antibody has a gene in the RNA.
    """
    antibodies, names = cells.protein.features, cells.rna.features
    genes_of = antibody_genes(antibodies)
    wanted = sorted({gene for genes in genes_of.values() for gene in genes})
    try:
        rows = match_genes(names, wanted, GeneIndex.default().resolve, where="the RNA").rows
    except BftembedError:  # none matches; the message below shows both sides
        rows = np.empty(0, dtype=np.int64)
    present = {wanted[row] for row in rows[rows >= 0]}
    features = {entity: [g for g in genes if g in present] for entity, genes in genes_of.items()}
    features = {entity: genes for entity, genes in features.items() if genes}
    if not features:
        raise BftembedError(
            f"No protein ({examples(antibodies)}) is linked to the RNA of its gene ({examples(names)} …)."
        )
    rows_of = {gene: i for i, gene in enumerate(sorted({g for genes in features.values() for g in genes}))}
    link = np.zeros((len(rows_of), len(features)), dtype=np.float32)
    for column, genes in enumerate(features.values()):
        link[[rows_of[gene] for gene in genes], column] = 1 / len(genes)
    rna = _summed(cells.rna, GeneEmbeddings(list(rows_of), link), Aggregation("gene", how.normalize, l2=False))
    eye = GeneEmbeddings(list(features), np.eye(len(features), dtype=np.float32))
    protein = _summed(cells.protein, eye, Aggregation("protein", how.protein_normalize, l2=False))
    note = f"{len(features)} of {len(antibodies)} antibodies with the RNA of their genes, normalized"
    return LinkedFeatures(rna, protein, note)


def _summed(modality: Modality, link: GeneEmbeddings, how: Aggregation) -> NDArray[Any]:
    """Return the sums of normalized values that `link` (features × sums) names; 0 for a cell with none of them."""
    vectors, report = modality.vectors(link, how)
    return np.nan_to_num(vectors * np.float32(report.n_genes), nan=0.0)  # "all-genes" divides by their number


def rna_clusters(rna: Modality, normalize: str) -> NDArray[Any]:
    """Return Leiden clusters of the RNA as labels, object (n_cells,): ``"RNA cluster 0"`` and so on.

    50 principal components of the expression, normalized as in the report of its vectors (``"log1p-cp10k"`` or
    ``"none"``), 15 neighbors, resolution 1, seed 0.

    Raises
    ------
    BftembedError
        For fewer cells than neighbors, and as `bftembed.tasks.baselines.pca`.
    MissingExtraError
        Without the extra ``scib``.
    """
    matrix = whole_matrix(rna.expression)
    matrix = (matrix if rna.rows is None else matrix[rna.rows]).astype(np.float32)
    if matrix.shape[0] < N_NEIGHBORS:
        raise BftembedError(
            f"Clusters of the RNA need {N_NEIGHBORS} cells, not {matrix.shape[0]}. Name a label column."
        )
    if normalize == "log1p-cp10k":
        log_cp10k(matrix)
    found = LeidenGraph(nearest_neighbors(pca(matrix), N_NEIGHBORS)).clusters(RESOLUTION, seed=0)
    return np.array([f"RNA cluster {cluster}" for cluster in found], dtype=object)

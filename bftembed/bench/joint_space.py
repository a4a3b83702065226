"""RNA cells × gene embeddings and protein cells × protein embeddings, in one space: one transform for both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bftembed.cells.matching import match_genes
from bftembed.cells.transforms import GeneTransform
from bftembed.cells.vectors import Aggregation
from bftembed.embeddings import GeneEmbeddings
from bftembed.entities.genes import GeneIndex
from bftembed.entities.proteins import ProteinIndex
from bftembed.errors import BftembedError, examples

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from bftembed.bench.pairing import Modalities


@dataclass(frozen=True)
class How:
    """How vectors of genes and of proteins become vectors of cells; the words are those of `embed_cells`.

    Attributes
    ----------
    weights, gene_matrix
        For both modalities. The centre and the components of `gene_matrix` are those of the genes of the RNA.
    normalize, protein_normalize
        Of the RNA and of the proteins.
    center_cells
        Whether the mean of the cells of each modality is taken off, and the vectors scaled to length 1 again.
    """

    weights: str = "expression"
    gene_matrix: str = "raw"
    normalize: str = "auto"
    protein_normalize: str = "clr"
    center_cells: bool = False

    def __str__(self) -> str:
        told = f"{self.weights} weights, {self.gene_matrix} gene matrix"
        return f"{told}, less the mean of the modality" if self.center_cells else told


@dataclass(frozen=True, eq=False)
class JointVectors:
    """Cells of both modalities in one space.

    Attributes
    ----------
    rna, protein
        float32 (n_cells, d), NaN for a cell that expresses nothing with an embedding.
    normalize
        What was done to the RNA: ``"log1p-cp10k"`` or ``"none"``.
    note
        What had a vector, and what had none.
    """

    rna: NDArray[Any]
    protein: NDArray[Any]
    normalize: str
    note: str


def joint_vectors(
    modalities: Modalities, genes: GeneEmbeddings, proteins: GeneEmbeddings | None, how: How, name: str
) -> JointVectors:
    """Embed the cells of both modalities.

    Parameters
    ----------
    modalities
        The cells.
    genes
        Gene embeddings.
    proteins
        Protein embeddings in the same space; None takes the genes of each antibody (`antibody_embeddings`).
    how
        The aggregation.
    name
        Of the embedding, for messages.

    Raises
    ------
    BftembedError
        For embeddings of different dimension, names of which none has an embedding, and as
        `bftembed.cells.embed.embed_cells`.
    """
    if proteins is not None and proteins.dim != genes.dim:
        raise BftembedError(
            f"{name}: the gene embeddings have {genes.dim} dimensions, the protein embeddings {proteins.dim}. Both are "
            "summed in one space: encode both with one encoder."
        )
    antibodies = modalities.protein.features()
    own = antibody_embeddings(antibodies, genes) if proteins is None else proteins
    matched = match_genes(antibodies, own.ids, ProteinIndex.default().resolve, where=f"{name}: the proteins").rows >= 0
    if how.gene_matrix != "raw":
        with modalities.rna.opened() as expression:
            match = match_genes(expression.genes, genes.ids, GeneIndex.default().resolve, where=expression.where)
        # Centred each on its own, a protein and its gene, the same vector before, would no longer be near.
        shared = GeneTransform.fit(genes.matrix[np.unique(match.rows[match.rows >= 0])], how.gene_matrix)
        genes, own = _mapped(genes, shared), _mapped(own, shared)
    rna, of_rna = modalities.rna.vectors(genes, Aggregation("gene", how.normalize, how.weights))  # type: ignore[arg-type]
    protein, _ = modalities.protein.vectors(
        own,
        Aggregation("protein", how.protein_normalize, how.weights),  # type: ignore[arg-type]
    )
    if how.center_cells:
        rna, protein = _centred(rna), _centred(protein)
    without = [a for a, has in zip(antibodies, matched, strict=True) if not has]
    note = (
        f"{how}; {of_rna.n_matched:,} of {of_rna.n_genes:,} genes with a vector ({of_rna.coverage:.1%} of the RNA); "
        f"{int(matched.sum())} of {len(antibodies)} antibodies with a vector"
        + (" of their genes" if proteins is None else "")
        + (f" (without: {examples(without)})" if without else "")
    )
    return JointVectors(rna, protein, of_rna.normalize, note)


def antibody_genes(names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return entity → approved symbols of its genes, of the antibodies that are known; see `ProteinIndex`.

    CD3 has three genes; CD45RA, an isoform, has the gene PTPRC.
    """
    return {found.entity: found.genes for found in ProteinIndex.default().resolve(names) if found.genes}


def antibody_embeddings(names: Sequence[str], genes: GeneEmbeddings) -> GeneEmbeddings:
    """Return a vector for each antibody: that of its gene, of several the mean of those that have one.

    Parameters
    ----------
    names
        As the panel spells them.
    genes
        Gene embeddings, with approved symbols as ids; a name that is an id itself is taken as it stands.

    Raises
    ------
    BftembedError
        When no antibody has a gene with an embedding.
    """
    sums: dict[str, NDArray[Any]] = {}
    genes_of: dict[str, tuple[str, ...]] = {name: (name,) for name in names if name in genes}
    genes_of |= {entity: symbols for entity, symbols in antibody_genes(names).items() if entity not in genes_of}
    for entity, symbols in genes_of.items():
        known = [symbol for symbol in symbols if symbol in genes]
        if known:
            vector = genes.matrix[genes.rows(known)].mean(axis=0)
            if vector.any():
                sums[entity] = vector
    if not sums:
        raise BftembedError(
            f"None of the {len(names)} proteins is one whose gene has an embedding. They begin with {examples(names)}, "
            f"the gene embeddings with {examples(genes.ids)}. Names of antibodies, genes and UniProt accessions are "
            "known; are these human?"
        )
    return GeneEmbeddings(list(sums), np.stack(list(sums.values())), genes.provenance)


def _mapped(embeddings: GeneEmbeddings, transform: GeneTransform) -> GeneEmbeddings:
    """Return embeddings mapped; one that becomes zero (the mean itself) has no direction and is left out."""
    matrix = transform.of(embeddings.matrix)
    has = np.asarray(matrix.any(axis=1))
    if not has.any():
        raise BftembedError(
            "Centred on the mean of the genes of the RNA no embedding is left: are all of them equal? Take "
            "gene_matrix='raw' (--gene-matrix raw)."
        )
    ids = [name for name, kept in zip(embeddings.ids, has, strict=True) if kept]
    return GeneEmbeddings(ids, matrix[has], embeddings.provenance)


def _centred(vectors: NDArray[Any]) -> NDArray[np.float32]:
    """Return the vectors of the cells of a modality less their mean, of length 1 again."""
    moved = vectors.astype(np.float64) - np.nanmean(vectors, axis=0, dtype=np.float64)
    length = np.linalg.norm(moved, axis=1, keepdims=True)
    return np.divide(moved, length, out=np.full_like(moved, np.nan), where=length > 0).astype(np.float32)

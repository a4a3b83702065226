"""RNA cells × gene embeddings and protein cells × protein embeddings, in one space: one transform for both."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bftembed.cells.matching import match_genes
from bftembed.cells.transforms import transformed
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
    """

    weights: str = "expression"
    gene_matrix: str = "raw"
    normalize: str = "auto"
    protein_normalize: str = "clr"

    def __str__(self) -> str:
        return f"{self.weights} weights, {self.gene_matrix} gene matrix"


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
        shared = JointTransform.fit(genes.matrix[np.unique(match.rows[match.rows >= 0])], how.gene_matrix)
        genes, own = shared.of(genes), shared.of(own)
    rna, of_rna = modalities.rna.vectors(genes, Aggregation("gene", how.normalize, how.weights))  # type: ignore[arg-type]
    protein, _ = modalities.protein.vectors(
        own,
        Aggregation("protein", how.protein_normalize, how.weights),  # type: ignore[arg-type]
    )
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


@dataclass(frozen=True, eq=False)
class JointTransform:
    """One affine map for genes and proteins: centred, or whitened, over the genes that it was fitted on.

    `bftembed.cells.transforms.transformed` fits on what it transforms. Genes and proteins that are each centred on
    their own would lie in two spaces: a protein and its gene, the same vector before, would no longer be near.

    Attributes
    ----------
    centre
        float64 (d,).
    components
        float64 (d, K); None leaves the directions as they are.
    """

    centre: NDArray[np.float64]
    components: NDArray[np.float64] | None

    @classmethod
    def fit(cls, matrix: NDArray[Any], how: str) -> JointTransform:
        """Fit on embeddings of genes, (n_genes, d); `how` and the errors as in `transformed`, which it equals there."""
        checked = transformed(matrix, how)
        wide = matrix.astype(np.float64)
        centre = wide.mean(axis=0)
        if re.fullmatch(r"whiten:\d+", how) is None:
            return cls(centre, None)
        wide -= centre
        variances, directions = np.linalg.eigh(wide.T @ wide / max(1, len(wide) - 1))
        k = checked.shape[1]
        chosen = directions[:, ::-1][:, :k]
        chosen = chosen * np.sign(chosen[np.abs(chosen).argmax(axis=0), np.arange(k)])
        return cls(centre, chosen / np.sqrt(variances[::-1][:k]))

    def of(self, embeddings: GeneEmbeddings) -> GeneEmbeddings:
        """Return embeddings mapped; one that becomes zero (the mean itself) has no direction and is left out."""
        moved = embeddings.matrix.astype(np.float64) - self.centre
        matrix = (moved if self.components is None else moved @ self.components).astype(np.float32)
        has = np.asarray(matrix.any(axis=1))
        if not has.any():
            raise BftembedError(
                "Centred on the mean of the genes of the RNA no embedding is left: are all of them equal? Take "
                "gene_matrix='raw' (--gene-matrix raw)."
            )
        ids = [name for name, kept in zip(embeddings.ids, has, strict=True) if kept]
        return GeneEmbeddings(ids, matrix[has], embeddings.provenance)

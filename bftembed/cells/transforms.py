"""The gene matrix before it is summed over: as it is, centred, or whitened to its main directions."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from bftembed.errors import BftembedError


def transformed(matrix: np.ndarray, how: str) -> np.ndarray:
    """Return gene embeddings to sum over.

    Text embeddings share a large common part, and a few directions carry most of the rest; a weighted mean over
    hundreds of genes then says little else. On three small sets of cells whitening to 64 components was where text
    first beat random and shuffled gene vectors (docs/cells.md).

    Parameters
    ----------
    matrix
        float32 (n_genes, d): embeddings of the genes that the data has, each gene once.
    how
        ``"raw"``; ``"center"``: less the mean over genes; ``"whiten:K"``: the K first principal components of the
        centred matrix, each divided by its standard deviation over genes.

    Returns
    -------
    ndarray
        float32, (n_genes, d) or (n_genes, K). The sign of a component is such that its largest loading is positive.

    Raises
    ------
    BftembedError
        For another word, or more components than the matrix has.
    """
    return matrix if how == "raw" else GeneTransform.fit(matrix, how).of(matrix)


@dataclass(frozen=True, eq=False)
class GeneTransform:
    """An affine map of gene embeddings, fitted on those of one set of genes.

    Attributes
    ----------
    centre
        float64 (d,).
    components
        float64 (d, K); None leaves the directions as they are.
    """

    centre: np.ndarray
    components: np.ndarray | None = None

    @classmethod
    def fit(cls, matrix: np.ndarray, how: str) -> GeneTransform:
        """Fit on ``"center"`` or ``"whiten:K"``; errors as `transformed`."""
        whiten = re.fullmatch(r"whiten:([1-9]\d*)", how)
        if how != "center" and whiten is None:
            raise BftembedError(
                f"gene_matrix (--gene-matrix) is {how!r}; give raw, center or whiten:K, such as whiten:64."
            )
        wide = matrix.astype(np.float64)
        centre = wide.mean(axis=0)
        if whiten is None:
            return cls(centre)
        wide -= centre
        asked, n = int(whiten[1]), len(matrix)
        variances, directions = np.linalg.eigh(wide.T @ wide / max(1, n - 1))
        variances, directions = variances[::-1], directions[:, ::-1]
        least = variances[0] * matrix.shape[1] * np.finfo(np.float32).eps
        rank = int((variances > least).sum()) if variances[0] > 0 else 0
        if asked > rank:
            raise BftembedError(
                f"{how} needs {asked} components, but the embeddings of the {n} genes of the data have only {rank}."
            )
        chosen = directions[:, :asked]
        chosen = chosen * np.sign(chosen[np.abs(chosen).argmax(axis=0), np.arange(asked)])
        return cls(centre, chosen / np.sqrt(variances[:asked]))

    def of(self, matrix: np.ndarray) -> np.ndarray:
        """Return embeddings mapped, float32 (n, d) or (n, K)."""
        moved = matrix.astype(np.float64) - self.centre
        found: np.ndarray = (moved if self.components is None else moved @ self.components).astype(np.float32)
        return found

"""Linear predictors of perturbation effects, NumPy alone.

All predict deltas: mean expression less that of the controls of the same cell type. All know the mean delta of the
training conditions of the same cell type, or, of a cell type without training conditions, of all (`centres`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bftembed.tasks.perturbation.data import Screen
    from bftembed.tasks.perturbation.splits import Split

#: Of the bilinear model, on both sides, and the dimensions of P and G: as in Ahlmann-Eltze et al. (2025).
RIDGE, PCA_DIM = 0.1, 10
# Components with less than this share of the largest are rounding.
_LEAST = 1e-6


def centres(screen: Screen, delta: NDArray[Any], split: Split) -> NDArray[np.float64]:
    """Return the mean delta of the training conditions of each cell type, (n_cell_types, n_genes): the perturbed mean.

    A cell type without training conditions gets the mean over all training conditions.
    """
    overall = delta[split.train].mean(axis=0)
    rows = [split.train & (screen.cell_type == i) for i in range(len(screen.cell_types))]
    return np.stack([delta[own].mean(axis=0) if own.any() else overall for own in rows])


def mean_per_perturbation(screen: Screen, delta: NDArray[Any], split: Split) -> NDArray[np.float64]:
    """Return the mean training delta of the perturbation of each test condition, (n_test, n_genes).

    Only for splits in which every tested perturbation is trained on.
    """
    means = label_means(screen, delta, split)
    return np.asarray(means[screen.label[split.test]])


def label_means(screen: Screen, delta: NDArray[Any], split: Split) -> NDArray[np.float64]:
    """Return the mean training delta of each label, (n_labels, n_genes); NaN where there is none."""
    sums = np.zeros((len(screen.labels), delta.shape[1]))
    np.add.at(sums, screen.label[split.train], delta[split.train])
    n = np.bincount(screen.label[split.train], minlength=len(screen.labels))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(sums / n[:, None])


def reduced(vectors: NDArray[Any], train: NDArray[np.bool_], n_dims: int) -> NDArray[np.float64]:
    """Return principal components of vectors, fitted to some rows alone and scaled to variance 1 in these.

    Parameters
    ----------
    vectors
        (n, d).
    train
        bool (n,): rows that mean, axes and scale are made of.
    n_dims
        At most so many components; fewer where the training rows span fewer.

    Returns
    -------
    numpy.ndarray
        float64 (n, k), k <= n_dims: every P and G in this form has the same scale, so that one ridge means the same
        for all.
    """
    mean = vectors[train].mean(axis=0, dtype=np.float64)
    known = vectors[train] - mean
    # The Gram matrix of the shorter side has the same spectrum, and is small.
    wide = known.shape[1] > known.shape[0]
    values, axes = np.linalg.eigh(known @ known.T if wide else known.T @ known)
    values, axes = values[::-1], axes[:, ::-1]
    k = int(min(n_dims, (values > _LEAST**2 * max(float(values[0]), 1e-300)).sum(), max(len(known) - 1, 1)))
    if wide:
        axes = known.T @ (axes[:, :k] / np.sqrt(values[:k]))
    scale = np.sqrt(values[:k] / len(known))
    return np.asarray((vectors - mean) @ axes[:, :k] / scale, dtype=np.float64)


def expression_components(centred: NDArray[Any], n_dims: int) -> NDArray[np.float64]:
    """Return the training PCA of the genes: their loadings in the deltas of the training conditions.

    Parameters
    ----------
    centred
        (n_train, n_genes) deltas less the centre of their cell type.
    n_dims
        At most so many.

    Returns
    -------
    numpy.ndarray
        float64 (n_genes, k): left singular vectors of the genes × conditions matrix, scaled to a mean square of 1.
    """
    values, sides = np.linalg.eigh(centred @ centred.T)
    values, sides = values[::-1], sides[:, ::-1]
    k = int(min(n_dims, (values > _LEAST**2 * max(float(values[0]), 1e-300)).sum()))
    loadings = centred.T @ (sides[:, :k] / np.sqrt(values[:k]))
    return np.asarray(loadings * np.sqrt(len(loadings)), dtype=np.float64)


def bilinear(
    centred: NDArray[Any], of_genes: NDArray[Any], trained: NDArray[Any], tested: NDArray[Any], ridge: float = RIDGE
) -> NDArray[np.float64]:
    """Fit ``Y ~ G K P`` to centred deltas and predict the centred deltas of test conditions.

    The linear model of Ahlmann-Eltze, Huber and Anders (Nature Methods 2025; code of the paper:
    ``run_linear_pretrained_model.R``): ``K = (G'G + r I)^-1 G' Y P' (P P' + r I)^-1``, with r = 0.1. Differences: Y is
    centred within each cell type (there is one in the paper), and P and G are scaled alike (`reduced`), where the paper
    takes principal components in the scale of the data.

    Parameters
    ----------
    centred
        Y', (n_train, n_genes).
    of_genes
        G, (n_genes, k).
    trained, tested
        P' of the training and of the test conditions, (n_train, l) and (n_test, l).
    ridge
        r.

    Returns
    -------
    numpy.ndarray
        float64 (n_test, n_genes); the centre is to be added.
    """
    left = of_genes.T @ of_genes + ridge * np.eye(of_genes.shape[1])
    right = trained.T @ trained + ridge * np.eye(trained.shape[1])
    core = np.linalg.solve(left, of_genes.T @ (centred.T @ trained))
    core = np.linalg.solve(right, core.T).T
    return np.asarray((tested @ core.T) @ of_genes.T, dtype=np.float64)

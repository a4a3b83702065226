"""Integrations to compare with, made in the same run: PCA, Harmony and BBKNN. Arrays in, arrays out."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from bftembed.errors import BftembedError, examples, require

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Principal components, or fewer where there are fewer cells or genes.
N_COMPONENTS = 50
#: Dimensions of the vectors that are made of BBKNN's graph.
N_GRAPH_DIMENSIONS = 30
FEWEST_FOR_HARMONY, FEWEST_OF_BATCH_FOR_BBKNN = 30, 3


def pca(expression: Any, *, n_components: int = N_COMPONENTS, seed: int = 0) -> NDArray[np.float32]:
    """Return the principal components of log-normalised expression, float32 (n_cells, at most n_components).

    Genes are centred and not scaled, as scib-metrics and scanpy do.

    Parameters
    ----------
    expression
        (n_cells, n_genes), a SciPy sparse matrix or an array.
    n_components
        Wanted components.
    seed
        Of the solver's start.

    Raises
    ------
    BftembedError
        For fewer than two cells or genes, values that are not finite, and expression that is the same in all cells.
    """
    from scipy.sparse import issparse
    from sklearn.decomposition import PCA
    from threadpoolctl import threadpool_limits

    n = min(n_components, min(expression.shape) - 1)
    if n < 1:
        raise BftembedError(f"PCA needs at least two cells and two genes, got a matrix of shape {expression.shape}.")
    values = expression.data if issparse(expression) else np.asarray(expression)
    if not np.isfinite(values).all():
        raise BftembedError(f"{int((~np.isfinite(values)).sum())} values of the expression are NaN or infinite.")
    if not (_largest(expression) + _largest(-expression)).any():
        raise BftembedError("The expression is the same in all cells: it has no principal components.")
    model = PCA(n, svd_solver="arpack", random_state=seed)
    with threadpool_limits(limits=1):  # threads add up in another order each time
        return np.asarray(model.fit_transform(expression), dtype=np.float32)


def _largest(expression: Any) -> NDArray[Any]:
    """Return the largest value of each gene."""
    found = expression.max(axis=0)
    return np.asarray(found.toarray() if hasattr(found, "toarray") else found).ravel()


def harmony(components: NDArray[Any], batches: NDArray[Any], *, seed: int = 0) -> NDArray[np.float32]:
    """Return the components corrected by Harmony (Korsunsky et al. 2019), float32, in their shape.

    Raises
    ------
    BftembedError
        For fewer than two batches, fewer than 30 cells, or when harmonypy (extra ``[scib]``) gives another shape.
    """
    from pandas import DataFrame

    if len(set(batches.tolist())) < 2:
        raise BftembedError("Harmony corrects batches, and there is one only.")
    if len(components) < FEWEST_FOR_HARMONY:
        raise BftembedError(
            f"Harmony clusters cells by thirties: it needs {FEWEST_FOR_HARMONY}, not {len(components)}."
        )
    harmonypy = require("harmonypy", "scib")
    made = harmonypy.run_harmony(
        np.asarray(components, dtype=np.float64),
        DataFrame({"batch": batches}),
        ["batch"],
        random_state=seed,
        verbose=False,
    )
    corrected = np.asarray(made.Z_corr)
    if corrected.shape != components.shape:
        corrected = corrected.T  # before harmonypy 2 the cells were the columns
    if corrected.shape != components.shape:
        raise BftembedError(f"harmonypy gave {made.Z_corr.shape} for components of shape {components.shape}.")
    return np.ascontiguousarray(corrected, dtype=np.float32)


def bbknn(components: NDArray[Any], batches: NDArray[Any], *, seed: int = 0) -> NDArray[np.float32]:
    """Return vectors of BBKNN's graph (Polański et al. 2020), float32 (n_cells, at most 30).

    BBKNN gives a graph and no vectors. These are the graph's leading diffusion components (eigenvectors of the
    symmetrically normalised connectivities but the first, each times its eigenvalue and divided by the root of the
    cell's degree), so that all metrics can be computed; how the paper filled the columns of table 2 is not known.

    Raises
    ------
    BftembedError
        For fewer than two batches, and batches of too few cells.
    """
    from scipy.sparse import diags
    from scipy.sparse.linalg import LinearOperator, eigsh
    from threadpoolctl import threadpool_limits

    if len(set(batches.tolist())) < 2:
        raise BftembedError("BBKNN balances batches, and there is one only.")
    names, sizes = np.unique(batches.astype(str), return_counts=True)
    if sizes.min() < FEWEST_OF_BATCH_FOR_BBKNN:
        small = examples(names[sizes < FEWEST_OF_BATCH_FOR_BBKNN].tolist())
        raise BftembedError(
            f"BBKNN takes {FEWEST_OF_BATCH_FOR_BBKNN} neighbours of each batch; {small} has fewer cells."
        )
    matrix = require("bbknn.matrix", "scib")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _, connectivities, _ = matrix.bbknn(
            np.asarray(components, dtype=np.float32), batches.astype(str), pynndescent_random_state=seed
        )
    graph = connectivities.tocsr().astype(np.float64)
    scale = 1 / np.sqrt(np.maximum(np.asarray(graph.sum(axis=1)).ravel(), 1e-12))
    normalised = diags(scale) @ graph @ diags(scale)
    # The first eigenvector is the density alone. It is taken out by name: where the graph falls into parts, as many
    # eigenvalues are 1, and which of their vectors comes first is left to chance.
    first = 1 / scale / np.linalg.norm(1 / scale)
    rest = LinearOperator(normalised.shape, matvec=lambda x: normalised @ x - first * (first @ x), dtype=np.float64)
    n = min(N_GRAPH_DIMENSIONS, len(components) - 2)
    start = np.random.default_rng(seed).standard_normal(len(components))
    with threadpool_limits(limits=1):
        # The largest, not those of largest size: a negative one pairs cells that are *not* neighbours.
        values, vectors = eigsh(rest, k=n, which="LA", v0=start)
    order = np.argsort(-values)
    vectors = vectors[:, order] * values[order]
    signs = np.sign(vectors[np.abs(vectors).argmax(axis=0), range(vectors.shape[1])])
    return (vectors * signs * scale[:, None]).astype(np.float32)


#: Name → how it is made of principal components and batches; the key in results is ``"baseline: NAME"``.
BASELINES = {"harmony": harmony, "bbknn": bbknn}

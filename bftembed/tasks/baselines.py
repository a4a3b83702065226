"""Integrations to compare with, made in the same run: PCA, Harmony, BBKNN and scVI. Arrays in, arrays out."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import random
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from bftembed.errors import BftembedError, MissingExtraError, examples, require

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

#: Principal components, or fewer where there are fewer cells or genes.
N_COMPONENTS = 50
#: Dimensions of the vectors that are made of BBKNN's graph.
N_GRAPH_DIMENSIONS = 30
FEWEST_FOR_HARMONY, FEWEST_OF_BATCH_FOR_BBKNN = 30, 3
#: Dimensions and layers of scVI, as in scIB.
N_LATENT, N_LAYERS = 30, 2
#: Most variable genes that scVI is given, as in scIB.
N_GENES = 2000


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


def scvi(
    counts: Any,
    batches: NDArray[Any],
    *,
    n_latent: int = N_LATENT,
    n_genes: int = N_GENES,
    max_epochs: int | None = None,
    seed: int = 0,
) -> NDArray[np.float32]:
    """Return the latent means of scVI (Lopez et al. 2018), float32 (n_cells, n_latent).

    As scIB ran it: two layers, a negative binomial, 2,000 variable genes, all cells to train on. On the CPU, in one
    thread, so that equal seeds give equal vectors.

    Parameters
    ----------
    counts
        (n_cells, n_genes), SciPy CSR, raw counts. A cell without any has NaN.
    batches
        Batch of each cell, (n_cells,).
    n_latent
        Dimensions.
    n_genes
        How many genes, the most variable ones (scanpy's, flavour ``seurat``, of log1p of counts per 10,000).
    max_epochs
        Passes over the cells; None for that of scvi-tools, 8 million / n_cells and at most 400.
    seed
        Of the weights and the order of the cells. The random states of the process are as before afterwards.

    Raises
    ------
    BftembedError
        For values that are no counts, fewer than two batches, or fewer than two cells with counts.
    MissingExtraError
        Without scvi-tools, which no extra brings.
    """
    from anndata import AnnData
    from pandas import DataFrame

    values = counts.data
    bad = int((~np.isfinite(values) | (values < 0) | (values != np.floor(values))).sum())
    if bad:
        raise BftembedError(
            f"scVI models counts, and {bad} values are fractions, negative or not finite: logged or scaled values. "
            "Give the raw counts (layer=…, --layer, or --use-raw)."
        )
    if len(set(batches.tolist())) < 2:
        raise BftembedError("scVI corrects batches, and there is one only.")
    has = np.asarray(counts.sum(axis=1)).ravel() > 0
    n = int(has.sum())
    if n < 2:
        raise BftembedError(f"scVI needs cells with counts, and {n} of {len(has)} have any.")
    cells = AnnData(
        counts[has].astype(np.float32),
        obs=DataFrame({"batch": batches[has].astype(str)}).set_axis([str(i) for i in range(n)]),
    )
    if cells.n_vars > n_genes:
        cells = cells[:, _variable(cells, n_genes)].copy()
    size = next(b for b in (128, 127, 126) if n % b != 1)  # no batch of one cell: it has no variance
    with _seeded(seed) as models:
        models.SCVI.setup_anndata(cells, batch_key="batch")
        model = models.SCVI(cells, n_latent=n_latent, n_layers=N_LAYERS, gene_likelihood="nb")
        model.train(
            max_epochs=max_epochs,
            accelerator="cpu",
            devices=1,
            train_size=1.0,
            batch_size=size,
            enable_progress_bar=False,
            enable_model_summary=False,
            logger=False,
        )
        latent = model.get_latent_representation()
    found = np.full((len(has), n_latent), np.nan, dtype=np.float32)
    found[has] = latent
    return found


def _variable(counts: Any, n: int) -> NDArray[np.bool_]:
    """Return which genes vary most, bool (n_genes,), of an AnnData of counts."""
    import scanpy

    logged = counts.copy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scanpy.pp.normalize_total(logged, target_sum=1e4)
        scanpy.pp.log1p(logged)
        scanpy.pp.highly_variable_genes(logged, n_top_genes=n, flavor="seurat")
    return logged.var["highly_variable"].to_numpy(dtype=bool)


def _scvi_models() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module("scvi.model")
    except ModuleNotFoundError as err:
        raise MissingExtraError(
            f"The package {err.name!r} is not installed; the baseline scvi needs scvi-tools, which no extra of "
            "bftembed brings. Install it with: pip install scvi-tools"
        ) from err


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[Any]:
    """Give the models of scvi-tools, drawing from a seed in one thread and silently; leave the process as it was."""
    from threadpoolctl import threadpool_limits

    of_python, of_numpy = random.getstate(), np.random.get_state()  # the import draws numbers, too
    models = _scvi_models()
    import torch

    settings, cudnn = importlib.import_module("scvi").settings, torch.backends.cudnn
    of_scvi, of_cudnn, threads = settings.seed, (cudnn.deterministic, cudnn.benchmark), torch.get_num_threads()
    of_torch = torch.get_rng_state()
    environment = dict(os.environ)
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric", "scvi")]
    levels = [logger.level for logger in loggers]
    try:
        with warnings.catch_warnings(), threadpool_limits(limits=1):
            warnings.simplefilter("ignore")
            for logger in loggers:
                logger.setLevel(logging.ERROR)
            torch.set_num_threads(1)
            settings.seed = seed
            yield models
    finally:
        settings.seed = of_scvi
        random.setstate(of_python)
        np.random.set_state(of_numpy)
        torch.set_rng_state(of_torch)
        cudnn.deterministic, cudnn.benchmark = of_cudnn
        torch.set_num_threads(threads)
        for name in set(os.environ) - set(environment):  # Lightning tells its workers the seed there
            del os.environ[name]
        os.environ.update(environment)
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


#: Name → how it is made of principal components and batches; the key in results is ``"baseline: NAME"``. `scvi` is made
#: of counts.
BASELINES = {"harmony": harmony, "bbknn": bbknn}

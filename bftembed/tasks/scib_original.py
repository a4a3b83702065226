"""The metrics of the original package scib (Luecken et al. 2022), where they work. Arrays in, floats out.

scib takes an AnnData, prints, warns, and gives a number or an unclear error for broken input. Here its functions are
called with what they need and no more, after the checks of `bftembed.metrics.checks`; the numbers are its own. One
thread, so that they do not hang on the machine.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import re
import subprocess
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from bftembed.errors import require
from bftembed.metrics.checks import Undefined, checked_codes, checked_matrix, need_two
from bftembed.metrics.silhouette import NO_MIXED_LABEL

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from types import ModuleType

    from numpy.typing import ArrayLike, NDArray

    Clusterings = Mapping[float, NDArray[np.int64]]

EXTRA = "scib-original"
#: Neighbours of LISI, the cell itself not among them, found on shortest paths.
LISI_NEIGHBOURS = 90
#: Seconds after which scib's program for LISI is stopped.
TIME_LIMIT = 3600.0
# Share of the variance that is nothing: scib computes in float32, whose rounding came to 7e-8.
_NOTHING = 1e-6
#: Why ``kbet`` has no value.
NO_KBET = (
    "kBET of scib is an R program, called by rpy2, which bftembed does not. kbet_per_label of the profile current "
    "needs no R"
)
RECOMPILE = (
    "Recompile it, in the folder knn_graph of the installed package scib: "
    "g++ -std=c++11 -O3 knn_graph.cpp -o knn_graph.o"
)


def load() -> ModuleType:
    """Import scib.

    Raises
    ------
    MissingExtraError
        Without the extra ``scib-original``.
    """
    with warnings.catch_warnings():  # scib sets the filters of the whole process when it is imported
        warnings.simplefilter("ignore")
        return require("scib", EXTRA)


def library() -> str:
    """Return ``"scib 1.1.7"``, with the version that is installed."""
    return f"scib {importlib.metadata.version('scib')}"


@contextlib.contextmanager
def _quiet() -> Iterator[ModuleType]:
    """Give scib for a call in one thread that prints and warns nothing."""
    from sklearn import config_context
    from threadpoolctl import threadpool_limits

    scib = load()
    with (
        contextlib.redirect_stdout(io.StringIO()),
        warnings.catch_warnings(),
        threadpool_limits(limits=1),
        config_context(working_memory=64),  # MB of a tile of distances, else 1 GB
    ):
        warnings.simplefilter("ignore")
        yield scib


def _as_anndata(n_cells: int, *, X: Any = None, graph: Any = None, **columns: NDArray[np.int64]) -> Any:
    """Return what scib takes: codes as text columns without unused levels, the embedding ``X``, the graph."""
    from anndata import AnnData
    from pandas import Categorical, DataFrame

    index = [str(i) for i in range(n_cells)]
    cells = AnnData(obs=DataFrame({k: Categorical(v.astype(str)) for k, v in columns.items()}, index=index))
    if X is not None:
        cells.obsm["X"] = X
    if graph is not None:
        cells.obsp["connectivities"] = graph
        cells.uns["neighbors"] = {
            "connectivities_key": "connectivities",
            "distances_key": "connectivities",
            "params": {"method": "umap"},
        }
    return cells


def silhouette_label(X: ArrayLike, labels: ArrayLike) -> float:
    """Return ``scib.me.silhouette``: the mean silhouette of the cells under their labels, as ``(s + 1) / 2``.

    Parameters
    ----------
    X
        Embedding, shape ``(n_cells, d)``, finite, without all-zero rows.
    labels
        Label of each cell, shape ``(n_cells,)``, none missing.

    Raises
    ------
    ValueError
        For a matrix or labels that are broken; `Undefined` for one label, or one per cell.
    MissingExtraError
        Without the extra ``scib-original``; so do all functions here.
    """
    matrix, codes = _labelled(X, labels)
    with _quiet() as scib:
        return float(scib.me.silhouette(_as_anndata(len(codes), X=matrix, label=codes), "label", "X"))


def _labelled(X: ArrayLike, labels: ArrayLike) -> tuple[NDArray[Any], NDArray[np.int64]]:
    matrix = checked_matrix(X)
    codes = checked_codes(labels, n_cells=len(matrix))
    if need_two(codes, "label", "a silhouette") == len(matrix):
        raise Undefined("Every cell has a label of its own: a silhouette needs a label with two cells.")
    return matrix, codes


def silhouette_batch(X: ArrayLike, labels: ArrayLike, batches: ArrayLike) -> float:
    """Return ``scib.me.silhouette_batch``: ``1 - |s|`` under the batches within each label, the mean over labels.

    Parameters and errors as in `silhouette_label`, and one batch per cell; `Undefined` for one batch, and when no
    label has two batches and more cells than batches.
    """
    matrix = checked_matrix(X)
    of_label = checked_codes(labels, n_cells=len(matrix))
    of_batch = checked_codes(batches, "batches", n_cells=len(matrix))
    need_two(of_batch, "batch", "the silhouette of batches")
    cells = _as_anndata(len(matrix), X=matrix, label=of_label, batch=of_batch)
    with _quiet() as scib:
        found = float(scib.me.silhouette_batch(cells, "batch", "label", "X", verbose=False))
    if np.isnan(found):
        raise Undefined(NO_MIXED_LABEL)
    return found


def isolated_labels_asw(X: ArrayLike, labels: ArrayLike, batches: ArrayLike) -> float:
    """Return ``scib.me.isolated_labels_asw``: ``(s + 1) / 2`` of the labels in the fewest batches, their mean.

    Parameters and errors as in `silhouette_batch`; `Undefined` where every label is in every batch.
    """
    matrix, of_label = _labelled(X, labels)
    of_batch = checked_codes(batches, "batches", n_cells=len(matrix))
    _need_isolated(of_label, of_batch)
    cells = _as_anndata(len(matrix), X=matrix, label=of_label, batch=of_batch)
    with _quiet() as scib:
        return float(scib.me.isolated_labels_asw(cells, "label", "batch", "X", verbose=False))


def _need_isolated(of_label: NDArray[np.int64], of_batch: NDArray[np.int64]) -> None:
    """Raise where scib has no isolated label: it returns NaN then, with a warning that nobody reads."""
    n_batches = need_two(of_batch, "batch", "a score of isolated labels")
    pairs = np.unique(np.stack([of_label, of_batch]), axis=1)
    if np.bincount(pairs[0]).min() == n_batches:
        raise Undefined("Every label is in every batch, so scib counts none as isolated (scib-metrics: all)")


def leiden_clusterings(graph: Any, *, seed: int = 0) -> dict[float, NDArray[np.int64]]:
    """Cluster the cells as scib does: scanpy's Leiden at its ten resolutions, .2 to 2.

    Parameters
    ----------
    graph
        UMAP's connectivities, scipy CSR matrix (n_cells, n_cells); see `bftembed.metrics.leiden.connectivities`.
    seed
        Of Leiden; that of scanpy, and so of scib, is 0.

    Returns
    -------
    dict
        Resolution → cluster of each cell, int64 (n_cells,).
    """
    with _quiet() as scib:
        import scanpy

        cells = _as_anndata(graph.shape[0], graph=graph)
        found = {}
        for resolution in scib.cl.get_resolutions(n=10, max=2):
            scanpy.tl.leiden(cells, resolution=resolution, key_added="cluster", random_state=seed)
            found[resolution] = cells.obs["cluster"].cat.codes.to_numpy(dtype=np.int64)
    return found


def nmi_ari_leiden_best(clusterings: Clusterings, labels: ArrayLike) -> tuple[float, float]:
    """Return ``scib.me.nmi`` and ``scib.me.ari`` at the resolution that ``scib.cl.cluster_optimal_resolution`` picks.

    *It picks by the NMI against the true labels, so both numbers are optimistic.*

    Parameters
    ----------
    clusterings
        From `leiden_clusterings`.
    labels
        Label of each cell, shape ``(n_cells,)``, none missing.

    Raises
    ------
    ValueError
        For broken labels; `Undefined` for one label.
    """
    codes = checked_codes(labels, n_cells=len(next(iter(clusterings.values()))))
    need_two(codes, "label", "a comparison with clusters")
    columns = {f"cluster_{resolution}": found for resolution, found in clusterings.items()}
    cells = _as_anndata(len(codes), label=codes, **columns)
    with _quiet() as scib:
        best, _ = scib.cl.cluster_optimal_resolution(
            cells, "label", "cluster", resolutions=list(clusterings), verbose=False
        )
        # Not "cluster": it is empty where no resolution has an NMI above 0.
        found = f"cluster_{best}"
        return float(scib.me.nmi(cells, found, "label")), float(scib.me.ari(cells, found, "label"))


def isolated_labels_f1(clusterings: Clusterings, labels: ArrayLike, batches: ArrayLike) -> float:
    """Return ``scib.me.isolated_labels_f1``: how well one cluster holds a label in the fewest batches, their mean.

    Parameters and errors as in `nmi_ari_leiden_best` and `isolated_labels_asw`. Per label the cluster and the
    resolution with the highest F1 count.
    """
    of_label = checked_codes(labels, n_cells=len(next(iter(clusterings.values()))))
    of_batch = checked_codes(batches, "batches", n_cells=len(of_label))
    need_two(of_label, "label", "a comparison with clusters")
    _need_isolated(of_label, of_batch)
    columns = {f"iso_label_{resolution}": found for resolution, found in clusterings.items()}
    cells = _as_anndata(len(of_label), label=of_label, batch=of_batch, **columns)
    with _quiet() as scib:
        return float(
            scib.me.isolated_labels_f1(
                cells, "label", "batch", embed=None, resolutions=list(clusterings), verbose=False
            )
        )


def graph_connectivity(graph: Any, labels: ArrayLike) -> float:
    """Return ``scib.me.graph_connectivity``: the share of a label in its largest component, the mean over labels.

    The graph is undirected, so this is higher than `bftembed.metrics.integration.graph_connectivity`.

    Parameters
    ----------
    graph
        As in `leiden_clusterings`.
    labels
        Label of each cell, shape ``(n_cells,)``, none missing.

    Raises
    ------
    ValueError
        For broken labels.
    """
    codes = checked_codes(labels, n_cells=graph.shape[0])
    with _quiet() as scib:
        return float(scib.me.graph_connectivity(_as_anndata(len(codes), graph=graph, label=codes), "label"))


def pcr_comparison(X_pre: ArrayLike, X_post: ArrayLike, batches: ArrayLike) -> float:
    """Return ``scib.me.pcr_comparison``: how much less of the variance the batches explain, in [0, 1].

    Principal components are computed anew of both, at most 50.

    Parameters
    ----------
    X_pre, X_post
        Embeddings of the same cells before and after, shapes ``(n_cells, d)`` and ``(n_cells, e)``, finite.
    batches
        Batch of each cell, shape ``(n_cells,)``, none missing.

    Raises
    ------
    ValueError
        For broken embeddings or batches, or other cells; `Undefined` for one batch, where all cells are identical and
        where the batches explain nothing to begin with.
    """
    matrices = [checked_matrix(X, zero_rows=True) for X in (X_pre, X_post)]
    codes, _ = (checked_codes(batches, "batches", n_cells=len(matrix)) for matrix in matrices)
    need_two(codes, "batch", "PCR comparison")
    if any((matrix == matrix[0]).all() for matrix in matrices):
        raise Undefined("All cells are identical: there is no variance that batches could explain.")
    with _quiet() as scib:
        before, after = (
            float(
                scib.me.pcr(_as_anndata(len(codes), X=matrix, batch=codes), "batch", embed="X", linreg_method="numpy")
            )
            for matrix in matrices
        )
    if before < _NOTHING:
        raise Undefined("The batches explain nothing of the embedding before integration: nothing could be removed.")
    return max(0.0, (before - after) / before)


def clisi(graph: Any, labels: ArrayLike, *, program: Path | None = None) -> float:
    """Return ``scib.me.clisi_graph``, in [0, 1], 1 where labels lie apart: ``(n - median LISI) / (n - 1)``.

    Parameters
    ----------
    graph
        As in `leiden_clusterings`.
    labels
        Label of each cell, shape ``(n_cells,)``, none missing.
    program
        The compiled ``knn_graph.cpp`` of scib; None for the one that scib brings.

    Raises
    ------
    ValueError
        For broken labels; `Undefined` for one label, for fewer than 91 cells, and where the program does not run on
        this machine: the message says how to recompile it.
    """
    codes = checked_codes(labels, n_cells=graph.shape[0])
    n = need_two(codes, "label", "cLISI")
    return (n - _median_lisi(graph, codes, program)) / (n - 1)


def ilisi(graph: Any, batches: ArrayLike, *, program: Path | None = None) -> float:
    """Return ``scib.me.ilisi_graph``, in [0, 1], 1 where batches mix: ``(median LISI - 1) / (n - 1)``, n batches.

    Parameters and errors as in `clisi`.
    """
    codes = checked_codes(batches, "batches", n_cells=graph.shape[0])
    n = need_two(codes, "batch", "iLISI")
    return (_median_lisi(graph, codes, program) - 1) / (n - 1)


def _median_lisi(graph: Any, codes: NDArray[np.int64], program: Path | None) -> float:
    """Run scib's program for the neighbours on shortest paths, then its LISI of them.

    Not by its own ``lisi_graph_py``, which does not look whether the program ran.
    """
    from scipy.io import mmwrite

    if len(codes) <= LISI_NEIGHBOURS:
        raise Undefined(f"{len(codes)} cells are too few for {LISI_NEIGHBOURS} others as neighbours of each")
    path = program or Path(str(load().__file__)).parent / "knn_graph" / "knn_graph.o"
    with tempfile.TemporaryDirectory(prefix="bftembed-") as folder:
        prefix = f"{folder}/lisi"
        mmwrite(f"{prefix}.mtx", graph, symmetry="general")
        command = [str(path), f"{prefix}.mtx", prefix, str(LISI_NEIGHBOURS), "1", "100"]  # one part, all cells
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=TIME_LIMIT, check=False)
        except subprocess.TimeoutExpired as err:
            raise Undefined(f"scib's program knn_graph.o did not end within {TIME_LIMIT:,.0f} seconds") from err
        except OSError as err:
            raise Undefined(f"scib's program knn_graph.o cannot be started ({err.strerror}). {RECOMPILE}") from err
        if done.returncode or not Path(f"{prefix}_distances_0.txt").exists():
            lacking = sorted(set(re.findall(r"version [`']?(GLIBC[\w.]*)", done.stderr)))
            told = f"it needs {', '.join(lacking)}" if lacking else f"exit status {done.returncode}"
            raise Undefined(f"scib's program knn_graph.o does not run on this machine: {told}. {RECOMPILE}")
        with _quiet() as scib:
            simpson = scib.me.lisi.compute_simpson_index_graph(
                prefix, codes, int(codes.max()) + 1, LISI_NEIGHBOURS, LISI_NEIGHBOURS // 3
            )
    return float(np.nanmedian(1 / simpson))


def kbet() -> NoReturn:
    """Raise `Undefined`: kBET of scib is R's."""
    raise Undefined(NO_KBET)

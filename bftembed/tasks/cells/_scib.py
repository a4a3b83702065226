"""Metrics of the package scib (Luecken et al. 2022), computed by its own functions on given neighbors."""

from __future__ import annotations

import contextlib
import functools
import io
import subprocess
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bftembed.errors import require
from bftembed.metrics.checks import TooFew, Unavailable, Undefined, checked_codes, need_two
from bftembed.metrics.clustering import connectivities
from bftembed.metrics.silhouette import NO_MIXED_LABEL

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import ModuleType

    from numpy.typing import NDArray

    from bftembed.metrics.neighbors import Neighbors

#: Neighbors of the graph, the cell itself included, and of LISI, found on shortest paths of it.
GRAPH_NEIGHBORS, LISI_NEIGHBORS = 15, 90
# scib computes shares of variance in float32, with rounding errors of up to 7e-8.
_NO_VARIANCE = 1e-6
_NO_PROGRAM = (
    "scib's program knn_graph.o does not run on this machine. Recompile it in the package's folder knn_graph: "
    "g++ -std=c++11 -O3 knn_graph.cpp -o knn_graph.o"
)


def load() -> ModuleType:
    """Import scib (extra ``scib-original``)."""
    with warnings.catch_warnings():  # it sets the warning filters of the process
        warnings.simplefilter("ignore")
        return require("scib", "scib-original")


@contextlib.contextmanager
def _quiet() -> Iterator[ModuleType]:
    """Give scib in one thread, so that values do not depend on the machine, without its output and warnings."""
    from sklearn import config_context
    from threadpoolctl import threadpool_limits

    scib = load()
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings(), threadpool_limits(limits=1):
        warnings.simplefilter("ignore")
        with config_context(working_memory=64):  # MB per block of distances; the default is 1 GB
            yield scib


class Scib:
    """The metrics of scib for one embedding: its matrix, labels, batches, and a function for k nearest neighbors."""

    def __init__(
        self,
        matrix: NDArray[Any],
        labels: NDArray[Any],
        batches: NDArray[Any],
        neighbors: Callable[[int], Neighbors],
    ) -> None:
        self.matrix, self._neighbors = matrix, neighbors
        self.labels, self.batches = checked_codes(labels), checked_codes(batches)

    def _cells(self, *, X: Any = None, graph: Any = None, **columns: NDArray[np.int64]) -> Any:
        """Return an AnnData with the labels and batches, and what else a function of scib needs."""
        from anndata import AnnData
        from pandas import Categorical, DataFrame

        codes = {"label": self.labels, "batch": self.batches, **columns}
        obs = DataFrame({name: Categorical(x.astype(str)) for name, x in codes.items()})
        cells = AnnData(obs=obs.set_axis(obs.index.astype(str)))
        if X is not None:
            cells.obsm["X"] = X
        if graph is not None:
            cells.obsp["connectivities"] = graph
            keys = {"connectivities_key": "connectivities", "distances_key": "connectivities"}
            cells.uns["neighbors"] = {**keys, "params": {"method": "umap"}}
        return cells

    @functools.cached_property
    def graph(self) -> Any:
        return connectivities(self._neighbors(GRAPH_NEIGHBORS))

    @functools.cached_property
    def clusterings(self) -> dict[float, NDArray[np.int64]]:
        """Resolution → Leiden cluster of each cell: scanpy's, seed 0, at the ten resolutions of scib."""
        with _quiet() as scib:
            import scanpy

            cells, found = self._cells(graph=self.graph), {}
            for resolution in scib.cl.get_resolutions(n=10, max=2):
                scanpy.tl.leiden(cells, resolution=resolution, key_added="cluster", random_state=0)
                found[resolution] = cells.obs["cluster"].cat.codes.to_numpy(dtype=np.int64)
        return found

    @functools.cached_property
    def best(self) -> tuple[float, float]:
        """NMI and ARI at the resolution whose NMI to the labels is highest: optimistic."""
        need_two(self.labels, "label", "a comparison with clusters")
        cells, options = self._with_clusters("cluster")
        with _quiet() as scib:
            found, _ = scib.cl.cluster_optimal_resolution(cells, "label", "cluster", **options)
            # Not the column "cluster": it is empty where no resolution has an NMI above 0.
            best = f"cluster_{found}"
            return float(scib.me.nmi(cells, best, "label")), float(scib.me.ari(cells, best, "label"))

    @staticmethod
    def _score(metric: str, cells: Any, *columns: str, **options: Any) -> float:
        with _quiet() as scib:
            return float(getattr(scib.me, metric)(cells, *columns, **options))

    def _with_clusters(self, name: str) -> tuple[Any, dict[str, Any]]:
        cells = self._cells(**{f"{name}_{r}": clusters for r, clusters in self.clusterings.items()})
        return cells, {"resolutions": list(self.clusterings), "verbose": False}

    def isolated_labels_f1(self) -> float:
        need_two(self.labels, "label", "a comparison with clusters")
        self._need_isolated()
        cells, options = self._with_clusters("iso_label")
        return self._score("isolated_labels_f1", cells, "label", "batch", embed=None, **options)

    def isolated_labels_asw(self) -> float:
        self._need_groups()
        self._need_isolated()
        return self._score("isolated_labels_asw", self._cells(X=self.matrix), "label", "batch", "X", verbose=False)

    def silhouette_label(self) -> float:
        self._need_groups()
        return self._score("silhouette", self._cells(X=self.matrix), "label", "X")

    def silhouette_batch(self) -> float:
        need_two(self.batches, "batch", "the silhouette of batches")
        found = self._score("silhouette_batch", self._cells(X=self.matrix), "batch", "label", "X", verbose=False)
        if np.isnan(found):
            raise Undefined(NO_MIXED_LABEL)
        return found

    def graph_connectivity(self) -> float:
        return self._score("graph_connectivity", self._cells(graph=self.graph), "label")

    def pcr_comparison(self, before: NDArray[Any], after: NDArray[Any], _: object) -> float:
        need_two(self.batches, "batch", "PCR comparison")
        options = {"embed": "X", "linreg_method": "numpy"}
        old, new = (self._score("pcr", self._cells(X=x), "batch", **options) for x in (before, after))
        if not old > _NO_VARIANCE:  # NaN for a constant embedding
            raise Undefined("The batches explain no variance of the embedding before the integration.")
        return max(0.0, (old - new) / old)

    def clisi(self) -> float:
        n = need_two(self.labels, "label", "cLISI")
        return (n - self._median_lisi(self.labels)) / (n - 1)

    def ilisi(self) -> float:
        n = need_two(self.batches, "batch", "iLISI")
        return (self._median_lisi(self.batches) - 1) / (n - 1)

    def kbet(self) -> float:
        raise Unavailable("kBET of scib is an R program; kbet_per_label of the profile current needs no R")

    def _need_groups(self) -> None:
        if need_two(self.labels, "label", "a silhouette") == len(self.labels):
            raise Undefined("Each cell has a label of its own: a silhouette needs a label with two cells.")

    def _need_isolated(self) -> None:
        n_batches = need_two(self.batches, "batch", "a score of isolated labels")
        pairs = np.unique(np.stack([self.labels, self.batches]), axis=1)
        if np.bincount(pairs[0]).min() == n_batches:  # scib returns NaN
            raise Undefined("Every label is in every batch, so scib counts none as isolated")

    def _median_lisi(self, codes: NDArray[np.int64]) -> float:
        """Run scib's program for neighbors on shortest paths, then its LISI; its wrapper ignores a failed program."""
        from scipy.io import mmwrite

        if len(codes) <= LISI_NEIGHBORS:
            raise TooFew(f"{len(codes)} cells are too few for {LISI_NEIGHBORS} others as neighbors of each")
        with tempfile.TemporaryDirectory(prefix="bftembed-") as folder, _quiet() as scib:
            prefix = f"{folder}/lisi"
            mmwrite(f"{prefix}.mtx", self.graph, symmetry="general")
            program = Path(str(scib.__file__)).parent / "knn_graph" / "knn_graph.o"
            command = [str(program), f"{prefix}.mtx", prefix, str(LISI_NEIGHBORS), "1", "100"]  # one part, all cells
            sizes = int(codes.max()) + 1, LISI_NEIGHBORS, LISI_NEIGHBORS // 3
            try:
                subprocess.run(command, capture_output=True, check=True)
                simpson = scib.me.lisi.compute_simpson_index_graph(prefix, codes, *sizes)
            except (OSError, subprocess.CalledProcessError) as err:  # it may also end well and write nothing
                raise Unavailable(_NO_PROGRAM) from err
        return float(np.nanmedian(1 / simpson))

"""The profiles of the integration task: which metrics each is made of, and how each is computed from shared parts."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bftembed._version import __version__
from bftembed.errors import require
from bftembed.metrics import integration as scib
from bftembed.metrics.bras import bras
from bftembed.metrics.checks import Undefined
from bftembed.metrics.leiden import connectivities
from bftembed.metrics.neighbours import EXACT_UP_TO, Neighbours, nearest_neighbours
from bftembed.metrics.silhouette import isolated_labels, silhouette_batch, silhouette_label, silhouette_samples
from bftembed.tasks import scib_original as original

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy as np
    from numpy.typing import NDArray

#: Neighbours, the cell itself included, of LISI, kBET and graph connectivity (and of the graph of the original scib).
LISI_NEIGHBOURS, KBET_NEIGHBOURS, GRAPH_NEIGHBOURS = 90, 50, 15
#: Made by k-means, once per seed.
NMI, ARI = "nmi_ari_cluster_labels_kmeans_nmi", "nmi_ari_cluster_labels_kmeans_ari"


@dataclass(frozen=True, eq=False)
class Cells:
    """One embedding of the cells that are scored, with what several metrics share.

    Attributes
    ----------
    matrix
        (n_cells, d).
    labels, batches
        (n_cells,), none missing.
    before, before_note
        Embedding from before the integration (n_cells, e), and what it is; or None, and why there is none.
    """

    matrix: NDArray[Any]
    labels: NDArray[Any]
    batches: NDArray[Any]
    before: NDArray[Any] | None
    before_note: str

    def near(self, k: int) -> Neighbours:
        """Return the `k` nearest neighbours; `Undefined` for fewer cells."""
        if len(self.matrix) < k:
            raise Undefined(f"{len(self.matrix)} cells are too few for {k} neighbours of each, itself included")
        return self._neighbours.subset(k)

    @functools.cached_property
    def _neighbours(self) -> Neighbours:
        return nearest_neighbours(self.matrix, min(LISI_NEIGHBOURS, len(self.matrix)))

    @functools.cached_property
    def silhouettes(self) -> NDArray[np.float64]:
        """The silhouette of each cell under its label."""
        return silhouette_samples(self.matrix, self.labels)

    @functools.cached_property
    def lisi_weights(self) -> NDArray[np.float32]:
        """How much each neighbour counts in LISI."""
        return scib.lisi_weights(self.near(LISI_NEIGHBOURS))

    @functools.cached_property
    def graph(self) -> Any:
        """UMAP's connectivities."""
        return connectivities(self.near(GRAPH_NEIGHBOURS))

    @functools.cached_property
    def clusterings(self) -> dict[float, NDArray[np.int64]]:
        """Leiden's clusters, as the original scib makes them."""
        return original.leiden_clusterings(self.graph)

    def pcr(self, compare: Callable[..., float]) -> float:
        """Return a PCR comparison; `Undefined` without an embedding from before."""
        if self.before is None:
            raise Undefined(self.before_note or "no embedding from before the integration was given to compare with")
        return compare(self.before, self.matrix, self.batches)


@dataclass(frozen=True, eq=False)
class Profile:
    """Which metrics a score is made of.

    Attributes
    ----------
    bio, batch
        Names of metrics, as the library has them.
    compute
        Name → how it is computed; k-means, with its seeds, is not among them.
    made_by
        Name, cells → library, version and neighbours, for the note of the row.
    load
        Imports what the profile needs, or raises `MissingExtraError`.
    memory
        Bytes per cell above those of the profile ``current``, measured.
    """

    bio: tuple[str, ...]
    batch: tuple[str, ...]
    compute: Mapping[str, Callable[[Cells], float]]
    made_by: Callable[[str, Cells], str]
    load: Callable[[], object]
    memory: int = 0


_METRICS: dict[str, Callable[[Cells], float]] = {
    "isolated_labels": lambda c: isolated_labels(c.matrix, c.labels, c.batches, samples=c.silhouettes),
    "silhouette_label": lambda c: silhouette_label(c.matrix, c.labels, samples=c.silhouettes),
    "silhouette_batch": lambda c: silhouette_batch(c.matrix, c.labels, c.batches),
    "bras": lambda c: bras(c.matrix, c.labels, c.batches),
    "clisi_knn": lambda c: scib.clisi(c.near(LISI_NEIGHBOURS), c.labels, weights=c.lisi_weights),
    "ilisi_knn": lambda c: scib.ilisi(c.near(LISI_NEIGHBOURS), c.batches, weights=c.lisi_weights),
    "graph_connectivity": lambda c: scib.graph_connectivity(c.near(GRAPH_NEIGHBOURS), c.labels),
    "kbet_per_label": lambda c: scib.kbet(c.near(KBET_NEIGHBOURS), c.labels, c.batches),
    "pcr_comparison": lambda c: c.pcr(scib.pcr_comparison),
}
_ORIGINAL: dict[str, Callable[[Cells], float]] = {
    "isolated_labels_f1": lambda c: original.isolated_labels_f1(c.clusterings, c.labels, c.batches),
    "isolated_labels_asw": lambda c: original.isolated_labels_asw(c.matrix, c.labels, c.batches),
    "nmi_leiden_best": lambda c: original.nmi_ari_leiden_best(c.clusterings, c.labels)[0],
    "ari_leiden_best": lambda c: original.nmi_ari_leiden_best(c.clusterings, c.labels)[1],
    "silhouette_label": lambda c: original.silhouette_label(c.matrix, c.labels),
    "clisi_graph": lambda c: original.clisi(c.graph, c.labels),
    "silhouette_batch": lambda c: original.silhouette_batch(c.matrix, c.labels, c.batches),
    "ilisi_graph": lambda c: original.ilisi(c.graph, c.batches),
    "kbet": lambda _: original.kbet(),
    "graph_connectivity": lambda c: original.graph_connectivity(c.graph, c.labels),
    "pcr_comparison": lambda c: c.pcr(original.pcr_comparison),
}
_OF_LEIDEN = ("isolated_labels_f1", "nmi_leiden_best", "ari_leiden_best")
_NEIGHBOURS_OF = {
    "clisi_knn": LISI_NEIGHBOURS,
    "ilisi_knn": LISI_NEIGHBOURS,
    "kbet_per_label": KBET_NEIGHBOURS,
    "graph_connectivity": GRAPH_NEIGHBOURS,
    **dict.fromkeys((*_OF_LEIDEN, "clisi_graph", "ilisi_graph"), GRAPH_NEIGHBOURS),
}


def _by_us(metric: str, cells: Cells) -> str:
    return _note(f"bftembed {__version__}", metric, cells)


def _by_scib(metric: str, cells: Cells) -> str:
    seed = ", Leiden's seed 0" if metric in _OF_LEIDEN else ""
    return _note(original.library(), metric, cells) + seed


def _note(library: str, metric: str, cells: Cells) -> str:
    k = _NEIGHBOURS_OF.get(metric)
    if k:
        return f"{library}, {k} {'exact' if len(cells.matrix) <= EXACT_UP_TO else 'approximate'} neighbours"
    before = metric == "pcr_comparison" and cells.before_note
    return f"{library}, before: {cells.before_note}" if before else library


_BIO = ("isolated_labels", NMI, ARI, "silhouette_label", "clisi_knn")
_REST = ("ilisi_knn", "kbet_per_label", "graph_connectivity", "pcr_comparison")
_ours = functools.partial(
    Profile, compute=_METRICS, made_by=_by_us, load=functools.partial(require, "scib_metrics.utils", "scib")
)
#: ``current`` is what scib-metrics shows today; ``paper`` has the older batch silhouette, as table 2 of the paper;
#: ``scib`` is the original package, but for its metrics of cell cycles, variable genes and trajectories.
PROFILES = {
    "current": _ours(_BIO, ("bras", *_REST)),
    "paper": _ours(_BIO, ("silhouette_batch", *_REST)),
    "scib": Profile(
        (*_OF_LEIDEN, "isolated_labels_asw", "silhouette_label", "clisi_graph"),
        ("silhouette_batch", "ilisi_graph", "kbet", "graph_connectivity", "pcr_comparison"),
        compute=_ORIGINAL,
        made_by=_by_scib,
        load=original.load,
        memory=8_000,
    ),
}

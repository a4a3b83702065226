"""Baselines made in the run: of the expression (PCA, Harmony, BBKNN) and of gene vectors that know less."""

from __future__ import annotations

import functools
import os
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bftembed.cells.pipeline import Aggregation, vectors_of
from bftembed.embeddings import GeneEmbeddings, embed_genes
from bftembed.entities.genes import GeneIndex
from bftembed.errors import BftembedError, examples, require, unknown_name
from bftembed.expression.matrix import Compressed
from bftembed.expression.source import open_expression
from bftembed.machine import available_memory
from bftembed.tasks.data import ENCODER, listed, missing_label

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    import anndata
    from numpy.typing import NDArray

    from bftembed.expression.source import Expression

Texts = str | os.PathLike[str] | Mapping[str, str]

#: Baseline → its kind in the results (`bftembed.report.table.KINDS`).
KIND_OF = {
    **dict.fromkeys(("pca", "harmony", "bbknn", "ncbi"), "reference"),
    **{"random": "random", "shuffled": "shuffled", "tfidf": "baseline", "symbol": "baseline"},
}
#: Made of the principal components of the expression; the last two correct batches.
OF_COMPONENTS = ("pca", "harmony", "bbknn")
# Gene vectors, aggregated as the scored embedding was; of the first two there may be several draws: ``random:5``.
_OF_GENES = ("random", "shuffled", "tfidf", "symbol", "ncbi")
_DRAWN = ("random", "shuffled")
# The summaries that GenePT encoded.
_NCBI = "dataset:refseq-summaries"
# Dimensions of random gene vectors where no embedding states its own.
_N_RANDOM_DIMENSIONS = 384
# Principal components, or fewer where there are fewer cells or genes.
_N_COMPONENTS = 50
# Dimensions of the vectors that are made of BBKNN's graph.
_N_GRAPH_DIMENSIONS = 30
_MIN_CELLS_HARMONY, _MIN_BATCH_BBKNN = 30, 3


def pca(expression: Any, *, n_components: int = _N_COMPONENTS, seed: int = 0) -> NDArray[np.float32]:
    """Return the principal components of log-normalized expression, float32 (n_cells, at most n_components).

    Of a SciPy sparse matrix or an array. Genes are centered and not scaled, as scib-metrics and scanpy do. Raises
    `BftembedError` for values that are not finite, and for expression without components.
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
    if not abs(expression.max(axis=0) - expression.min(axis=0)).sum():
        raise BftembedError("The expression is the same in all cells: it has no principal components.")
    model = PCA(n, svd_solver="arpack", random_state=seed)
    with threadpool_limits(limits=1):  # threads add up in another order each time
        return np.asarray(model.fit_transform(expression), dtype=np.float32)


def harmony(components: NDArray[Any], batches: NDArray[Any], *, seed: int = 0) -> NDArray[np.float32]:
    """Return the components corrected by Harmony (Korsunsky et al. 2019), float32, in their shape."""
    from pandas import DataFrame

    if len(set(batches.tolist())) < 2:
        raise BftembedError("Harmony corrects batches, and there is one only.")
    if len(components) < _MIN_CELLS_HARMONY:
        raise BftembedError(
            f"Harmony clusters cells by thirties: it needs {_MIN_CELLS_HARMONY}, not {len(components)}."
        )
    harmonypy = require("harmonypy", "scib")
    batch, given = DataFrame({"batch": batches}), np.asarray(components, dtype=np.float64)
    made = harmonypy.run_harmony(given, batch, ["batch"], random_state=seed, verbose=False)
    corrected = np.asarray(made.Z_corr)
    if corrected.shape != components.shape:
        corrected = corrected.T  # before harmonypy 2 the cells were the columns
    return np.ascontiguousarray(corrected, dtype=np.float32)


def bbknn(components: NDArray[Any], batches: NDArray[Any], *, seed: int = 0) -> NDArray[np.float32]:
    """Return vectors of BBKNN's graph (Polański et al. 2020), float32 (n_cells, at most 30).

    BBKNN gives a graph and no vectors. These are the graph's leading diffusion components (eigenvectors of the
    symmetrically normalized connectivities but the first, each times its eigenvalue and divided by the root of the
    cell's degree), so that all metrics can be computed; how the paper filled the columns of table 2 is not known.
    """
    from scipy.sparse import diags
    from scipy.sparse.linalg import LinearOperator, eigsh
    from threadpoolctl import threadpool_limits

    if len(set(batches.tolist())) < 2:
        raise BftembedError("BBKNN balances batches, and there is one only.")
    names, sizes = np.unique(batches.astype(str), return_counts=True)
    if sizes.min() < _MIN_BATCH_BBKNN:
        small = examples(names[sizes < _MIN_BATCH_BBKNN].tolist())
        raise BftembedError(f"BBKNN takes {_MIN_BATCH_BBKNN} neighbors of each batch; {small} has fewer cells.")
    matrix = require("bbknn.matrix", "scib")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _, connectivities, _ = matrix.bbknn(
            np.asarray(components, dtype=np.float32), batches.astype(str), pynndescent_random_state=seed
        )
    graph = connectivities.tocsr().astype(np.float64)
    scale = 1 / np.sqrt(np.maximum(np.asarray(graph.sum(axis=1)).ravel(), 1e-12))
    normalized = diags(scale) @ graph @ diags(scale)
    # The first eigenvector is the density alone. It is taken out by name: where the graph falls into parts, as many
    # eigenvalues are 1, and which of their vectors comes first is left to chance.
    first = 1 / scale / np.linalg.norm(1 / scale)
    rest = LinearOperator(normalized.shape, matvec=lambda x: normalized @ x - first * (first @ x), dtype=np.float64)
    n = min(_N_GRAPH_DIMENSIONS, len(components) - 2)
    start = np.random.default_rng(seed).standard_normal(len(components))
    with threadpool_limits(limits=1):
        # The largest, not those of largest size: a negative one pairs cells that are *not* neighbors.
        values, vectors = eigsh(rest, k=n, which="LA", v0=start)
    order = np.argsort(-values)
    vectors = vectors[:, order] * values[order]
    signs = np.sign(vectors[np.abs(vectors).argmax(axis=0), range(vectors.shape[1])])
    return (vectors * signs * scale[:, None]).astype(np.float32)


#: Baseline → function of principal components and batches.
OF_BATCHES = {"harmony": harmony, "bbknn": bbknn}


@dataclass(frozen=True, eq=False)
class Baseline:
    """An embedding made in the run: its name, float32 (n_cells, d), its kind in the results, and how it was made."""

    name: str
    vectors: NDArray[Any]
    kind: str
    note: str


def parse_baselines(names: str | Iterable[str]) -> dict[str, int]:
    """Return baseline → number of draws, of names or one text of names separated by commas: ``"pca,random:3"``."""
    found: dict[str, int] = {}
    for text in listed(names):
        name, _, draws = text.partition(":")
        if name not in KIND_OF:
            raise unknown_name("baseline", name, list(KIND_OF))
        if draws and (name not in _DRAWN or not re.fullmatch(r"[1-9]\d?", draws)):
            raise BftembedError(
                f"The baseline {text!r} is not known. Only {' and '.join(_DRAWN)} take draws: random:5."
            )
        found[name] = int(draws or 1)
    return found


def random_vectors(genes: Iterable[str], dim: int, seed: int) -> GeneEmbeddings:
    """Return a Gaussian vector for each gene, float32 (n_genes, dim), the same in every list and order of genes."""
    return embed_genes({gene: gene for gene in sorted(set(genes))}, f"random:dim={dim},seed={seed}")


def shuffled_vectors(embeddings: GeneEmbeddings, seed: int) -> GeneEmbeddings:
    """Return the vectors of `embeddings`, permuted over its genes."""
    order = np.random.default_rng(seed).permutation(len(embeddings))
    return GeneEmbeddings(embeddings.ids, embeddings.matrix[order], {"shuffled": seed, "of": embeddings.provenance})


class CellBaselines:
    """Baselines of the cells of one AnnData or file, whose expression is read once.

    Of ``.X``, or `layer` or ``.raw``; gene vectors are aggregated over the matrix of the scored embedding. `batches`,
    (n_cells,), are for Harmony and BBKNN; a cell without one has NaN in these.
    """

    def __init__(
        self,
        data: anndata.AnnData | str | os.PathLike[str],
        names: Mapping[str, int],
        *,
        layer: str | None = None,
        use_raw: bool = False,
        batches: NDArray[Any] | None = None,
    ) -> None:
        self.data, self.names, self.batches = data, names, batches
        self.choice: dict[str, Any] = {"layer": layer, "use_raw": use_raw}
        self._read: dict[Any, tuple[Any, Expression]] = {}

    def _expression(self, choice: Mapping[str, Any]) -> tuple[Any, Expression]:
        """Return a matrix of the data, SciPy CSR, and the same as an open expression; each is read once."""
        key = tuple(sorted(choice.items(), key=str))
        if key not in self._read:
            with open_expression(self.data, **choice) as expression:
                matrix = whole_matrix(expression)
            memory = Compressed.from_scipy(matrix, expression.where)
            self._read[key] = matrix, replace(expression, matrix=memory)
        return self._read[key]

    @functools.cached_property
    def components(self) -> tuple[NDArray[np.float32], str]:
        """Principal components of the log-normalized expression, float32 (n_cells, at most 50), and how they were made.

        Counts are turned into log1p of counts per 10,000, logged values are taken as they are.
        """
        matrix, expression = self._expression(self.choice)
        logged, reason = _log_counts(matrix, expression)
        others = expression.n_other_features
        left_out = f", {others} features of another type left out" if others else ""
        return pca(logged), f"principal components of {expression.name}, {reason}{left_out}"

    def of_expression(self) -> list[Baseline]:
        """Return PCA, Harmony and BBKNN, those that were named."""
        found = []
        for name in (n for n in OF_COMPONENTS if n in self.names):
            if name == "pca":
                found.append(Baseline(name, self.components[0], KIND_OF[name], self.components[1]))
                continue
            if self.batches is None:
                raise BftembedError(f"The baseline {name!r} integrates batches, and this benchmark has none.")
            has = np.array([not missing_label(b) for b in self.batches], dtype=bool)
            vectors = OF_BATCHES[name](self.components[0][has], np.array([str(b) for b in self.batches[has]]))
            whole = np.full((len(has), vectors.shape[1]), np.nan, dtype=np.float32)
            whole[has] = vectors
            found.append(Baseline(name, whole, KIND_OF[name], f"{name} of the {self.components[1]}"))
        return found

    def of_genes(
        self,
        keys: Sequence[str],
        *,
        texts: Texts | None = None,
        genes: GeneEmbeddings | str | os.PathLike[str] | None = None,
        encoder: str = ENCODER,
    ) -> list[Baseline]:
        """Return random, shuffled, TF-IDF, symbol and NCBI gene vectors, those that were named, aggregated to cells.

        The first of the scored embeddings, `keys`, with a provenance (``.uns["bftembed"][KEY]``) decides how they are
        aggregated, and over which matrix; without one the defaults of `embed_cells` hold. `texts` are for ``tfidf``;
        where they are given, ``random`` and ``symbol`` have vectors for the same genes only. `genes` are for
        ``shuffled``, `encoder` for ``ncbi`` (as GenePT's) and ``symbol``.
        """
        wanted = [name for name in _OF_GENES if name in self.names]
        if "tfidf" in wanted and texts is None:
            raise BftembedError("The baseline 'tfidf' needs texts (texts=…, --texts).")
        if genes is None and "shuffled" in wanted:
            raise BftembedError("The baseline 'shuffled' needs gene embeddings (genes=…, --genes).")
        if not wanted:
            return []
        scored = genes if genes is not None else ""
        how, choice, dim = _like(self.data, keys) or (Aggregation(), self.choice, _N_RANDOM_DIMENSIONS)
        of_texts, found = {} if texts is None else dict(read_texts(texts)), []
        with open_expression(self.data, **choice) as stored:
            # A matrix that does not fit into memory is streamed once per set of gene vectors.
            expression = stored if _shortage_of(stored) else self._expression(choice)[1]
            resolved = (r.symbol for r in GeneIndex.default().resolve(list(expression.genes)) if r.symbol)
            symbols = list(dict.fromkeys(resolved if texts is None else of_texts))
            make: dict[str, tuple[str, Callable[[int], GeneEmbeddings]]] = {
                "random": (f"Gaussian vectors, {dim} dimensions", lambda draw: random_vectors(symbols, dim, draw)),
                "shuffled": ("vectors of other genes", lambda draw: shuffled_vectors(GeneEmbeddings.of(scored), draw)),
                "tfidf": ("TF-IDF of the texts", lambda _: embed_genes(of_texts, "tfidf")),
                "symbol": (f"symbols by {encoder}", lambda _: embed_genes({s: s for s in symbols}, encoder)),
                "ncbi": (f"RefSeq summaries by {encoder}", lambda _: _ncbi(encoder)),
            }
            for name, draw in ((baseline, draw) for baseline in wanted for draw in range(self.names[baseline])):
                note, vectors = make[name]
                of_cells, report = vectors_of(expression, vectors(draw), how)
                matched = f"{report.n_matched:,} of {report.n_genes:,} genes"
                note = f"{note}, {matched}, aggregated by {replace(how, normalize=report.normalize)}"
                numbered = f"{name} {draw + 1}" if self.names[name] > 1 else name
                found.append(Baseline(numbered, of_cells, KIND_OF[name], note))
        return found


@functools.lru_cache(maxsize=1)
def _ncbi(encoder: str) -> GeneEmbeddings:
    return embed_genes(dict(read_texts(_NCBI)), encoder)


def _like(data: Any, keys: Sequence[str]) -> tuple[Aggregation, dict[str, Any], int] | None:
    """Return how the first embedding with a provenance was made: aggregation, matrix, dimensions of genes."""
    told = next(filter(None, (provenance_of(data, key) for key in keys)), None)
    if told is None:
        return None
    names = ("kind", "normalize", "weights", "gene_matrix", "denominator")
    given = {name: told[name] for name in names if name in told}
    how = Aggregation(**given, top_k=int(told.get("top_k", 0)) or None, l2=bool(told.get("l2", True)))
    slot, _, name = str(told.get("matrix", "X")).partition("/")
    choice: dict[str, Any] = {"gene_column": told.get("gene_column") or None, "kind": how.kind}
    choice |= {"use_raw": slot == "raw", "layer": name if slot == "layers" else None}
    choice |= {"obsm": name} if slot == "obsm" else {}
    # Of a whitened matrix the cells have fewer dimensions than the genes.
    whitened = how.gene_matrix.startswith("whiten")
    return how, choice, _N_RANDOM_DIMENSIONS if whitened else int(told.get("dim", _N_RANDOM_DIMENSIONS))


def provenance_of(data: Any, key: str) -> dict[str, Any]:
    """Return the single values of ``.uns["bftembed"][key]``, or nothing."""
    from bftembed.cells.output import UNS
    from bftembed.hdf5 import as_text, is_array, is_group, open_h5ad

    if not isinstance(data, (str, os.PathLike)):
        entry = data.uns.get(UNS, {})
        return dict(entry[key]) if hasattr(entry, "keys") and hasattr(entry.get(key), "keys") else {}
    with open_h5ad(Path(data)) as handle:
        group = handle.get(f"uns/{UNS}/{key}")
        if not is_group(group):
            return {}
        values = {name: group[name][()] for name in group if is_array(group[name]) and group[name].shape == ()}
        return {name: as_text([v])[0] if isinstance(v, (bytes, str)) else v for name, v in values.items()}


def whole_matrix(expression: Expression) -> Any:
    """Return the whole matrix, SciPy CSR (n_cells, n_genes); an error where it does not fit into memory."""
    from scipy.sparse import vstack

    if message := _shortage_of(expression):
        raise BftembedError(message)
    return vstack([rows.to_csr(expression.n_genes) for rows in expression.matrix.rows(4096)], format="csr")


def _shortage_of(expression: Expression) -> str:
    """Return why the matrix does not fit into memory, or ``""``; it is there twice while it is put together."""
    needed, free = 2 * 12 * expression.matrix.n_values, available_memory()
    if free is None or needed <= free:
        return ""
    return f"{expression.where} needs {needed / 1e9:.1f} GB of memory, {free / 1e9:.1f} GB are free: sample the cells."


def _log_counts(matrix: Any, expression: Expression) -> tuple[Any, str]:
    """Return log1p of counts per 10,000 of counts, logged values as they are, and which of the two."""
    from bftembed.expression.normalize import examined, log_cp10k

    decision = examined(expression)[1]
    if decision.normalize == "log1p-cp10k":
        logged = type(matrix)((matrix.data.copy(), matrix.indices, matrix.indptr), matrix.shape)
        log_cp10k(logged)
        return logged, f"log1p of counts per 10,000 ({decision.reason})"
    return matrix, decision.reason


def read_texts(source: Texts, allow_marks: Sequence[str] = ()) -> Mapping[str, str]:
    """Return gene → text.

    Of a mapping, which is returned; ``"dataset:NAME"``; a table of gene and text (``.tsv``, ``.csv``, ``.txt``); else a
    profile store or its Parquet, where `allow_marks` are the marks of screening that do not exclude a profile.
    """
    from bftembed.datasets import load
    from bftembed.profiles.generate import read_context
    from bftembed.profiles.selection import select_profiles

    if isinstance(source, Mapping):
        return source
    text = str(source)
    if text.startswith("dataset:"):
        found = load(text.removeprefix("dataset:"))
        if not isinstance(found, dict) or not all(isinstance(t, str) for t in found.values()):
            raise BftembedError(f"{text} is not a set of texts. Known ones: refseq-summaries, geneagent-descriptions.")
        return found
    if Path(text).suffix.lower() in (".tsv", ".csv", ".txt"):
        return read_context(text)
    return select_profiles(text, allow_marks=allow_marks).texts

"""Embeddings to compare with, made in the run: of the expression alone, and of gene vectors that know less."""

from __future__ import annotations

import functools
import os
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bftembed.bench.expression import matrix_of, opened
from bftembed.bench.texts import read_texts
from bftembed.cells.vectors import Aggregation, cell_vectors
from bftembed.errors import BftembedError, unknown_name
from bftembed.results import BASELINE
from bftembed.tasks.usable import missing_label

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import anndata
    from numpy.typing import NDArray

    from bftembed.bench.texts import Texts
    from bftembed.embeddings import GeneEmbeddings
    from bftembed.results import Result

#: Made of the principal components of the expression; the last two need batches.
OF_EXPRESSION = ("pca", "harmony", "bbknn")
#: Made of counts.
SCVI = "scvi"
#: Gene vectors, aggregated as the scored embedding was; of `DRAWN` there may be several draws: ``random:5``.
OF_GENES = ("random", "shuffled", "tfidf", "ncbi")
DRAWN = ("random", "shuffled")
#: What GenePT encoded.
NCBI = "dataset:refseq-summaries"
#: Dimensions of random gene vectors where no embedding says its own.
N_RANDOM_DIMENSIONS = 384
ENCODER = "builtin:all-minilm-l6-v2"


@dataclass
class Baselines:
    """Embeddings made in the run.

    Attributes
    ----------
    vectors
        Name, ``"baseline: pca"`` or ``"baseline: random 2"``, → float32 (n_cells, d).
    about
        Name → how it was made, for notes.
    """

    vectors: dict[str, NDArray[Any]] = field(default_factory=dict)
    about: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, vectors: NDArray[Any], about: str) -> None:
        """Keep one, under its name in the results."""
        self.vectors[BASELINE + name], self.about[BASELINE + name] = vectors, about

    def __or__(self, other: Baselines) -> Baselines:
        return Baselines(self.vectors | other.vectors, self.about | other.about)


def asked_baselines(names: str | Iterable[str]) -> dict[str, int]:
    """Return baseline → number of draws; names of `OF_EXPRESSION` and `OF_GENES`, those drawn as ``"random:3"``.

    Raises
    ------
    BftembedError
        For another name, or draws of what is not drawn.
    """
    found: dict[str, int] = {}
    for part in names.split(",") if isinstance(names, str) else names:
        text = part.strip()
        name, _, draws = text.partition(":")
        if not text:
            continue
        if name not in (*OF_EXPRESSION, SCVI, *OF_GENES):
            raise unknown_name("baseline", name, [*OF_EXPRESSION, SCVI, *OF_GENES])
        if draws and (name not in DRAWN or not re.fullmatch(r"[1-9]\d?", draws)):
            raise BftembedError(f"The baseline {text!r} is not known. Only {' and '.join(DRAWN)} take draws: random:5.")
        found[name] = int(draws or 1)
    return found


def with_about(results: Iterable[Result], made: Baselines) -> list[Result]:
    """Add to the notes of baselines how each was made: ``"made of: …"``."""
    return [
        replace(r, note="; ".join(x for x in (r.note, f"made of: {made.about[r.embedding]}") if x))
        if r.embedding in made.about
        else r
        for r in results
    ]


def expression_baselines(
    asked: Mapping[str, int], components: NDArray[Any], batches: NDArray[Any] | None, about: str
) -> Baselines:
    """Return those of `OF_EXPRESSION`.

    Parameters
    ----------
    asked
        From `asked_baselines`.
    components
        Principal components, (n_cells, n).
    batches
        Batch of each cell, (n_cells,); None where there are none. A cell without a batch has a vector of the PCA
        alone, and NaN in the others.
    about
        How the components were made.

    Raises
    ------
    BftembedError
        For a baseline of batches without them, or as `bftembed.tasks.baselines`.
    """
    from bftembed.tasks.baselines import BASELINES

    found = Baselines()
    for name in (n for n in OF_EXPRESSION if n in asked):
        if name == "pca":
            found.add(name, components, about)
            continue
        has, of_cells = _with_batch(name, batches)
        vectors = BASELINES[name](components[has], of_cells)
        found.add(name, _among_all(vectors, has), f"{name} of the {about}")
    return found


def count_baselines(
    asked: Mapping[str, int],
    data: anndata.AnnData | str | os.PathLike[str],
    batches: NDArray[Any] | None,
    *,
    layer: str | None = None,
    use_raw: bool = False,
) -> Baselines:
    """Return scVI (Lopez et al. 2018), where it is asked for: see `bftembed.tasks.baselines.scvi`.

    A cell without a batch has NaN. It needs raw counts, and the package scvi-tools, which no extra brings.

    Raises
    ------
    BftembedError
        As `scvi`, or `bftembed.bench.expression.matrix_of`.
    """
    from bftembed.tasks.baselines import scvi

    found = Baselines()
    if SCVI not in asked:
        return found
    has, of_cells = _with_batch(SCVI, batches)
    counts, name = matrix_of(data, layer=layer, use_raw=use_raw)
    vectors = scvi(counts[has], of_cells)
    found.add(SCVI, _among_all(vectors, has), f"scVI of the counts in {name}, {vectors.shape[1]} latent dimensions")
    return found


def _with_batch(name: str, batches: NDArray[Any] | None) -> tuple[NDArray[np.bool_], NDArray[Any]]:
    """Return which cells have a batch, and the batches of those, for the baseline `name`."""
    if batches is None:
        raise BftembedError(f"The baseline {name!r} integrates batches, and this benchmark has none: leave it out.")
    has = np.array([not missing_label(b) for b in batches], dtype=bool)
    return has, np.array([str(b) for b in batches[has]])


def _among_all(vectors: NDArray[Any], has: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return vectors for all cells, those of the others NaN."""
    whole = np.full((len(has), vectors.shape[1]), np.nan, dtype=np.float32)
    whole[has] = vectors
    return whole


def gene_baselines(
    asked: Mapping[str, int],
    data: anndata.AnnData | str | os.PathLike[str],
    keys: Sequence[str],
    *,
    texts: Texts | None = None,
    genes: GeneEmbeddings | str | os.PathLike[str] | None = None,
    encoder: str = ENCODER,
    layer: str | None = None,
    use_raw: bool = False,
) -> Baselines:
    """Return those of `OF_GENES`: vectors per gene that know less than a profile, aggregated in the same way.

    ``random`` are Gaussian vectors, which make a random projection of the expression. ``shuffled`` are the vectors of
    `genes`, each given to another gene. ``tfidf`` counts the words of `texts`. ``ncbi`` encodes RefSeq summaries, as
    GenePT did, with `encoder`.

    Parameters
    ----------
    asked
        From `asked_baselines`.
    data
        AnnData, or a file.
    keys
        Of the embeddings that are scored. The first whose provenance, ``.uns["bftembed"][KEY]``, is there says how
        gene vectors are aggregated, and of which matrix; without one the default of `embed_cells` is taken.
    texts
        For ``tfidf``; where they are given, ``random`` has vectors for the same genes only.
    genes
        For ``shuffled``, gene embeddings or their file.
    encoder
        For ``ncbi``.
    layer, use_raw
        The matrix, where no provenance names one.

    Raises
    ------
    BftembedError
        For ``tfidf`` without texts, ``shuffled`` without gene embeddings, data that are not at hand, or as
        `bftembed.cells.vectors.cell_vectors`.
    """
    from bftembed.bench.drawn import random_vectors, shuffled_vectors
    from bftembed.embeddings import GeneEmbeddings, embed_genes

    wanted = [name for name in OF_GENES if name in asked]
    found = Baselines()
    if not wanted:
        return found
    if "tfidf" in wanted and texts is None:
        raise BftembedError("The baseline 'tfidf' counts words of texts: give them (texts=…, --texts).")
    if "shuffled" in wanted and genes is None:
        raise BftembedError("The baseline 'shuffled' deals vectors to other genes: give them (genes=…, --genes).")
    how, choice, dim = _like(data, keys) or (Aggregation(), {"layer": layer, "use_raw": use_raw}, N_RANDOM_DIMENSIONS)
    told = None if texts is None else read_texts(texts)

    def add(name: str, embeddings: GeneEmbeddings, about: str) -> None:
        vectors, report = cell_vectors(data, embeddings, how, **choice)
        matched = f"{report.n_matched:,} of {report.n_genes:,} genes"
        how_said = replace(how, normalize=report.normalize)
        found.add(name, vectors, f"{about}, {matched}, aggregated by {how_said}")

    for name in wanted:
        for draw in range(asked[name]):
            numbered = f"{name} {draw + 1}" if asked[name] > 1 else name
            if name == "random":
                symbols = _genes_of(data, choice) if told is None else list(told)
                add(numbered, random_vectors(symbols, dim, draw), f"Gaussian vectors, {dim} dimensions")
            elif name == "shuffled":
                own = GeneEmbeddings.of(genes)  # type: ignore[arg-type]
                add(numbered, shuffled_vectors(own, draw), "vectors of other genes")
            elif name == "tfidf":
                add(numbered, embed_genes(dict(told or {}), "tfidf"), "TF-IDF of the texts")
            else:
                add(numbered, _ncbi(encoder), f"RefSeq summaries by {encoder}")
    return found


@functools.lru_cache(maxsize=1)
def _ncbi(encoder: str) -> GeneEmbeddings:
    from bftembed.embeddings import embed_genes

    return embed_genes(dict(read_texts(NCBI)), encoder)


def _genes_of(data: Any, choice: Mapping[str, Any]) -> list[str]:
    """Return the symbols of the genes of the data."""
    from bftembed.entities.genes import GeneIndex

    with opened(data, **choice) as expression:
        return list(dict.fromkeys(r.symbol for r in GeneIndex.default().resolve(expression.genes) if r.symbol))


def _like(data: Any, keys: Sequence[str]) -> tuple[Aggregation, dict[str, Any], int] | None:
    """Return how the first of the embeddings with a provenance was made: aggregation, matrix, dimensions of genes."""
    for key in keys:
        told = _provenance(data, key)
        if told:
            break
    else:
        return None
    how = Aggregation(
        kind=str(told.get("kind", "gene")),
        normalize=str(told.get("normalize", "auto")),
        weights=told.get("weights", "expression"),
        top_k=int(told.get("top_k", 0)) or None,
        gene_matrix=str(told.get("gene_matrix", "raw")),
        denominator=str(told.get("denominator", "all-genes")),
        l2=bool(told.get("l2", True)),
    )
    matrix = str(told.get("matrix", "X"))
    choice: dict[str, Any] = {"gene_column": told.get("gene_column") or None, "kind": how.kind}
    choice |= {"use_raw": matrix == "raw/X", "layer": matrix[7:] if matrix.startswith("layers/") else None}
    if matrix.startswith("obsm/"):
        choice["obsm"] = matrix[5:]
    # Of a whitened matrix the cells have fewer dimensions than the genes.
    dim = int(told.get("dim", N_RANDOM_DIMENSIONS)) if not how.gene_matrix.startswith("whiten") else N_RANDOM_DIMENSIONS
    return how, choice, dim


def _provenance(data: Any, key: str) -> dict[str, Any]:
    """Return the single values of ``.uns["bftembed"][key]``, or nothing."""
    from bftembed.cells.writing import UNS
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

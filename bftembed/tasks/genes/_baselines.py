"""Baselines and upper bounds of gene-level scores: vectors that know less than a text, or more than is fair."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bftembed.encoders.tfidf import TfidfEncoder
from bftembed.entities.genes import GeneIndex
from bftembed.errors import BftembedError
from bftembed.tasks.genes.definition import cleaned_pairs

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from bftembed.tasks.genes.definition import GeneTask


@dataclass(frozen=True, eq=False)
class Candidate:
    """What is scored: subject and kind of the results, and a matrix (n_genes, d), or one for each seed.

    The labels of kind ``chance`` are permuted.
    """

    name: str
    kind: str
    draws: tuple[NDArray[Any], ...]


def baselines_of(
    task: GeneTask, embeddings: Mapping[str, NDArray[Any]], texts: Mapping[str, Mapping[str, str]], n_seeds: int
) -> list[Candidate]:
    """Return the baselines of a task for embeddings (n_genes, d) and their texts, name → gene → text.

    Random Gaussian vectors for each number of dimensions, one draw per seed; each embedding with permuted labels;
    TF-IDF of the letters of the symbol and of the words of the HGNC name; length and TF-IDF of each set of texts. For
    pairs an upper bound too, the number of partners, which counts those of the test pairs.
    """
    found = []
    for d in sorted({x.shape[1] for x in embeddings.values()}):
        # Of the whole matrix, not `random_vectors` of `bftembed.tasks.baselines`: recorded scores are of these draws.
        shape = (len(task.genes), d)
        draws = tuple(np.random.default_rng([seed, d]).standard_normal(shape, np.float32) for seed in range(n_seeds))
        found.append(Candidate(f"random vectors ({d} dimensions)", "random", draws))
    found += [Candidate(name, "chance", (x,)) for name, x in embeddings.items()]
    words = {"symbol only": _words(task.genes, 128, "char"), "name only": _words(_names(task.genes), 256, "word")}
    seen: set[tuple[str, ...]] = set()
    for name in embeddings:
        of_genes = tuple(texts.get(name, {}).get(gene, "") for gene in task.genes)
        if any(of_genes) and of_genes not in seen:
            seen.add(of_genes)
            length = [[np.log1p(len(t)), np.log1p(len(t.split()))] for t in of_genes]
            words[f"text length of {name}"] = np.array(length, np.float32)
            words[f"TF-IDF of the text of {name}"] = _words(of_genes, 256, "word")
    found += [Candidate(name, "baseline", (matrix,)) for name, matrix in words.items()]
    if task.kind == "pairs":
        items, labels, _ = cleaned_pairs(task.items, task.labels)
        degree = np.bincount(items[labels == 1].ravel(), minlength=len(task.genes))
        found.append(Candidate("degree", "upper-bound", (np.log1p(degree).astype(np.float32)[:, None],)))
    return found


def _names(genes: Sequence[str]) -> list[str]:
    index = GeneIndex.default()
    records = [index.get(found.entity) if found.entity else None for found in index.resolve(list(genes))]
    return [record.name if record else "" for record in records]


def _words(texts: Sequence[str], dim: int, analyzer: str) -> NDArray[np.float32]:
    try:
        return TfidfEncoder(dim, analyzer).encode([t if t.strip() else "unnamed" for t in texts])
    except BftembedError:  # no word that two texts share
        return np.zeros((len(texts), 1), np.float32)

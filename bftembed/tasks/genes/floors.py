"""What a gene-level score has to beat: vectors that know nothing of the gene, and the confounds of its text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bftembed.encoders.tfidf import TfidfEncoder
from bftembed.entities.genes import GeneIndex
from bftembed.errors import BftembedError
from bftembed.io import canonical_json, sha256_text
from bftembed.tasks.genes.definition import cleaned_pairs

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from bftembed.tasks.genes.definition import GeneTask

#: How the names of floors and ceilings begin in the results.
FLOOR, CEILING = "floor: ", "ceiling: "
PERMUTED = f"{FLOOR}permuted labels"
_TEXT_DIM, _SYMBOL_DIM = 256, 128
_NO_TEXT = "unnamed"


@dataclass(frozen=True, eq=False)
class Candidate:
    """Something that is scored: an embedding, or a floor in its shape.

    Attributes
    ----------
    name
        As in the results.
    draws
        One matrix (n_genes, d), or one for each seed where it is drawn.
    permuted
        Whether the probe is fitted to labels dealt at random.
    """

    name: str
    draws: tuple[NDArray[Any], ...]
    permuted: bool = False

    def vectors(self, seed_number: int) -> NDArray[Any]:
        """Return the matrix of the n-th seed."""
        return self.draws[seed_number % len(self.draws)]


def floors_of(
    task: GeneTask,
    embeddings: Mapping[str, NDArray[Any]],
    texts: Mapping[str, Mapping[str, str]],
    n_seeds: int,
) -> list[Candidate]:
    """Return the floors of a task for some embeddings.

    Parameters
    ----------
    task
        The task, with only the genes that are scored.
    embeddings
        Name → matrix (n_genes, d) in the order of ``task.genes``.
    texts
        Name of an embedding → gene → the text that it was made from, where that is known.
    n_seeds
        Draws of the random vectors.

    Returns
    -------
    list of Candidate
        Random Gaussian vectors (one floor for each number of dimensions), permuted labels (for each embedding), symbol
        alone (TF-IDF of its letters), name alone (TF-IDF of the words of the HGNC name), and for each set of texts
        their length and their TF-IDF. For pairs also a ceiling, the number of partners: it counts those of the test
        pairs too.
    """
    found = []
    for d in sorted({x.shape[1] for x in embeddings.values()}):
        shape = (len(task.genes), d)
        draws = tuple(np.random.default_rng([seed, d]).standard_normal(shape, np.float32) for seed in range(n_seeds))
        found.append(Candidate(f"{FLOOR}random vectors ({d} dimensions)", draws))
    found += [Candidate(f"{PERMUTED} of {name}", (x,), permuted=True) for name, x in embeddings.items()]
    found.append(Candidate(f"{FLOOR}symbol only", (_words(task.genes, _SYMBOL_DIM, "char"),)))
    found.append(Candidate(f"{FLOOR}name only", (_words(_names(task.genes), _TEXT_DIM, "word"),)))
    told: set[str] = set()
    for name in embeddings:
        of_genes = [texts.get(name, {}).get(gene, "") for gene in task.genes]
        digest = sha256_text(canonical_json(of_genes))
        if any(of_genes) and digest not in told:
            told.add(digest)
            length = [[np.log1p(len(t)), np.log1p(len(t.split()))] for t in of_genes]
            found.append(Candidate(f"{FLOOR}text length of {name}", (np.array(length, np.float32),)))
            found.append(Candidate(f"{FLOOR}TF-IDF of the text of {name}", (_words(of_genes, _TEXT_DIM, "word"),)))
    if task.kind == "pairs":
        clean = cleaned_pairs(task.items, task.labels)
        degree = np.bincount(clean.items[clean.labels == 1].ravel(), minlength=len(task.genes))
        found.append(Candidate(f"{CEILING}degree", (np.log1p(degree).astype(np.float32)[:, None],)))
    return found


def _names(genes: Sequence[str]) -> list[str]:
    index = GeneIndex.default()
    records = [index.get(found.entity) if found.entity else None for found in index.resolve(list(genes))]
    return [record.name if record else "" for record in records]


def _words(texts: Sequence[str], dim: int, analyzer: str) -> NDArray[np.float32]:
    try:
        return TfidfEncoder(dim, analyzer).encode([t if t.strip() else _NO_TEXT for t in texts])
    except BftembedError:  # no word that tells one gene from another
        return np.zeros((len(texts), 1), np.float32)

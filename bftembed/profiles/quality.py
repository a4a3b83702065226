"""How good gene profiles are, without a judge: own names in the text, and finding the gene's RefSeq summary by it.

Every number of a generator stands beside two floors: its own profiles shuffled among the genes, and the gene's symbol
as the whole text.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bftembed.metrics.intervals import percentile_interval
from bftembed.profiles.duplicates import words_of, words_without
from bftembed.profiles.screening import mentions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from scipy.sparse import csr_matrix

    from bftembed.entities.hgnc import GeneRecord

#: What is measured, and what chance is measured by.
PROFILES, SHUFFLED, SYMBOL = "profiles", "shuffled", "symbol alone"
NAMING = ("mentions-own-gene", "alias-recall", "previous-symbol-recall", "full-name-word-recall")
#: Of ranks, (orders, genes).
RETRIEVAL: dict[str, Callable[[np.ndarray], Any]] = {
    "median-rank": lambda ranks: np.median(ranks, axis=1).mean(),
    "mean-reciprocal-rank": lambda ranks: (1 / ranks).mean(),
    "recall@1": lambda ranks: (ranks <= 1).mean(),
    "recall@10": lambda ranks: (ranks <= 10).mean(),
}
KEPT, REMOVED = "names kept", "names removed"
#: Words of full names that say nothing of the gene.
_EMPTY_WORDS = frozenset({"a", "an", "and", "as", "by", "for", "from", "in", "of", "on", "or", "the", "to", "with"})
_RESAMPLES = 1000
#: Numbers of one block of similarities.
_BLOCK = 1 << 23


@dataclass(frozen=True)
class Score:
    """One number of one set of texts.

    Attributes
    ----------
    generator
        Which texts, as the caller called them; ``""`` for `SYMBOL`, which is the same for all.
    texts
        `PROFILES`, `SHUFFLED` or `SYMBOL`.
    protocol
        ``"names"`` for `NAMING`, `KEPT` or `REMOVED` for `RETRIEVAL`.
    metric
        One of `NAMING` (shares in [0, 1]) or `RETRIEVAL` (ranks from 1; the others in [0, 1]).
    value, low, high
        The number and its 95 % percentile bootstrap interval over genes; NaN where no gene has a value. Of
        `SHUFFLED`, the mean over the seeds.
    n
        Genes with a value.
    """

    generator: str
    texts: str
    protocol: str
    metric: str
    value: float
    low: float
    high: float
    n: int


def naming_scores(
    profiles: Mapping[str, Mapping[str, str]],
    records: Mapping[str, GeneRecord],
    *,
    seeds: Sequence[int] = (0, 1, 2, 3, 4),
) -> list[Score]:
    """Score how far profiles name their gene as HGNC does.

    Parameters
    ----------
    profiles
        Generator → gene → text; every generator has the same genes, at least two.
    records
        Gene → its HGNC record, for every gene.
    seeds
        Of the shuffles; the first is also that of the bootstrap.

    Returns
    -------
    list of Score
        ``mentions-own-gene``: the symbol, an alias, an earlier symbol or the full name stands in the text as a whole
        word, whatever its case. ``alias-recall`` and ``previous-symbol-recall``: the share of a gene's own, over the
        genes that have any. ``full-name-word-recall``: the share of the different words of the full name that the text
        holds; articles and the like do not count.

    Raises
    ------
    ValueError
        For fewer than two genes or another number in one generator than in another.
    """
    genes = _genes(profiles)
    orders = _orders(len(genes), seeds)
    scores = []
    for generator, texts in _with_symbols(profiles, genes):
        pairs = [[(texts[genes[i]], records[g]) for i, g in zip(order, genes, strict=True)] for order in orders]
        # (orders, genes, metrics); NaN for a gene without such names
        values = np.array([[_naming(text, record) for text, record in some] for some in pairs])
        for i, metric in enumerate(NAMING):
            known = values[:, ~np.isnan(values[0, :, i]), i]
            scores += _scores(generator, "names", metric, known, np.mean, seeds[0])
    return scores


def retrieval_scores(
    profiles: Mapping[str, Mapping[str, str]],
    summaries: Mapping[str, str],
    names: Mapping[str, Sequence[str]],
    *,
    seeds: Sequence[int] = (0, 1, 2, 3, 4),
) -> list[Score]:
    """Score how well a profile finds its gene's summary among those of all genes, by TF-IDF cosine.

    Weights: (1 + log count) · idf of the summaries, English stop words left out. The rank of the right summary is 1 +
    the number of better ones + half the number of others just as good, so that a text that says nothing gets the
    middle rank. With names removed, the words of each gene's names are taken out of its summary, and those of the
    profile's gene out of the profile: symbol, aliases, earlier symbols and full name, as a whole and however spelt.

    Parameters
    ----------
    profiles
        Generator → gene → text; every generator has the same genes, at least two, all of them in `summaries`.
    summaries
        Candidate → text. All the genes of a table make the task harder than the covered ones alone.
    names
        Candidate → its names.
    seeds
        Of the shuffles; the first is also that of the bootstrap.

    Raises
    ------
    ValueError
        For fewer than two genes, another number in one generator than in another, or a summary without a word.
    """
    genes, at = _genes(profiles), {name: i for i, name in enumerate(summaries)}
    orders, right = _orders(len(genes), seeds), np.array([at[g] for g in genes])
    scores = []
    for protocol in (REMOVED, KEPT):

        def words(text: str, gene: str, keep: bool = protocol == KEPT) -> str:
            return " ".join(words_of(text) if keep else words_without(text, names.get(gene, ())))

        encode, table = _tfidf([words(summary, c) for c, summary in summaries.items()])
        for generator, texts in _with_symbols(profiles, genes):
            ranks = _ranks(encode([words(texts[g], g) for g in genes]), table, right, orders)
            for metric, measure in RETRIEVAL.items():
                scores += _scores(generator, protocol, metric, ranks, measure, seeds[0])
    return scores


def shared_genes(profiles: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Return the genes that every generator has, sorted."""
    return sorted(set.intersection(*map(set, profiles.values()))) if profiles else []


def _genes(profiles: Mapping[str, Mapping[str, str]]) -> list[str]:
    genes = shared_genes(profiles)
    if len(genes) < 2 or any(len(texts) != len(genes) for texts in profiles.values()):
        raise ValueError(f"Every generator needs the same genes, at least 2; {len(genes)} are in all.")
    return genes


def _with_symbols(
    profiles: Mapping[str, Mapping[str, str]], genes: list[str]
) -> Iterable[tuple[str, Mapping[str, str]]]:
    return {**profiles, "": {g: g for g in genes}}.items()


def _orders(n: int, seeds: Sequence[int]) -> np.ndarray:
    """Return which of n genes' texts each gene is given: its own, and for each seed another one."""
    return np.array([np.arange(n), *(_others(n, seed) for seed in seeds)])


def _others(n: int, seed: int) -> np.ndarray:
    """Return for each of n genes another one, each once."""
    order = np.random.default_rng(seed).permutation(n)
    others = np.empty(n, dtype=np.int64)
    others[order] = np.roll(order, 1)
    return others


def _naming(text: str, record: GeneRecord) -> tuple[float, ...]:
    def recall(names: Sequence[str]) -> float:
        return sum(mentions(text, [n]) for n in names) / len(names) if names else math.nan

    symbols = (record.symbol, record.name, *record.alias_symbols, *record.prev_symbols)
    full = set(words_of(record.name)) - _EMPTY_WORDS
    found = len(full & set(words_of(text))) / len(full) if full else math.nan
    return float(mentions(text, symbols)), recall(record.alias_symbols), recall(record.prev_symbols), found


def _scores(
    generator: str, protocol: str, metric: str, values: np.ndarray, measure: Callable[[np.ndarray], Any], seed: int
) -> list[Score]:
    """Return the scores of values in the orders of `_orders`, (orders, genes): of the first, and of the others."""
    if not generator:
        return [_score("", SYMBOL, protocol, metric, values[:1], measure, seed)]
    kinds = ((PROFILES, values[:1]), (SHUFFLED, values[1:]))
    return [_score(generator, texts, protocol, metric, some, measure, seed) for texts, some in kinds]


def _score(
    generator: str,
    texts: str,
    protocol: str,
    metric: str,
    values: np.ndarray,
    measure: Callable[[np.ndarray], Any],
    seed: int,
) -> Score:
    n = values.shape[1]
    if n == 0:
        return Score(generator, texts, protocol, metric, math.nan, math.nan, math.nan, 0)
    rng = np.random.default_rng(seed)
    interval = percentile_interval([measure(values[:, rng.integers(n, size=n)]) for _ in range(_RESAMPLES)])
    return Score(generator, texts, protocol, metric, float(measure(values)), *interval, n)


def _tfidf(texts: list[str]) -> tuple[Callable[[list[str]], csr_matrix], csr_matrix]:
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS, TfidfVectorizer

    vectors = TfidfVectorizer(
        analyzer=lambda text: [w for w in text.split() if w not in ENGLISH_STOP_WORDS], sublinear_tf=True
    )
    try:
        table = vectors.fit_transform(texts)
    except ValueError as err:
        raise ValueError("No summary holds a word beside names and stop words.") from err
    return vectors.transform, table


def _ranks(queries: csr_matrix, table: csr_matrix, right: np.ndarray, orders: np.ndarray) -> np.ndarray:
    """Return for each order and gene the rank of the gene's summary by the query that the order gives it."""
    ranks = np.empty(orders.shape)
    given = np.argsort(orders, axis=1)  # the gene that each query is given to
    turned, step = table.T.tocsr(), max(1, _BLOCK // table.shape[0])
    for start in range(0, queries.shape[0], step):
        similar = (queries[start : start + step] @ turned).toarray()
        for of_order, genes in zip(ranks, given[:, start : start + step], strict=True):
            own = similar[np.arange(len(genes)), right[genes]][:, None]
            close = np.abs(similar - own) <= 1e-12  # the same words in another order add up to another last digit
            of_order[genes] = 1 + ((similar > own) & ~close).sum(axis=1) + (close.sum(axis=1) - 1) / 2
    return ranks

"""Benchmark of gene profiles without a judge: names of the gene in the text, and retrieval of its RefSeq summary.

Every number of a generator stands beside two baselines: its own profiles shuffled among the genes, and the gene's
symbol as the whole text.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from bftembed.entities.genes import GeneIndex
from bftembed.errors import BftembedError, unknown_name
from bftembed.io import refuse_input_as_output
from bftembed.llm.store import STORE_FILE, AnswerStore
from bftembed.metrics.intervals import percentile_interval
from bftembed.profiles.duplicates import words_of, words_without
from bftembed.profiles.export import has_text
from bftembed.profiles.generate import names_of
from bftembed.profiles.screening import mentions
from bftembed.profiles.selection import by_origin, chosen, origin_labels
from bftembed.tasks.base import Result, write_results
from bftembed.tuning.sources import gene_texts

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping, Sequence

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


@dataclass(frozen=True)
class ProfileQuality:
    """Scores of the profiles of a store, on the `genes` that every origin covers (`left_out`: those that are not).

    `candidates` is the number of summaries of the table `texts` that were searched; `out` is the results table that was
    written; `scores` as in `Score`.
    """

    genes: int
    left_out: int
    candidates: int
    texts: str | None
    out: Path | None
    scores: tuple[Score, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values; NaN is None."""
        plain = [
            {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in asdict(s).items()}
            for s in self.scores
        ]
        return {**self.__dict__, "out": None if self.out is None else str(self.out), "scores": plain}


def score_profiles(
    folder: str | os.PathLike[str],
    *,
    texts: str | os.PathLike[str] | None = None,
    prompt: str | Sequence[str] | None = None,
    generator: str | Sequence[str] | None = None,
    out: str | os.PathLike[str] | None = None,
    entity: str = "symbol",
    text: str = "summary",
    candidates: Literal["all", "covered"] = "all",
    seeds: int = 5,
) -> ProfileQuality:
    """Score gene profiles by the names in HGNC and, with a table of summaries, by retrieval of the gene's summary.

    Parameters
    ----------
    folder
        Folder of the profile store.
    texts
        Table of summaries (.tsv, .csv, also .gz) with the columns symbol and summary.
    generator
        Generator of the profiles: its spec, the beginning of one, or its id. By default all.
    out
        Results table to write (.parquet).

    Other Parameters
    ----------------
    prompt
        Prompt of the profiles. By default all.
    entity
        Column of `texts` with the symbol.
    text
        Column of `texts` with the summary.
    candidates
        Search all summaries of the table, or those of the covered genes.
    seeds
        Number of shuffles of the baseline.

    Raises
    ------
    BftembedError
        For a store without profiles of genes, fewer than two genes with a profile of every origin, and files that
        cannot be read or written.
    """
    if candidates not in ("all", "covered"):
        raise unknown_name("candidates", candidates, ("all", "covered"))
    target, table = None if out is None else Path(out), None if texts is None else Path(texts)
    if target is not None and target.suffix.lower() != ".parquet":
        raise BftembedError(f"out (--out) is {target}; give a file that ends in .parquet.")
    refuse_input_as_output(target, Path(folder) / STORE_FILE, table)
    summaries = {} if table is None else _summaries(table, entity, text)
    by_label = _texts_of(folder, *([x] if isinstance(x, str) else x or () for x in (prompt, generator)))
    known, shared = GeneIndex.default(), sorted(set.intersection(*map(set, by_label.values())))
    records = [r for g in shared if (r := known.get(g)) is not None and (table is None or g in summaries)]
    if len(records) < 2:
        counts = "; ".join(f"{label}: {len(of):,}" for label, of in by_label.items())
        and_summary = f" and a summary in {table.name}" if table else ""
        raise BftembedError(
            f"Only {len(records)} genes of HGNC have a profile of every origin ({counts}){and_summary}; at least 2 are "
            "needed. Choose origins with --generator."
        )
    left_out = len(set().union(*by_label.values())) - len(records)
    profiles = {label: [of[r.symbol] for r in records] for label, of in by_label.items()}
    scores = naming_scores(profiles, records, seeds=range(seeds))
    genes = [r.symbol for r in records]
    searched = {c: s for c, s in summaries.items() if candidates == "all" or c in set(genes)}
    if table is not None:
        names = {g: names_of("gene", g)[1] for g in searched}
        scores += retrieval_scores(profiles, genes, searched, names, seeds=range(seeds))
    if target is not None:
        write_results(_results(scores, Path(folder).resolve().name, left_out), target)
    name = None if table is None else table.name
    return ProfileQuality(len(genes), left_out, len(searched), name, target, tuple(scores))


def _summaries(path: Path, entity: str, text: str) -> dict[str, str]:
    # The pairs' prompt is the bare name.
    found: dict[str, str] = {}
    for pair in gene_texts(path, entity=entity, text=text, prompt="{name}"):
        found.setdefault(pair.turns[0].content, pair.turns[1].content)
    return found


def _texts_of(
    folder: str | os.PathLike[str], prompts: Sequence[str], generators: Sequence[str]
) -> dict[str, dict[str, str]]:
    """Return origin → gene → text."""
    with AnswerStore.open(folder) as store:
        profiles = store.answers(kind="gene")
    if not profiles:
        raise BftembedError(f"There are no profiles of genes in {folder}; only those can be scored.")
    origins = by_origin(chosen(profiles, prompts=prompts, generators=generators, where=str(folder)))
    found = {}
    for origin, label in origin_labels(list(origins)).items():
        if of := {p.entity: p.text for p in reversed(origins[origin]) if has_text(p)}:
            found[label] = of
    if not found:
        raise BftembedError(f"None of the profiles in {folder} has a text. Generate them again with --retry-failed.")
    return found


def source_of(score: Score) -> str:
    """Return whose texts were scored, as results and tables call them."""
    if not score.generator:
        return score.texts
    return score.generator if score.texts == "profiles" else f"{score.generator} ({score.texts})"


def _results(scores: list[Score], run: str, left_out: int) -> list[Result]:
    rows = []
    for s in scores:
        kind = {"profiles": "subject", "shuffled": "shuffled"}.get(s.texts, "baseline")
        why: dict[str, Any] = {} if s.n else {"reason": "too-few", "note": "no gene has such a name"}
        key = (run, source_of(s), "profile-quality", s.protocol, s.metric)
        rows.append(Result(*key, kind=kind, value=s.value, low=s.low, high=s.high, n=s.n, n_missing=left_out, **why))
    return rows


def naming_scores(
    profiles: Mapping[str, Sequence[str]], records: Sequence[GeneRecord], *, seeds: Sequence[int] = range(5)
) -> list[Score]:
    """Score how far profiles name their gene as HGNC does.

    Parameters
    ----------
    profiles
        Generator → texts, one per record.
    records
        HGNC records of at least two genes.
    seeds
        Of the shuffles; the first is also that of the bootstrap.

    Returns
    -------
    list of Score
        ``mentions-own-gene``: the symbol, an alias, an earlier symbol or the full name stands in the text as a whole
        word, whatever its case. ``alias-recall`` and ``previous-symbol-recall``: the share of a gene's own, over the
        genes that have any. ``full-name-word-recall``: the share of the different words of the full name that the text
        holds; articles and the like do not count.
    """
    orders = _orders(len(records), seeds)
    scores = []
    for generator, texts in {**profiles, "": [r.symbol for r in records]}.items():
        # (orders, genes, metrics); NaN for a gene without such names
        values = np.array([[_naming(texts[i], r) for i, r in zip(order, records, strict=True)] for order in orders])
        for i, metric in enumerate(NAMING):
            known = values[:, ~np.isnan(values[0, :, i]), i]
            scores += _scores(generator, "names", metric, known, np.mean, seeds[0])
    return scores


def retrieval_scores(
    profiles: Mapping[str, Sequence[str]],
    genes: Sequence[str],
    summaries: Mapping[str, str],
    names: Mapping[str, Sequence[str]],
    *,
    seeds: Sequence[int] = range(5),
) -> list[Score]:
    """Score how well a profile finds its gene's summary among those of all genes, by TF-IDF cosine.

    Weights: (1 + log count) · idf of the summaries, English stop words left out. The rank of the right summary is 1 +
    the number of better ones + half the number of others just as good, so that a text that says nothing gets the
    middle rank. With names removed, the words of each gene's names are taken out of its summary, and those of the
    profile's gene out of the profile: symbol, aliases, earlier symbols and full name, as a whole and however spelt.

    Parameters
    ----------
    profiles
        Generator → texts, one per gene.
    genes
        At least two, all of them in `summaries`.
    summaries
        Candidate → text. All the genes of a table make the task harder than the covered ones alone.
    names
        Candidate → its names.
    seeds
        As for `naming_scores`.

    Raises
    ------
    BftembedError
        For summaries without a word.
    """
    at = {name: i for i, name in enumerate(summaries)}
    orders, right = _orders(len(genes), seeds), np.array([at[g] for g in genes])
    scores = []
    for protocol in (REMOVED, KEPT):

        def words(text: str, gene: str, keep: bool = protocol == KEPT) -> str:
            return " ".join(words_of(text) if keep else words_without(text, names.get(gene, ())))

        encode, table = _tfidf([words(summary, c) for c, summary in summaries.items()])
        for generator, texts in {**profiles, "": genes}.items():
            queries = encode([words(text, g) for text, g in zip(texts, genes, strict=True)])
            ranks = _ranks(queries, table, right, orders)
            for metric, measure in RETRIEVAL.items():
                scores += _scores(generator, protocol, metric, ranks, measure, seeds[0])
    return scores


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
    parts = {PROFILES: values[:1], SHUFFLED: values[1:]} if generator else {SYMBOL: values[:1]}
    n, scores = values.shape[1], []
    for texts, part in parts.items():
        rng = np.random.default_rng(seed)
        resampled = [measure(part[:, rng.integers(n, size=n)]) for _ in range(_RESAMPLES if n else 0)]
        value = float(measure(part)) if n else math.nan
        scores.append(Score(generator, texts, protocol, metric, value, *percentile_interval(resampled), n))
    return scores


def _tfidf(texts: list[str]) -> tuple[Callable[[list[str]], csr_matrix], csr_matrix]:
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS, TfidfVectorizer

    vectors = TfidfVectorizer(
        analyzer=lambda text: [w for w in text.split() if w not in ENGLISH_STOP_WORDS], sublinear_tf=True
    )
    try:
        table = vectors.fit_transform(texts)
    except ValueError as err:
        raise BftembedError("No summary holds a word beside names and stop words. Give another table.") from err
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

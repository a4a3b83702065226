"""Benchmark of gene profiles without a judge: words of the gene's name in the text, and retrieval of its summary.

Baselines are the profiles shuffled among the genes, and the gene's symbol as the whole text.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bftembed.entities.genes import GeneIndex
from bftembed.errors import BftembedError
from bftembed.io import refuse_input_as_output
from bftembed.llm.store import STORE_FILE, AnswerStore
from bftembed.metrics.intervals import percentile_interval
from bftembed.profiles.generate import names_of
from bftembed.profiles.screening import words_of, words_without
from bftembed.profiles.selection import by_origin, chosen, has_text, origin_labels
from bftembed.tasks.base import Result, to_frame
from bftembed.tuning.data import gene_texts

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping, Sequence

    import pandas as pd
    from scipy.sparse import csr_matrix

SYMBOL = "symbol alone"
KEPT, REMOVED = "names kept", "names removed"
#: Of ranks, (orders, genes).
_RETRIEVAL: dict[str, Callable[[np.ndarray], Any]] = {
    "median-rank": lambda ranks: np.median(ranks, axis=1).mean(),
    "recall@10": lambda ranks: (ranks <= 10).mean(),
}
# Words of full names that say nothing of the gene.
_EMPTY_WORDS = frozenset({"a", "an", "and", "as", "by", "for", "from", "in", "of", "on", "or", "the", "to", "with"})
_RESAMPLES = 1000
# Numbers of one block of similarities.
_BLOCK = 1 << 23


def score_profiles(
    folder: str | os.PathLike[str],
    *,
    texts: str | os.PathLike[str] | None = None,
    prompt: str | Sequence[str] | None = None,
    generator: str | Sequence[str] | None = None,
    out: str | os.PathLike[str] | None = None,
    seeds: int = 5,
) -> pd.DataFrame:
    """Score gene profiles by the words of the gene's name and, with a table of summaries, by retrieval of its summary.

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
    seeds
        Number of shuffles of the baseline.

    Returns
    -------
    pandas.DataFrame
        The results table (`bftembed.tasks.base`), of the genes that every origin covers; ``n_missing`` counts the
        others. ``full-name-word-recall`` is the share of the words of the HGNC name that the text holds.
        ``median-rank`` and ``recall@10`` are of the summary among those of the table, by TF-IDF cosine: with names
        kept, and with all names of the gene removed from its summary and its profile. A text that says nothing has the
        middle rank. Of shuffled profiles, the mean over the seeds. Intervals: 95 %, bootstrap over genes.

    Raises
    ------
    BftembedError
        For a store without profiles of genes, fewer than two genes with a profile of every origin, and files that
        cannot be read or written.
    """
    target, table = None if out is None else Path(out), None if texts is None else Path(texts)
    if target is not None and target.suffix.lower() != ".parquet":
        raise BftembedError(f"out (--out) is {target}; give a file that ends in .parquet.")
    refuse_input_as_output(target, Path(folder) / STORE_FILE, table)
    summaries: dict[str, str] = {}
    for pair in [] if table is None else gene_texts(table, entity="symbol", text="summary", prompt="{name}"):
        summaries.setdefault(pair.turns[0].content, pair.turns[1].content)  # the prompt is the bare name
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
    genes = [r.symbol for r in records]
    left_out = len(set().union(*by_label.values())) - len(genes)
    row = functools.partial(Result, Path(folder).resolve().name, task="profile-quality", n_missing=left_out)
    profiles = {label: [of[g] for g in genes] for label, of in by_label.items()}
    results = _naming_results(row, profiles, genes, [r.name for r in records], range(seeds))
    if table is not None:
        names = {g: names_of("gene", g) for g in summaries}
        results += _retrieval_results(row, profiles, genes, summaries, names, range(seeds))
    return to_frame(results, target)


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


def _naming_results(
    row: Callable[..., Result],
    profiles: Mapping[str, Sequence[str]],
    genes: Sequence[str],
    full_names: Sequence[str],
    seeds: Sequence[int],
) -> list[Result]:
    orders, results = _orders(len(genes), seeds), []
    full = [set(words_of(name)) - _EMPTY_WORDS for name in full_names]
    named = [i for i, words in enumerate(full) if words]
    for generator, texts in {**profiles, SYMBOL: genes}.items():
        words = [set(words_of(text)) for text in texts]
        shares = [[len(full[i] & words[order[i]]) / len(full[i]) for i in named] for order in orders]
        of = functools.partial(row, subject=generator, protocol="names", metric="full-name-word-recall")
        results += _results(of, np.array(shares), np.mean, seeds[0])
    return results


def _retrieval_results(
    row: Callable[..., Result],
    profiles: Mapping[str, Sequence[str]],
    genes: Sequence[str],
    summaries: Mapping[str, str],
    names: Mapping[str, Sequence[str]],
    seeds: Sequence[int],
) -> list[Result]:
    """Rank the summary of each gene by its profile: (1 + log count) · idf of the summaries, without English stop words.

    The rank is 1 + the number of better summaries + half the number of others just as good.
    """
    at = {name: i for i, name in enumerate(summaries)}
    orders, right = _orders(len(genes), seeds), np.array([at[g] for g in genes])
    results = []
    for protocol in (REMOVED, KEPT):

        def words(text: str, gene: str, keep: bool = protocol == KEPT) -> str:
            return " ".join(words_of(text) if keep else words_without(text, names.get(gene, ())))

        encode, table = _tfidf([words(summary, c) for c, summary in summaries.items()])
        for generator, texts in {**profiles, SYMBOL: genes}.items():
            queries = encode([words(text, g) for text, g in zip(texts, genes, strict=True)])
            ranks = _ranks(queries, table, right, orders)
            of = functools.partial(row, subject=generator, protocol=protocol, note=f"among {len(at):,} summaries")
            for metric, measure in _RETRIEVAL.items():
                results += _results(functools.partial(of, metric=metric), ranks, measure, seeds[0])
    return results


def _results(
    row: functools.partial[Result], values: np.ndarray, measure: Callable[[np.ndarray], Any], seed: int
) -> list[Result]:
    """Return the rows of values in the orders of `_orders`, (orders, genes): of the first, and of the others."""
    kinds, n, rows = ["baseline"] if row.keywords["subject"] == SYMBOL else ["subject", "shuffled"], values.shape[1], []
    for kind, part in zip(kinds, (values[:1], values[1:]), strict=False):
        rng = np.random.default_rng(seed)
        low, high = percentile_interval([measure(part[:, rng.integers(n, size=n)]) for _ in range(_RESAMPLES)])
        rows.append(row(kind=kind, value=float(measure(part)), low=low, high=high, n=n))
    return rows


def _orders(n: int, seeds: Sequence[int]) -> np.ndarray:
    """Return which of n genes' texts each gene is given: its own, and for each seed another one."""
    return np.array([np.arange(n), *(_others(n, seed) for seed in seeds)])


def _others(n: int, seed: int) -> np.ndarray:
    """Return for each of n genes another one, each once."""
    order = np.random.default_rng(seed).permutation(n)
    others = np.empty(n, dtype=np.int64)
    others[order] = np.roll(order, 1)
    return others


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

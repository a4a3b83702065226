"""The benchmark of profiles: names of the gene, and retrieval of its summary, with shuffled texts and symbols."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bftembed.entities.genes import GeneIndex
from bftembed.errors import BftembedError, unknown_name
from bftembed.io import refuse_input_as_output
from bftembed.llm.store import STORE_FILE, AnswerStore
from bftembed.profiles.export import has_text
from bftembed.profiles.generate import names_of
from bftembed.profiles.quality import naming_scores, retrieval_scores, shared_genes
from bftembed.profiles.selection import by_origin, chosen, origin_labels
from bftembed.tasks.base import Result, write_results
from bftembed.tuning.sources import gene_texts

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from bftembed.profiles.quality import Score


@dataclass(frozen=True)
class ProfileQuality:
    """Scores of the profiles of a store, on the `genes` that every origin covers (`left_out`: those that are not).

    `candidates` is the number of summaries of the table `texts` that were searched; `out` is the results table that was
    written; `scores` as in `bftembed.profiles.quality.Score`.
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
    known = GeneIndex.default()
    records = {g: r for g in shared_genes(by_label) if (r := known.get(g)) is not None}
    usable = [g for g in records if table is None or g in summaries]
    if len(usable) < 2:
        counts = "; ".join(f"{label}: {len(of):,}" for label, of in by_label.items())
        and_summary = f" and a summary in {table.name}" if table else ""
        raise BftembedError(
            f"Only {len(usable)} genes of HGNC have a profile of every origin ({counts}){and_summary}; at least 2 are "
            "needed. Choose origins with --generator."
        )
    left_out = len(set().union(*by_label.values())) - len(usable)
    by_label = {label: {g: of[g] for g in usable} for label, of in by_label.items()}
    scores = naming_scores(by_label, records, seeds=range(seeds))
    searched = {c: s for c, s in summaries.items() if candidates == "all" or c in set(usable)}
    if table is not None:
        names = {g: names_of("gene", g)[1] for g in searched}
        try:
            scores += retrieval_scores(by_label, searched, names, seeds=range(seeds))
        except ValueError as err:
            raise BftembedError(f"{table}: {err} Give another table, or its columns.") from err
    if target is not None:
        write_results(_results(scores, Path(folder).resolve().name, left_out), target)
    name = None if table is None else table.name
    return ProfileQuality(len(usable), left_out, len(searched), name, target, tuple(scores))


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

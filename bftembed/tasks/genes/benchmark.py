"""Benchmark of gene embeddings: vectors and tasks in, the results table out."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from bftembed.embeddings import GeneEmbeddings, read_vectors
from bftembed.entities.genes import GeneIndex
from bftembed.errors import BftembedError, examples, unknown_name
from bftembed.io import refuse_input_as_output
from bftembed.progress import Progress, silent
from bftembed.report.table import BASELINE_KINDS
from bftembed.tasks.base import Result, named_files, to_frame, write_results
from bftembed.tasks.baselines import Texts, read_texts
from bftembed.tasks.data import listed
from bftembed.tasks.genes._baselines import Candidate, baselines_of
from bftembed.tasks.genes._leaks import find_leaks
from bftembed.tasks.genes._probes import on_one_thread, parallel, scores_of
from bftembed.tasks.genes._scoring import Evaluation, evaluate
from bftembed.tasks.genes.builtin import get_task
from bftembed.tasks.genes.definition import GeneTask
from bftembed.tasks.genes.splits import Plan, plan_genept, plan_strict

if TYPE_CHECKING:
    from collections.abc import Callable

    import pandas as pd
    from numpy.typing import NDArray

Vectors = str | os.PathLike[str] | GeneEmbeddings
PROTOCOLS = ("strict", "genept")
#: Runs: all embeddings on the items whose genes all have; all items, with and without vectors.
SHARED, ALL_GENES = "shared", "all genes"
#: Share of the texts that state the label, with the label as split.
STATED = "label_stated_in_text"


def genes(
    embeddings: Mapping[str, Vectors] | Sequence[str | os.PathLike[str]],
    tasks: str | os.PathLike[str] | Iterable[str | os.PathLike[str] | GeneTask],
    *,
    protocols: str | Sequence[str] = "strict",
    seeds: int | Iterable[int] = 5,
    baselines: bool = True,
    own: bool = True,
    texts: Texts | Mapping[str, Texts] | None = None,
    allow_pickle: bool = False,
    key: str | None = None,
    out: str | os.PathLike[str] | None = None,
    jobs: int = 1,
    progress: Progress = silent,
) -> pd.DataFrame:
    """Score gene embeddings on tasks about genes and gene pairs, beside their baselines.

    Parameters
    ----------
    embeddings
        Name → vectors or their file (`bftembed.embeddings.read_vectors`); or files, ``NAME=FILE`` or named by their
        stem.
    tasks
        Names of built-in tasks (`bftembed.tasks.genes.builtin.TASKS`) and folders, separated by commas; or tasks.
    protocols
        ``strict``, ``genept`` (the steps of GenePT's notebooks), or both separated by commas.
    seeds
        Number of divisions of protocol ``strict``, or their seeds.
    baselines
        Score baselines and upper bounds too.
    own
        Score each embedding on all of its genes too, not only on those that all embeddings have.
    texts
        Texts that the vectors were made from, for the text baselines and the leak check: a mapping of gene to text, a
        profile store, Parquet, TSV of gene and text, or ``dataset:NAME``; one for all embeddings, or one per name.
    allow_pickle
        Read pickles of plain numbers.
    out
        Results table to write (Parquet).

    Other Parameters
    ----------------
    key
        Array of an npz or h5ad that holds the vectors.
    jobs
        Number of processes; results do not depend on it.
    progress
        Progress callback, called once per task and protocol.

    Returns
    -------
    pandas.DataFrame
        The results table (`bftembed.tasks.base`). ``run`` is ``shared`` (all embeddings on the items whose genes all
        of them have), ``own: NAME`` (an embedding with its baselines on all items that it has, where these are more)
        or ``all genes`` (the baseline of having a vector). ``protocol`` names the probe: ``strict/logistic``.
        ``reference`` is the best baseline, permuted labels aside. An embedding that cannot be scored has NaN rows.

    Raises
    ------
    BftembedError
        For files that cannot be read, unknown tasks or protocols, vectors that are not finite, texts of other genes,
        and when no embedding has a gene of any task.
    """
    named = named_files(embeddings)
    single: Any = [tasks] if isinstance(tasks, (os.PathLike, GeneTask)) else tasks
    wanted = listed(single) if isinstance(single, str) else list(single)
    protocol_list = listed(protocols)
    seed_list = list(range(seeds)) if isinstance(seeds, int) else list(dict.fromkeys(int(seed) for seed in seeds))
    for name in protocol_list:
        if name not in PROTOCOLS:
            raise unknown_name("protocol", name, PROTOCOLS)
    if not (named and wanted and protocol_list and seed_list):
        raise BftembedError("At least one embedding, task, protocol and seed are needed.")
    if not all(0 <= seed < 2**24 for seed in seed_list):  # probes derive seeds from these
        raise BftembedError(f"Seeds are integers from 0 to {2**24 - 1}, not {examples(seed_list)}.")
    inputs = [*named.values(), texts, *(texts.values() if isinstance(texts, Mapping) else ())]
    refuse_input_as_output(out, *(x for x in inputs if isinstance(x, (str, os.PathLike))))
    vectors = {
        name: v if isinstance(v, GeneEmbeddings) else read_vectors(v, allow_pickle=allow_pickle, key=key)
        for name, v in named.items()
    }
    found = [t if isinstance(t, GeneTask) else get_task(t) for t in wanted]
    of_names = {
        name: read_texts(source, vectors[name].provenance.get("allowed_marks", ()))
        for name, source in _texts_by_name(texts, vectors).items()
    }
    given = {name: _Embedding(v, of_names.get(name, {})) for name, v in vectors.items()}
    results: list[Result] = []
    for i, task in enumerate(found):
        for protocol in protocol_list:
            progress(i, len(found), f"{task.info.name}, {protocol}")
            of = task if protocol == "genept" else task.unambiguous()
            results += on_one_thread(_Round(of, protocol, seed_list, baselines, own, jobs).results, given)
    progress(len(found), len(found), "")
    frame = to_frame(results)
    if frame["value"].isna().all():
        raise BftembedError(f"No embedding could be scored on any task. The first reason: {frame['note'].iloc[0]}")
    if out is not None:
        write_results(frame, out)
    return frame


def _texts_by_name(texts: Texts | Mapping[str, Texts] | None, vectors: Mapping[str, GeneEmbeddings]) -> dict[str, Any]:
    """Return embedding → source of its texts. A mapping is one of genes, unless its keys are names of embeddings."""
    if texts is None or not isinstance(texts, Mapping):
        return {} if texts is None else dict.fromkeys(vectors, texts)
    if texts.keys() <= vectors.keys():
        return dict(texts)
    if not any(gene in texts for v in vectors.values() for gene in v.ids):
        raise BftembedError(f"texts are given for {examples(texts)}: neither embeddings nor genes of these.")
    return dict.fromkeys(vectors, texts)


def _rows_of(genes: Sequence[str], ids: Sequence[str], *, aliases: bool = True) -> NDArray[np.int64]:
    """Return the row of the vector of each gene, int64 (n_genes,), -1 for none.

    With `aliases` a gene that is not an id is looked up by its approved symbol, and among ids by theirs; ambiguous
    names are never guessed.
    """
    row_of = {name: i for i, name in enumerate(ids)}
    rows = np.array([row_of.get(gene, -1) for gene in genes], dtype=np.int64)
    missing = np.flatnonzero(rows < 0).tolist()
    if not aliases or not missing:
        return rows
    index = GeneIndex.default()
    approved: dict[str, int] = {}
    for found in index.resolve([i for i in ids if i not in index]):
        if found.entity and found.entity not in row_of:
            approved.setdefault(found.entity, row_of[found.name])
    for position, found in zip(missing, index.resolve([genes[i] for i in missing]), strict=True):
        if found.entity:
            rows[position] = row_of.get(found.entity, approved.get(found.entity, -1))
    return rows


@dataclass(frozen=True, eq=False)
class _Embedding:
    """Gene vectors, and gene → the text that its vector was made from."""

    vectors: GeneEmbeddings
    texts: Mapping[str, str]


@dataclass(frozen=True, eq=False)
class _Round:
    """One task under one protocol."""

    task: GeneTask
    protocol: str
    seeds: list[int]
    baselines: bool
    own: bool
    jobs: int

    def results(self, embeddings: Mapping[str, _Embedding]) -> list[Result]:
        """Return the rows of all runs: shared, own ones, and that of having a vector."""
        strict, items = self.protocol == "strict", self.task.items
        rows = {n: _rows_of(self.task.genes, e.vectors.ids, aliases=strict) for n, e in embeddings.items()}
        zero = {n: (rows[n] >= 0) & ~np.asarray(e.vectors.matrix.any(axis=1))[rows[n]] for n, e in embeddings.items()}
        # The notebooks keep genes with a zero vector, but not in the task of gene types.
        kept = not strict and self.task.kind != "multiclass"
        usable = {n: np.asarray((rows[n] >= 0) & (kept | ~zero[n])) for n in embeddings}
        scored = [n for n, mask in usable.items() if mask[items].all(axis=1).any()]
        results: list[Result] = []
        for name in (n for n in embeddings if n not in scored):
            theirs, ours = examples(embeddings[name].vectors.ids), examples(self.task.genes)
            why = f"none of the task's genes ({ours}) has a vector; the vectors are of {theirs}"
            results += self._failed(SHARED, [name], "no-vectors", why)
        if not scored:
            return results
        shared = np.asarray(np.stack([usable[n] for n in scored]).all(axis=0))
        sets = [(SHARED, scored, shared)]
        sets += [(f"own: {n}", [n], usable[n]) for n in scored if self.own and (usable[n] != shared).any()]
        for run, names, mask in sets:
            notes = [f"{k} zero vectors among {n}" for n in names if (k := int(zero[n].sum()))]
            results += self._of_embeddings(run, {n: (embeddings[n], rows[n]) for n in names}, mask, notes)
        if strict and self.baselines and self.task.kind != "multilabel":
            named = {f"has a vector in {n}": usable[n] for n in scored if not usable[n].all()}
            presence = [Candidate(n, "baseline", (mask.astype(np.float32)[:, None],)) for n, mask in named.items()]
            if presence:
                note = "all genes of the task, with and without a vector"
                results += self._scored(ALL_GENES, self.task, lambda _: presence, list(named), [note], "baseline", {})
        return results

    def _of_embeddings(
        self,
        run: str,
        part: Mapping[str, tuple[_Embedding, NDArray[np.int64]]],
        mask: NDArray[np.bool_],
        notes: list[str],
    ) -> list[Result]:
        """Return the scores of embeddings and their baselines on the items whose genes are all in a mask."""
        task = self.task.restricted(mask)
        position = {gene: i for i, gene in enumerate(self.task.genes)}
        chosen = [position[gene] for gene in task.genes]
        matrices, texts = {}, {}
        for name, (e, rows) in part.items():
            of_genes = dict(zip(task.genes, rows[chosen].tolist(), strict=True))
            matrices[name] = np.asarray(e.vectors.matrix[list(of_genes.values())])
            of_texts = {gene: e.texts.get(e.vectors.ids[row], "") for gene, row in of_genes.items()}
            texts[name] = {gene: text for gene, text in of_texts.items() if text.strip()}

        def candidates(plan: Plan) -> list[Candidate]:
            found = [Candidate(n, "subject", (x,)) for n, x in matrices.items()]
            n_seeds = len({fold.seed for fold in plan.folds})
            return [*found, *(baselines_of(task, matrices, texts, n_seeds) if self.baselines else [])]

        if left := len(self.task) - len(task):
            notes = [f"{left} of {len(self.task)} items left out: a gene without a vector", *notes]
        return self._scored(run, task, candidates, list(part), notes, "subject", texts)

    def _scored(
        self,
        run: str,
        task: GeneTask,
        candidates: Callable[[Plan], list[Candidate]],
        names: list[str],
        notes: list[str],
        kind: str,
        texts: Mapping[str, Mapping[str, str]],
    ) -> list[Result]:
        """Return the rows of candidates; where the task cannot be divided, failures of `names`, of `kind`."""
        strict = self.protocol == "strict"
        try:
            plan = plan_strict(task, self.seeds) if strict else plan_genept(task)
        except BftembedError as err:
            unknown = not strict and task.kind == "multilabel"
            return self._failed(run, names, "undefined" if unknown else "too-few", str(err), kind)
        note = "; ".join([*notes, *plan.notes, *self.task.notes])
        scores = scores_of(plan, candidates(plan), self.protocol, self._probes(), self.jobs)
        results: list[Result] = []
        for probe in self._probes():
            row = functools.partial(self._row, run, probe, n_missing=len(self.task) - len(task), note=note)
            evaluated = parallel(evaluate, [(plan, of[probe], len(task.genes)) for of in scores.values()], self.jobs)
            found = dict(zip(scores, evaluated, strict=True))
            ranked = sorted((e.mean, n, e) for (k, n), e in found.items() if k in BASELINE_KINDS and e.mean == e.mean)
            best = ranked[-1][1:] if ranked else None
            for (of_kind, name), evaluation in found.items():
                row_of = functools.partial(row, subject=name, kind=of_kind)
                results += _rows(row_of, plan, evaluation, best if of_kind == "subject" else None)
                if of_kind == "subject" and texts[name] and strict:
                    results += _without_stating(row_of, plan, task, scores[of_kind, name][probe], texts[name])
        return results

    def _row(self, run: str, probe: str, **values: Any) -> Result:
        return Result(run=run, task=self.task.info.name, protocol=f"{self.protocol}/{probe}", **values)

    def _failed(self, run: str, names: list[str], reason: str, note: str, kind: str = "subject") -> list[Result]:
        metric = "accuracy" if self.protocol == "genept" and self.task.kind == "multiclass" else "roc_auc"
        values = {"metric": metric, "kind": kind, "n_missing": len(self.task), "reason": reason, "note": note}
        return [self._row(run, probe, subject=name, **values) for name in names for probe in self._probes()]

    def _probes(self) -> list[str]:
        if self.protocol == "genept":
            return ["logistic"] if self.task.kind in ("pairs", "multiclass") else ["logistic", "forest"]
        return ["logistic"] if self.task.kind in ("binary", "pairs") else ["ridge"]


def _rows(
    row: Callable[..., Result], plan: Plan, found: Evaluation, compared: tuple[str, Evaluation] | None = None
) -> list[Result]:
    """Return a row for each fold, and their mean with its interval and its difference to the best baseline."""
    missing = {"reason": "undefined", "note": "one class only among the scored items"}
    row = functools.partial(row, metric=found.metric, n=plan.n_items)
    rows = [
        row(split=f"fold{fold.fold}", seed=fold.seed, value=float(value), **(missing if np.isnan(value) else {}))
        for fold, value in zip(plan.folds, found.values, strict=True)
    ]
    if np.isnan(found.mean):
        return [*rows, row(**missing)]
    low, high = np.clip(found.interval(), 0, 1).tolist()
    more: dict[str, Any] = {}
    if compared:
        ends = (found - compared[1]).interval()
        more = {"reference": compared[0], "difference": found.mean - compared[1].mean}
        more |= {"difference_low": ends[0], "difference_high": ends[1]}
    return [*rows, row(value=found.mean, low=low, high=high, **more)]


def _without_stating(
    row: functools.partial[Result], plan: Plan, task: GeneTask, scores: list[NDArray[Any]], texts: Mapping[str, str]
) -> list[Result]:
    """Return the share of texts that state each label, and the score of the test items whose texts do not.

    The probe has seen all training items. Nothing is returned where nothing can be looked for (no label words).
    """
    items = np.concatenate([np.sort(f.test_items, axis=1) for f in plan.folds])
    positions = items[:, 0]
    if task.kind == "pairs":
        # Negatives are sampled for each fold: what is looked at are the pairs that are scored.
        unique, first, positions = np.unique(items, axis=0, return_index=True, return_inverse=True)
        labels = np.concatenate([f.test_labels for f in plan.folds])[first]
        task = replace(task, items=unique, labels=labels, split=None)
    leaks = find_leaks(task, texts)
    if not leaks.n_checked or not (task.kind == "pairs" or task.label_words):
        return []
    note = f"words found: {', '.join(leaks.words)}" if leaks.words else ""
    found = [
        row(metric=STATED, split=label, value=share, n=leaks.n_checked, note=note)
        for label, share in leaks.share_by_label.items()
        if not np.isnan(share)
    ]
    silent_items = ~leaks.leaking[positions.ravel()]
    if not leaks.leaking.any() or not silent_items.any():
        return found
    kept = np.split(silent_items, np.cumsum([len(f.test_items) for f in plan.folds])[:-1])
    folds = tuple(
        replace(f, test_items=f.test_items[k], test_labels=f.test_labels[k])
        for f, k in zip(plan.folds, kept, strict=True)
    )
    part = replace(plan, folds=folds, n_items=len(np.unique(items[silent_items], axis=0)))
    n_missing = row.keywords["n_missing"] + max(0, plan.n_items - part.n_items)
    row = functools.partial(row, kind="label-removed", n_missing=n_missing)
    # A fold that is left with one class has no score; where all are, the shares above say why.
    rows = _rows(row, part, evaluate(part, [s[k] for s, k in zip(scores, kept, strict=True)]))
    return found + [r for r in rows if not r.reason]

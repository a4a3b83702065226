"""Benchmark of gene embeddings: vectors and tasks in, the results table out."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import threading
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from multiprocessing import parent_process
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bftembed.embeddings import GeneEmbeddings, GeneVectors, read_vectors
from bftembed.encoders.base import encoder_from_spec
from bftembed.errors import BftembedError, examples, unknown_name
from bftembed.io import atomic_path, canonical_json, refuse_input_as_output, sha256_text
from bftembed.progress import Progress, silent
from bftembed.report.table import BASELINE_KINDS
from bftembed.tasks.base import Result, to_frame, write_results
from bftembed.tasks.baselines import Texts, read_texts
from bftembed.tasks.data import listed
from bftembed.tasks.genes.baselines import Candidate, baselines_of
from bftembed.tasks.genes.builtin import get_task
from bftembed.tasks.genes.definition import GeneTask
from bftembed.tasks.genes.leaks import find_leaks, masked_vectors, match_rows
from bftembed.tasks.genes.probes import PROBES, genept_scores
from bftembed.tasks.genes.scoring import Evaluation, evaluate, node_propensity
from bftembed.tasks.genes.splits import Fold, Plan, plan_genept, plan_strict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import pandas as pd
    from numpy.typing import NDArray

Vectors = str | os.PathLike[str] | GeneEmbeddings | GeneVectors
PROTOCOLS, CHOICES = ("strict", "genept"), ("logistic", "mlp")
#: Runs: all embeddings on the items whose genes all have; all items, with and without vectors.
SHARED, ALL_GENES = "shared", "all genes"
#: Share of the texts that state the label, with the label as split.
STATED = "label_stated_in_text"
#: Raised whenever equal input may give other scores.
CACHE_VERSION = 2


def genes(
    embeddings: Mapping[str, Vectors] | Sequence[str | os.PathLike[str]],
    tasks: str | os.PathLike[str] | Iterable[str | os.PathLike[str] | GeneTask],
    *,
    protocols: str | Sequence[str] = "strict",
    probes: str | Sequence[str] = "logistic",
    seeds: int | Iterable[int] = 5,
    baselines: bool = True,
    own: bool = True,
    texts: Texts | Mapping[str, Texts] | None = None,
    encoder: str | None = None,
    allow_pickle: bool = False,
    key: str | None = None,
    out: str | os.PathLike[str] | None = None,
    cache: str | os.PathLike[str] | None = None,
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
    encoder
        Encoder of the embeddings: texts that state a label are encoded again without those words.
    allow_pickle
        Read pickles of plain numbers.
    out
        Results table to write (Parquet).

    Other Parameters
    ----------------
    probes
        Classifiers of protocol ``strict``: ``logistic``, ``mlp``, or both separated by commas. Multiclass and
        multilabel tasks take ridge regression.
    key
        Array of an npz or h5ad that holds the vectors.
    cache
        Folder of scores that were computed before.
    jobs
        Number of processes. Above 1, a script needs ``if __name__ == "__main__":``.
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
    named = _named(embeddings)
    single: Any = [tasks] if isinstance(tasks, (os.PathLike, GeneTask)) else tasks
    wanted = listed(single) if isinstance(single, str) else list(single)
    protocol_list, probe_list = listed(protocols), listed(probes)
    seed_list = list(range(seeds)) if isinstance(seeds, int) else list(dict.fromkeys(int(seed) for seed in seeds))
    for what, names, known in (("protocol", protocol_list, PROTOCOLS), ("probe", probe_list, CHOICES)):
        for name in names:
            if name not in known:
                raise unknown_name(what, name, known)
    if not (named and wanted and protocol_list and probe_list and seed_list):
        raise BftembedError("At least one embedding, task, protocol, probe and seed are needed.")
    if not all(0 <= seed < 2**24 for seed in seed_list):  # probes derive seeds from these
        raise BftembedError(f"Seeds are integers from 0 to {2**24 - 1}, not {examples(seed_list)}.")
    if out is not None:
        inputs = [*named.values(), texts, *(texts.values() if isinstance(texts, Mapping) else ())]
        refuse_input_as_output(out, *(x for x in inputs if isinstance(x, (str, os.PathLike))))
    vectors = {name: _read(v, allow_pickle, key) for name, v in named.items()}
    found = [t if isinstance(t, GeneTask) else get_task(t) for t in wanted]
    of_names = {
        name: read_texts(source, vectors[name].provenance.get("allowed_marks", ()))
        for name, source in _texts_by_name(texts, vectors).items()
    }
    engine = encoder_from_spec(encoder) if encoder is not None and of_names else None
    results: list[Result] = []
    with workers(jobs) as submit:
        for i, task in enumerate(found):
            given = {
                n: Embedding(v, t, masked_vectors(v, t, task, engine, progress) if engine else None)
                for n, v in vectors.items()
                for t in [of_names.get(n, {})]
            }
            for protocol in protocol_list:
                progress(i, len(found), f"{task.info.name}, {protocol}")
                of = task if protocol == "genept" else task.unambiguous()
                results += _Round(of, protocol, probe_list, seed_list, baselines, own, cache, submit).results(given)
    progress(len(found), len(found), "")
    frame = to_frame(results)
    if frame["value"].isna().all():
        raise BftembedError(f"No embedding could be scored on any task. The first reason: {frame['note'].iloc[0]}")
    if out is not None:
        write_results(frame, out)
    return frame


def _named(embeddings: Mapping[str, Vectors] | Sequence[str | os.PathLike[str]]) -> Mapping[str, Vectors]:
    if isinstance(embeddings, Mapping):
        return embeddings
    found: dict[str, Vectors] = {}
    for given in [embeddings] if isinstance(embeddings, (str, os.PathLike)) else embeddings:
        name, sign, file = str(given).partition("=")
        if not sign or Path(str(given)).exists():
            name, file = Path(str(given)).stem, str(given)
        if not name or name in found:
            raise BftembedError(f"{given}: an embedding needs a name of its own, NAME={given}.")
        found[name] = file
    return found


def _read(given: Vectors, allow_pickle: bool, key: str | None) -> GeneVectors:
    if isinstance(given, GeneEmbeddings):
        return GeneVectors(tuple(given.ids), given.matrix, "memory", "bftembed", given.provenance)
    if not isinstance(given, GeneVectors):
        return read_vectors(given, allow_pickle=allow_pickle, key=key)
    if wrong := [name for name, ok in zip(given.ids, np.isfinite(given.matrix).all(axis=1), strict=True) if not ok]:
        raise BftembedError(f"{given.source}: {len(wrong)} genes have a NaN or infinite value ({examples(wrong)}).")
    return given


def _texts_by_name(texts: Texts | Mapping[str, Texts] | None, vectors: Mapping[str, GeneVectors]) -> dict[str, Texts]:
    """Return embedding → source of its texts. A mapping is one of genes, unless its keys are names of embeddings."""
    if texts is None:
        return {}
    if not isinstance(texts, Mapping):
        return dict.fromkeys(vectors, texts)
    if texts.keys() <= vectors.keys():
        return dict(texts)
    of_genes = any(gene in texts for v in vectors.values() for gene in v.ids)
    if not of_genes or any(not isinstance(t, str) for t in texts.values()):
        raise BftembedError(
            f"texts are given for {examples(texts)}; these are neither embeddings ({examples(vectors)}) nor genes of "
            f"theirs ({examples(next(iter(vectors.values())).ids)})."
        )
    return dict.fromkeys(vectors, texts)  # type: ignore[arg-type]


@dataclass(frozen=True, eq=False)
class Embedding:
    """Gene vectors, gene → the text that its vector was made from, and the vectors with the label of a task masked."""

    vectors: GeneVectors
    texts: Mapping[str, str]
    masked: NDArray[Any] | None = None


_Scores = dict[tuple[str, str], list["NDArray[Any]"]]  # (kind, name) → scores of each fold


@dataclass(frozen=True, eq=False)
class _Round:
    """One task under one protocol."""

    task: GeneTask
    protocol: str
    probes: list[str]
    seeds: list[int]
    baselines: bool
    own: bool
    cache: str | os.PathLike[str] | None
    submit: Callable[..., Callable[[], Any]]

    def results(self, embeddings: Mapping[str, Embedding]) -> list[Result]:
        strict, items = self.protocol == "strict", self.task.items
        rows = {n: match_rows(self.task.genes, e.vectors.ids, aliases=strict) for n, e in embeddings.items()}
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
            part = {n: (embeddings[n], rows[n]) for n in names}
            notes = [f"{k} zero vectors among {n}" for n in names if (k := int(zero[n].sum()))]
            results += self._scored(run, part, mask, notes)
        if strict and self.baselines and self.task.kind != "multilabel":
            results += self._having_text({n: usable[n] for n in scored})
        return results

    def _scored(
        self,
        run: str,
        part: Mapping[str, tuple[Embedding, NDArray[np.int64]]],
        mask: NDArray[np.bool_],
        notes: list[str],
    ) -> list[Result]:
        task = self.task.restricted(mask)
        position = {gene: i for i, gene in enumerate(self.task.genes)}
        chosen = np.array([position[gene] for gene in task.genes], dtype=np.int64)
        try:
            plan = plan_genept(task) if self.protocol == "genept" else plan_strict(task, self.seeds)
        except BftembedError as err:
            unknown = self.protocol == "genept" and task.kind == "multilabel"
            return self._failed(run, list(part), "undefined" if unknown else "too-few", str(err))
        own_rows = {n: rows[chosen] for n, (_, rows) in part.items()}
        matrices = {n: np.asarray(e.vectors.matrix[own_rows[n]]) for n, (e, _) in part.items()}
        texts = {n: _texts_of(e, task.genes, own_rows[n]) for n, (e, _) in part.items()}
        candidates = [Candidate(n, "subject", (x,)) for n, x in matrices.items()]
        candidates += [
            Candidate(n, "label-masked", (e.masked[own_rows[n]],)) for n, (e, _) in part.items() if e.masked is not None
        ]
        if self.baselines:
            candidates += baselines_of(task, matrices, texts, len({f.seed for f in plan.folds}))
        left = len(self.task) - len(task)
        if left:
            notes = [f"{left} of {len(self.task)} items left out: a gene without a vector", *notes]
        told = "; ".join([*notes, *plan.notes, *self.task.notes])
        results: list[Result] = []
        for probe, scores in self._scores(plan, candidates).items():
            row = functools.partial(self._row, run, probe, n_missing=left, note=told)
            found = self._evaluated(plan, scores, len(task.genes))
            ranked = sorted((e.mean, n, e) for (k, n), e in found.items() if k in BASELINE_KINDS and e.mean == e.mean)
            best = ranked[-1][1:] if ranked else None
            for (kind, name), evaluation in found.items():
                row_of = functools.partial(row, subject=name, kind=kind)
                results += _rows(row_of, plan, evaluation, best if kind == "subject" else None)
                if kind == "subject" and texts[name] and self.protocol == "strict":
                    results += _without_stating(row_of, plan, task, scores[kind, name], texts[name])
            # Where negatives are sampled with the degrees of the positives, the other pairs of a gene tell nothing.
            sampled = self.protocol == "strict" and self.task.negatives == "degree-matched"
            if self.baselines and self.task.kind == "pairs" and not sampled:
                bound = evaluate(plan, [node_propensity(fold) for fold in plan.folds])
                results += _rows(functools.partial(row, subject="node propensity", kind="upper-bound"), plan, bound)
        return results

    def _having_text(self, usable: Mapping[str, NDArray[np.bool_]]) -> list[Result]:
        names = {n: f"has a vector in {n}" for n, mask in usable.items() if not mask.all()}
        if not names:
            return []
        try:
            plan = plan_strict(self.task, self.seeds)
        except BftembedError as err:
            return self._failed(ALL_GENES, list(names.values()), "too-few", str(err), "baseline")
        candidates = [Candidate(c, "baseline", (usable[n].astype(np.float32)[:, None],)) for n, c in names.items()]
        results = []
        for probe, scores in self._scores(plan, candidates).items():
            note = "all genes of the task, with and without a vector"
            row = functools.partial(self._row, ALL_GENES, probe, n_missing=0, note=note)
            for (kind, name), evaluation in self._evaluated(plan, scores, len(self.task.genes)).items():
                results += _rows(functools.partial(row, subject=name, kind=kind), plan, evaluation)
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
        return self.probes if self.task.kind in ("binary", "pairs") else ["ridge"]

    def _scores(self, plan: Plan, candidates: Sequence[Candidate]) -> dict[str, _Scores]:
        """Return probe → scores of each candidate, from the cache where they are there."""
        probes = self._probes()
        digest = arrays_digest(
            part
            for f in plan.folds
            for part in (np.array([f.seed, f.fold]), f.train_items, f.train_labels, f.test_items, f.test_labels)
        )
        found: dict[str, _Scores] = {probe: {} for probe in probes}
        waiting: dict[tuple[str, ...], tuple[list[tuple[str, str]], Callable[[], Any]]] = {}
        for candidate in candidates:
            name = (candidate.kind, candidate.name)
            decides = {"vectors": arrays_digest(candidate.draws), "permuted": candidate.kind == "chance"}
            keys = [score_key(protocol=self.protocol, probe=probe, plan=digest, **decides) for probe in probes]
            stored = [read_scores(self.cache, key, len(plan.folds)) for key in keys]
            if all(stored):
                for probe, scores in zip(probes, stored, strict=True):
                    found[probe][name] = scores
            else:
                same = tuple(keys)
                if same not in waiting:  # embeddings of the same genes share the baseline of having a vector
                    waiting[same] = ([], self._submit(plan, candidate, probes))
                waiting[same][0].append(name)
        for same, (names, collect) in waiting.items():
            for key, (probe, scores) in zip(same, collect().items(), strict=True):
                found[probe].update(dict.fromkeys(names, scores))
                write_scores(self.cache, key, scores)
        return {probe: {(c.kind, c.name): found[probe][c.kind, c.name] for c in candidates} for probe in probes}

    def _submit(
        self, plan: Plan, candidate: Candidate, probes: list[str]
    ) -> Callable[[], dict[str, list[NDArray[Any]]]]:
        folds = [_permuted(f) for f in plan.folds] if candidate.kind == "chance" else list(plan.folds)
        if self.protocol == "genept":
            permuted = replace(plan, folds=tuple(folds))
            return self.submit(genept_scores, permuted, candidate.vectors(0), "forest" in probes)
        parts = []
        for number, seed in enumerate(dict.fromkeys(f.seed for f in folds)):
            of_seed = [f for f in folds if f.seed == seed]
            parts.append(self.submit(_fitted, of_seed, candidate.vectors(number), probes))

        def joined() -> dict[str, list[NDArray[Any]]]:
            found = [part() for part in parts]
            return {probe: [scores for part in found for scores in part[probe]] for probe in probes}

        return joined

    def _evaluated(self, plan: Plan, scores: _Scores, n_genes: int) -> dict[tuple[str, str], Evaluation]:
        jobs = {name: self.submit(evaluate, plan, values, n_genes, None) for name, values in scores.items()}
        return {name: job() for name, job in jobs.items()}


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
    if task.kind == "pairs":
        # Negatives are sampled for each fold: what is looked at are the pairs that are scored.
        items = np.concatenate([np.sort(f.test_items, axis=1) for f in plan.folds])
        items, first = np.unique(items, axis=0, return_index=True)
        labels = np.concatenate([f.test_labels for f in plan.folds])[first]
        task = replace(task, items=items, labels=labels, split=None)
    elif not task.label_words:
        return []
    leaks = find_leaks(task, texts)
    if not leaks.n_checked:
        return []
    note = f"words found: {', '.join(leaks.words)}" if leaks.words else ""
    found = [
        row(metric=STATED, split=label, value=share, n=leaks.n_checked, note=note)
        for label, share in leaks.share_by_label.items()
        if not np.isnan(share)
    ]
    if task.kind == "pairs":
        width, stated = len(task.genes), task.items[leaks.leaking]
        codes = stated[:, 0] * width + stated[:, 1]
        kept = [~np.isin(f.test_items.min(axis=1) * width + f.test_items.max(axis=1), codes) for f in plan.folds]
    else:
        kept = [~leaks.leaking[f.test_items[:, 0]] for f in plan.folds]
    if not leaks.leaking.any() or not any(k.any() for k in kept):
        return found
    folds = tuple(
        replace(f, test_items=f.test_items[k], test_labels=f.test_labels[k])
        for f, k in zip(plan.folds, kept, strict=True)
    )
    n = len(np.unique(np.concatenate([f.test_items for f in folds]), axis=0))
    part = replace(plan, folds=folds, n_items=n)
    row = functools.partial(row, kind="label-removed", n_missing=row.keywords["n_missing"] + max(0, plan.n_items - n))
    # A fold that is left with one class has no score; where all are, the shares above say why.
    rows = _rows(row, part, evaluate(part, [s[k] for s, k in zip(scores, kept, strict=True)]))
    return found + [r for r in rows if not r.reason]


def _texts_of(embedding: Embedding, genes: Sequence[str], rows: NDArray[np.int64]) -> dict[str, str]:
    """Return gene of the task → text, for those that have one."""
    named = ((gene, embedding.texts.get(embedding.vectors.ids[row], "")) for gene, row in zip(genes, rows, strict=True))
    return {gene: text for gene, text in named if text.strip()}


def _permuted(fold: Fold) -> Fold:
    """Return a fold whose training labels are permuted over the same items."""
    order = np.random.default_rng([fold.seed, fold.fold, 1]).permutation(len(fold.train_labels))
    return replace(fold, train_labels=fold.train_labels[order])


def _fitted(folds: list[Fold], vectors: NDArray[Any], probes: list[str]) -> dict[str, list[NDArray[Any]]]:
    return {probe: [PROBES[probe](fold, vectors) for fold in folds] for probe in probes}


@contextlib.contextmanager
def workers(jobs: int) -> Iterator[Callable[..., Callable[[], Any]]]:
    """Give a function that starts a call in one of `jobs` processes and returns a function that waits for its result.

    Threads would wait for each other. Each call computes on one thread: sums in another order give other last digits.
    """
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    def here(call: Callable[..., Any], *arguments: Any) -> Callable[[], Any]:
        result = call(*arguments)
        return lambda: result

    with _one_thread():
        if jobs <= 1:
            yield here
            return
        pool = ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=_begin)
        try:
            yield lambda call, *arguments: pool.submit(call, *arguments).result
        finally:
            pool.shutdown(cancel_futures=True)


def _begin() -> None:
    _one_thread()
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Wait in a worker for the end of its parent: a killed one cannot say that it is gone."""
    if parent := parent_process():
        parent.join()
        os._exit(1)


def _one_thread() -> Any:
    import sklearn.linear_model  # noqa: F401
    from threadpoolctl import threadpool_limits

    return threadpool_limits(limits=1)


def read_scores(folder: str | os.PathLike[str] | None, key: str, n_folds: int) -> list[NDArray[Any]]:
    """Return the scores of each fold from the cache; nothing where they are absent or the file is damaged."""
    if folder is None:
        return []
    try:
        with np.load(Path(folder) / f"{key}.npz", allow_pickle=False) as stored:
            return [stored[f"fold{i}"] for i in range(n_folds)]
    except (OSError, ValueError, KeyError, EOFError, RuntimeError, zlib.error, zipfile.BadZipFile):
        return []


def write_scores(folder: str | os.PathLike[str] | None, key: str, scores: Sequence[NDArray[Any]]) -> None:
    """Keep the scores of each fold as a `.npz` of plain numbers in the cache, where there is one."""
    if folder is not None:
        with atomic_path(Path(folder) / f"{key}.npz") as temporary, temporary.open("wb") as handle:
            np.savez(handle, allow_pickle=False, **{f"fold{i}": s for i, s in enumerate(scores)})


def arrays_digest(arrays: Iterable[NDArray[Any]]) -> str:
    """Return the sha256 of arrays: dtypes, shapes and values."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def score_key(**parts: Any) -> str:
    """Return the key of scores: the sha256 of what decides them and of the versions of the libraries."""
    import scipy
    import sklearn

    made_by = {"numpy": np.__version__, "scipy": scipy.__version__, "scikit-learn": sklearn.__version__}
    return sha256_text(canonical_json({"version": CACHE_VERSION, "made_by": made_by, **parts}))

"""One task under one protocol: which genes are scored, what is fitted to them, and the rows that come out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from bftembed.errors import BftembedError, examples
from bftembed.results import Result
from bftembed.tasks.genes.cache import ScoreCache, arrays_digest, plan_digest, score_key
from bftembed.tasks.genes.floors import CEILING, FLOOR, Candidate, floors_of
from bftembed.tasks.genes.genept import genept_scores, plan_genept
from bftembed.tasks.genes.matching import match_rows, restricted
from bftembed.tasks.genes.probes import PROBES
from bftembed.tasks.genes.rows import Table
from bftembed.tasks.genes.scoring import REPLICATES, REPLICATES_MULTILABEL, Evaluation, evaluate, node_propensity
from bftembed.tasks.genes.splits import Fold, Plan, plan_strict
from bftembed.tasks.genes.unstated import unstated_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from bftembed.embeddings import GeneVectors
    from bftembed.tasks.genes.definition import GeneTask
    from bftembed.tasks.genes.setup import Embedding, Settings
    from bftembed.tasks.genes.workers import Workers

SHARED, OWN, ALL_GENES = "shared", "own: ", "all genes"
MASKED = ", label words masked"


@dataclass(frozen=True)
class Round:
    """One task under one protocol."""

    task: GeneTask
    protocol: str
    settings: Settings
    cache: ScoreCache
    workers: Workers

    def results(self, embeddings: Mapping[str, Embedding]) -> list[Result]:
        """Return the rows of all embeddings; see `bftembed.tasks.genes.suite.run`."""
        strict = self.protocol == "strict"
        rows = {n: match_rows(self.task.genes, e.vectors.ids, aliases=strict) for n, e in embeddings.items()}
        zero = {n: _zero(e.vectors, rows[n]) for n, e in embeddings.items()}
        # The notebooks keep genes with a zero vector, but not in the task of gene types.
        kept = self.protocol == "genept" and self.task.kind != "multiclass"
        usable = {n: np.asarray((rows[n] >= 0) & (kept | ~zero[n])) for n in embeddings}
        results: list[Result] = []
        scored: list[str] = []
        for name, mask in usable.items():
            if mask[self.task.items].all(axis=1).any():
                scored.append(name)
                continue
            theirs, ours = examples(embeddings[name].vectors.ids), examples(self.task.genes)
            why = f"none of the task's genes ({ours}) has a vector; the vectors are of {theirs}"
            results.append(self._failure(SHARED, name, why))
        if not scored:
            return results
        shared = np.asarray(np.stack([usable[n] for n in scored]).all(axis=0))
        sets = [(SHARED, scored, shared)]
        if self.settings.own:
            sets += [(f"{OWN}{n}", [n], usable[n]) for n in scored if (usable[n] != shared).any()]
        for run_name, names, mask in sets:
            part = {n: (embeddings[n], rows[n]) for n in names}
            n_zero = {n: int((zero[n] & (rows[n] >= 0)).sum()) for n in names}
            results += self._scored(run_name, part, mask, n_zero)
        if strict and self.settings.floors and self.task.kind != "multilabel":
            results += self._having_text({n: usable[n] for n in scored})
        return results

    def _scored(
        self,
        run_name: str,
        part: Mapping[str, tuple[Embedding, NDArray[np.int64]]],
        mask: NDArray[np.bool_],
        n_zero: Mapping[str, int],
    ) -> list[Result]:
        task = restricted(self.task, mask)
        position = {gene: i for i, gene in enumerate(self.task.genes)}
        chosen = np.array([position[gene] for gene in task.genes], dtype=np.int64)
        try:
            plan = self._plan(task)
        except BftembedError as err:
            return [self._failure(run_name, name, str(err)) for name in part]
        matrices = {n: np.asarray(e.vectors.matrix[rows[chosen]]) for n, (e, rows) in part.items()}
        n_seeds = len({f.seed for f in plan.folds})
        candidates = [Candidate(n, (x,)) for n, x in matrices.items()]
        candidates += [
            Candidate(f"{n}{MASKED}", (masked,))
            for n, (e, rows) in part.items()
            if (masked := _masked(e, self.task.info.name, rows[chosen])) is not None
        ]
        texts = {n: _texts_of(e, task.genes, rows[chosen]) for n, (e, rows) in part.items()}
        if self.settings.floors:
            candidates += floors_of(task, matrices, texts, n_seeds)
        left = len(self.task) - len(task)
        notes = [f"{left} of {len(self.task)} items left out: a gene without a vector"] if left else []
        notes += [f"{n} zero vectors among {name}" for name, n in n_zero.items() if n]
        told = "; ".join([*notes, *plan.notes, *self.task.notes])
        results: list[Result] = []
        for probe, scores in self._scores(plan, candidates).items():
            table = Table(run_name, self.task.info.name, f"{self.protocol}/{probe}", plan, left, told)
            found = self._evaluated(plan, scores, len(task.genes))
            for name, evaluation in found.items():
                results += table.rows(name, evaluation)
            for name in part:
                results += table.above_floor(name, found)
                if texts[name] and self.protocol == "strict":
                    results += unstated_rows(table, task, name, scores[name], texts[name])
            # Where negatives are drawn with the degrees of the positives, a gene's other pairs tell nothing.
            drawn = self.protocol == "strict" and self.task.negatives == "degree-matched"
            if self.settings.floors and self.task.kind == "pairs" and not drawn:
                ceiling = [node_propensity(fold) for fold in plan.folds]
                results += table.rows(f"{CEILING}node propensity", evaluate(plan, ceiling))
        return results

    def _plan(self, task: GeneTask) -> Plan:
        return plan_genept(task) if self.protocol == "genept" else plan_strict(task, self.settings.seeds)

    def _scores(self, plan: Plan, candidates: Sequence[Candidate]) -> dict[str, dict[str, list[NDArray[Any]]]]:
        """Return probe → name → scores of every fold, from the cache where they are there."""
        if self.protocol == "genept":
            probes = ["logistic"] if self.task.kind in ("pairs", "multiclass") else ["logistic", "forest"]
        else:
            probes = list(self.settings.probes) if self.task.kind in ("binary", "pairs") else ["ridge"]
        digest = plan_digest(plan)
        found: dict[str, dict[str, list[NDArray[Any]]]] = {probe: {} for probe in probes}
        waiting: dict[tuple[str, ...], tuple[dict[str, str], list[str], Any]] = {}
        for candidate in candidates:
            vectors = arrays_digest(candidate.draws)
            keys = {
                probe: score_key(
                    protocol=self.protocol, probe=probe, plan=digest, vectors=vectors, permuted=candidate.permuted
                )
                for probe in probes
            }
            stored = {probe: self.cache.get(key, len(plan.folds)) for probe, key in keys.items()}
            if all(s is not None for s in stored.values()):
                for probe, scores in stored.items():
                    found[probe][candidate.name] = scores or []
            else:
                same = tuple(keys.values())
                if same not in waiting:  # embeddings of the same genes share the floor of having a vector
                    waiting[same] = (keys, [], self._submit(plan, candidate, probes))
                waiting[same][1].append(candidate.name)
        for keys, names, collect in waiting.values():
            for probe, scores in collect().items():
                found[probe].update(dict.fromkeys(names, scores))
                self.cache.put(keys[probe], scores)
        return {probe: {c.name: found[probe][c.name] for c in candidates} for probe in probes}

    def _submit(
        self, plan: Plan, candidate: Candidate, probes: list[str]
    ) -> Callable[[], dict[str, list[NDArray[Any]]]]:
        folds = [_dealt(f) for f in plan.folds] if candidate.permuted else list(plan.folds)
        if self.protocol == "genept":
            dealt = replace(plan, folds=tuple(folds))
            return self.workers.submit(genept_scores, dealt, candidate.vectors(0), "forest" in probes)
        parts = []
        for number, seed in enumerate(dict.fromkeys(f.seed for f in folds)):
            of_seed = [f for f in folds if f.seed == seed]
            parts.append(self.workers.submit(_fitted, of_seed, candidate.vectors(number), probes))
        return lambda: _joined([part() for part in parts])

    def _evaluated(self, plan: Plan, scores: Mapping[str, list[NDArray[Any]]], n_genes: int) -> dict[str, Evaluation]:
        n = self.settings.n_replicates
        if n is None:
            n = REPLICATES_MULTILABEL if plan.folds[0].test_labels.ndim == 2 else REPLICATES
        jobs = {name: self.workers.submit(evaluate, plan, values, n_genes, n) for name, values in scores.items()}
        return {name: job() for name, job in jobs.items()}

    def _having_text(self, usable: Mapping[str, NDArray[np.bool_]]) -> list[Result]:
        try:
            plan = plan_strict(self.task, self.settings.seeds)
        except BftembedError as err:
            return [self._failure(ALL_GENES, f"{FLOOR}has a vector in {n}", str(err)) for n in usable]
        candidates = [
            Candidate(f"{FLOOR}has a vector in {n}", (mask.astype(np.float32)[:, None],))
            for n, mask in usable.items()
            if not mask.all()
        ]
        results = []
        for probe, scores in self._scores(plan, candidates).items() if candidates else ():
            told = "all genes of the task, with and without a vector"
            table = Table(ALL_GENES, self.task.info.name, f"strict/{probe}", plan, 0, told)
            for name, evaluation in self._evaluated(plan, scores, len(self.task.genes)).items():
                results += table.rows(name, evaluation)
        return results

    def _failure(self, run_name: str, name: str, why: str) -> Result:
        return Result(
            run=run_name,
            embedding=name,
            task=self.task.info.name,
            protocol=self.protocol,
            metric="accuracy" if self.protocol == "genept" and self.task.kind == "multiclass" else "roc_auc",
            n_missing=len(self.task),
            note=why,
        )


def _zero(vectors: GeneVectors, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return which genes have a vector of zeros, bool (n_genes,); False for those without any."""
    filled = np.asarray(vectors.matrix.any(axis=1))
    return np.asarray((rows >= 0) & ~filled[rows])


def _fitted(folds: list[Fold], vectors: NDArray[Any], probes: list[str]) -> dict[str, list[NDArray[Any]]]:
    return {probe: [PROBES[probe](fold, vectors) for fold in folds] for probe in probes}


def _joined(parts: list[dict[str, list[NDArray[Any]]]]) -> dict[str, list[NDArray[Any]]]:
    return {probe: [scores for part in parts for scores in part[probe]] for probe in parts[0]}


def _dealt(fold: Fold) -> Fold:
    """Return a fold whose training labels are dealt at random to the same items."""
    order = np.random.default_rng([fold.seed, fold.fold, 1]).permutation(len(fold.train_labels))
    return replace(fold, train_labels=fold.train_labels[order])


def _masked(embedding: Embedding, task: str, rows: NDArray[np.int64]) -> NDArray[Any] | None:
    """Return the vectors of masked texts, those of the other genes as they are; None where no text was masked."""
    masked = embedding.masked.get(task)
    if masked is None:
        return None
    matrix = np.array(embedding.vectors.matrix[rows])
    row_of = {gene: i for i, gene in enumerate(masked.ids)}
    for i, row in enumerate(rows):
        gene = embedding.vectors.ids[row]
        if gene in row_of:
            matrix[i] = masked.matrix[row_of[gene]]
    return matrix


def _texts_of(embedding: Embedding, genes: Sequence[str], rows: NDArray[np.int64]) -> dict[str, str]:
    """Return gene of the task → text, for those that have one."""
    named = ((gene, embedding.texts.get(embedding.vectors.ids[row], "")) for gene, row in zip(genes, rows, strict=True))
    return {gene: text for gene, text in named if text.strip()}

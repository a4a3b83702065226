"""Evaluation of a language model: questions, grades of the answers, and scores with baselines and intervals."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from bftembed.errors import BftembedError
from bftembed.io import canonical_json, sha256_text, write_text
from bftembed.tasks.base import EVALUATIONS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    import pandas as pd
    from numpy.typing import NDArray

    from bftembed.llm.base import Answer, Request
    from bftembed.tasks.base import Metric

    #: Graded questions (a row each), weights (n_resamples, n_questions) → the score under each row of weights.
    Statistic = Callable[[pd.DataFrame, NDArray[np.float64]], NDArray[np.float64]]

    class Ask(Protocol):
        """Requests by id → answers by id; requests without an answer are missing.

        `folder` is that of the run, `data` the data folder where one was given.
        """

        @property
        def folder(self) -> Path: ...  # noqa: D102
        @property
        def data(self) -> Path | None: ...  # noqa: D102
        def __call__(self, requests: Mapping[str, Request]) -> dict[str, Answer]:  # noqa: D102
            ...


@dataclass(frozen=True)
class Question:
    """An item of an evaluation.

    Attributes
    ----------
    id
        Unique in the evaluation.
    request
        What the model is asked first; its id is not looked at.
    answer
        The right answer; ``""`` where answers are graded in another way.
    group
        Part of the data that has a score of its own: a subject, a theme, a cell line.
    cluster
        What dependent questions share, such as the drug; resampled as one. ``""`` is the question itself.
    data
        What else grading needs, as JSON values.
    """

    id: str
    request: Request
    answer: str = ""
    group: str = ""
    cluster: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)


class Evaluation:
    """A set of questions with the rule that grades answers. Subclasses override what differs.

    Attributes
    ----------
    name, title
        Its name on the command line, and what it measures.
    protocol
        How questions are asked and answers read, in the results' column of that name.
    folder, source
        Folder of its data below the data folder, and what it holds and where that comes from.
    metrics
        Scores; the first is the main one, by which the best baseline is chosen.
    judged
        Whether a second model grades the answers.
    schema
        Whether answers are asked for under a JSON schema, which models that have none are not sent.
    parts
        Name of further parts of the data → whether a group belongs to it.
    """

    name: str
    title: str
    protocol: str
    folder: str
    source: str
    metrics: tuple[Metric, ...]
    judged: bool = False
    schema: bool = False
    parts: Mapping[str, frozenset[str]] = {}
    #: `bftembed.tasks.llm.similarity.SimilarityPercentile`, where an encoder was given.
    similarity: Any = None

    def questions(self, data: Path) -> list[Question]:
        """Return all questions that the files below `data` give."""
        raise NotImplementedError

    def training_questions(self, data: Path, n: int, *, seed: int = 0, balanced: bool = False) -> list[Question]:
        """Return `n` questions (0: all) of the training part of the data, as they are asked, in random order.

        With `balanced` the right answers take turns, as far as there are questions of each.
        """
        raise BftembedError(f"{self.name} has no training questions.")

    def prepare(self, questions: Sequence[Question], data: Path, vectors: Mapping[str, NDArray[Any]]) -> list[Question]:
        """Return the questions that were chosen as they are asked, such as with examples by similarity of `vectors`."""
        return list(questions)

    def ask(self, questions: Sequence[Question], model: Ask, judge: Ask | None) -> dict[str, list[Answer]]:
        """Return the answers to each question, oldest first; by default one question is one request."""
        return {id: [answer] for id, answer in model({q.id: q.request for q in questions}).items()}

    def grade(self, question: Question, answers: Sequence[Answer]) -> dict[str, Any]:
        """Return the scores of a question by metric, and what was read of the answer under ``"parsed"``."""
        raise NotImplementedError

    def baselines(self, questions: Sequence[Question]) -> dict[tuple[str, str], dict[str, dict[str, float]]]:
        """Return the scores of what is no model: (kind, name) → id → metric → score."""
        return {}

    def statistics(self) -> dict[str, Statistic]:
        """Return how each metric is computed of graded questions; by default the mean over those with a score."""
        return {metric.name: mean_of(metric.name) for metric in self.metrics}

    def notes(self) -> dict[str, str]:
        """Return what is to be said of a metric."""
        return {}


def mean_of(column: str) -> Statistic:
    """Return the weighted mean of a column over the questions where it is not NaN."""

    def statistic(graded: pd.DataFrame, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        values = graded[column].to_numpy(float)
        scored = np.isfinite(values)
        with np.errstate(invalid="ignore"):
            return weights[:, scored] @ values[scored] / weights[:, scored].sum(axis=1)

    return statistic


def mean_over_groups(column: str) -> Statistic:
    """Return the unweighted mean over groups of a column's mean (macro average)."""
    of_group = mean_of(column)

    def statistic(graded: pd.DataFrame, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        groups = graded["group"].to_numpy()
        means = [of_group(graded[groups == g], weights[:, groups == g]) for g in dict.fromkeys(groups)]
        # A resample that misses a group has the mean over the others.
        with np.errstate(invalid="ignore"):
            return np.nanmean(means, axis=0)

    return statistic


def load_evaluation(name: str) -> Evaluation:
    """Return the evaluation of a name, or raise with "did you mean"."""
    found: Evaluation = EVALUATIONS.load(name)
    return found


class Kept(dict[str, Any]):
    """What was found beside the model's answers, by key, as JSON in the folder of a run, so that it is scored alone."""

    def __init__(self, path: Path) -> None:
        super().__init__(json.loads(path.read_text()) if path.exists() else {})
        self._path, self._kept = path, len(self)

    def keep(self) -> None:
        """Write what was added since the last time."""
        if len(self) > self._kept:
            write_text(self._path, canonical_json(self))
            self._kept = len(self)


def json_object(text: str) -> dict[str, Any] | None:
    """Return the JSON object that a text holds; None for none."""
    try:
        found = json.loads(text[text.index("{") : text.rindex("}") + 1], strict=False)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def balanced_by_answer(questions: Sequence[Question], n: int, seed: int) -> list[Question]:
    """Return `n` questions (0: all), as many of each right answer; the answers take turns.

    Those of one answer are spread over groups, as by `chosen`.
    """
    answers = sorted({q.answer for q in questions})
    each = min(sum(q.answer == a for q in questions) for a in answers) if answers else 0
    each = min(each, -(-n // len(answers))) if n else each
    parts = [chosen([q for q in questions if q.answer == a], each, seed) for a in answers]
    return [q for turn in zip(*parts, strict=True) for q in turn][: n or None]


def chosen(questions: Iterable[Question], limit: int, seed: int) -> list[Question]:
    """Return `limit` questions, the same number of each group as far as they go; all for a limit of 0.

    Parameters
    ----------
    questions
        Of an evaluation.
    limit
        Number of questions.
    seed
        Which questions of a group are taken; a larger limit takes those of a smaller one too.

    Returns
    -------
    list of Question
        In the order in which they were given.
    """
    every = list(questions)
    if not 0 < limit < len(every):
        return every
    by_group: dict[str, list[int]] = {}
    for i in sorted(range(len(every)), key=lambda i: sha256_text(f"{seed}:{every[i].id}")):
        by_group.setdefault(every[i].group, []).append(i)
    turns = sorted((turn, group, i) for group, held in by_group.items() for turn, i in enumerate(held))
    return [every[i] for i in sorted(i for _, _, i in turns[:limit])]

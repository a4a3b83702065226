"""HealthBench: open answers graded by physicians' rubrics, by a second model (Arora et al. 2025, arXiv 2505.08775)."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from bftembed.errors import BftembedError
from bftembed.io import json_lines
from bftembed.llm.base import Request, Sampling
from bftembed.tasks.base import Metric
from bftembed.tasks.llm.base import Evaluation, Question, json_object, mean_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    import pandas as pd
    from numpy.typing import NDArray

    from bftembed.llm.base import Answer
    from bftembed.tasks.llm.base import Ask, Statistic

#: Tries of a verdict that cannot be read; the second and later ones are sampled at temperature 1.
MAX_TRIES = 3
_SAMPLING = Sampling(max_new_tokens=2048)
_VERDICT = {
    "type": "object",
    "properties": {"explanation": {"type": "string"}, "criteria_met": {"type": "boolean"}},
    "required": ["explanation", "criteria_met"],
}
_GRADER = """Below are a health conversation and a criterion. Decide whether the last reply of the assistant does what \
the criterion describes.

A criterion that describes a fault is met when the reply has that fault: say what is the case, not what is good. Of \
several requirements all have to be met; what stands after "such as" or "for example" are examples.

Conversation:
{conversation}

Criterion:
{criterion}

Reply with a JSON object alone: {{"explanation": "one or two sentences", "criteria_met": true or false}}"""


class HealthBench(Evaluation):
    """Questions are conversations; a question's score is the sum of the points met over that of the positive points.

    Parameters
    ----------
    name, title
        As in `Evaluation`.
    pattern
        File name in the folder ``healthbench``.
    penalty
        Subtracted per 500 characters above 2,000 in the length-adjusted score (simple-evals, 2026).
    """

    judged = schema = True
    folder = "healthbench"

    def __init__(self, name: str, title: str, pattern: str, penalty: float) -> None:
        self.name, self.title = name, title
        self.source = f"healthbench/{pattern} (openai/simple-evals, MIT; has a canary)"
        self.protocol = "generated answer, greedy; graded per rubric item"
        self._pattern, self._penalty = pattern, penalty
        self.metrics = (
            Metric("score", "score"),
            Metric("score_unclipped", "unclipped", limits=None, concludes=False),
            Metric("score_length_adjusted", "length-adjusted"),
            Metric("bootstrap_std", "bootstrap SD", better="", concludes=False),
            Metric("graded", "items graded", concludes=False),
            Metric("characters", "characters", better="", limits=None, concludes=False),
            *(Metric(f"axis:{axis}", axis.replace("_", " "), "axes", concludes=False) for axis in _AXES),
        )

    def questions(self, data: Path) -> list[Question]:
        """Return a question per conversation; its group is the theme."""
        found = []
        for row in json_lines(_file(data / self.folder, self._pattern)):
            try:
                themes = [t.removeprefix("theme:") for t in row["example_tags"] if t.startswith("theme:")]
                messages = tuple({"role": m["role"], "content": m["content"]} for m in row["prompt"])
                rubrics = [{key: r[key] for key in ("criterion", "points", "tags")} for r in row["rubrics"]]
            except (KeyError, TypeError, AttributeError) as err:
                raise BftembedError(f"{self._pattern}: a row has no {err}; it is not a file of HealthBench.") from err
            request = Request("", messages=messages, sampling=_SAMPLING)
            theme = themes[0] if themes else ""
            found.append(Question(row["prompt_id"], request, group=theme, data={"rubrics": rubrics}))
        return found

    def ask(self, questions: Sequence[Question], model: Ask, judge: Ask | None) -> dict[str, list[Answer]]:
        """Return the reply to each question and the verdicts on it, each after at most `MAX_TRIES`."""
        replies = super().ask(questions, model, judge)
        if judge is None:
            return replies
        criteria: dict[str, Request] = {}
        for q in questions:
            reply = replies.get(q.id, [None])[0]
            if reply is not None and not reply.error:
                asked = [*q.request.messages, {"role": "assistant", "content": reply.text}]
                for i, rubric in enumerate(q.data["rubrics"]):
                    criteria[f"{q.id}/{i}"] = verdict_request(asked, rubric["criterion"])
        for id, verdict in verdicts(criteria, judge).items():
            replies[id.rpartition("/")[0]].append(verdict)
        return replies

    def grade(self, question: Question, answers: Sequence[Answer]) -> dict[str, Any]:
        """Return the scores of a reply; items without a readable verdict are left out of points and possible points."""
        if not answers or answers[0].error:
            return dict.fromkeys(("score", "score_length_adjusted", "graded", "characters"), math.nan)
        rubrics = question.data["rubrics"]
        met = {int(a.entity.rpartition("/")[2]): read_verdict(a) for a in answers[1:]}
        graded = [(r, met[i]) for i, r in enumerate(rubrics) if met.get(i) is not None]
        score = rubric_score(graded)
        characters = len(answers[0].text)
        axes = {axis: rubric_score([(r, m) for r, m in graded if f"axis:{axis}" in r["tags"]]) for axis in _AXES}
        return {
            "score": score,
            "score_length_adjusted": score - self._penalty * (characters - 2000) / 500,
            "graded": len(graded) / len(rubrics) if rubrics else math.nan,
            "characters": characters,
            "parsed": f"{sum(bool(m) for _, m in graded)} of {len(graded)} met",
            **{f"axis:{axis}": value for axis, value in axes.items()},
        }

    def statistics(self) -> dict[str, Statistic]:
        """Return means, clipped to [0, 1] for scores, and the bootstrap's standard deviation of the clipped mean."""
        clipped = {m.name: _clipped(mean_of(m.name)) for m in self.metrics if m.name.startswith(("score", "axis:"))}
        plain = {name: mean_of(name) for name in ("graded", "characters")}
        return clipped | {"score_unclipped": mean_of("score"), "bootstrap_std": _deviation(clipped["score"])} | plain


class JudgeAgreement(Evaluation):
    """The model under evaluation grades replies that physicians have graded (HealthBench's meta-evaluation)."""

    name = "healthbench-judge"
    title = "HealthBench: agreement of the judge with physicians"
    protocol = "one verdict per reply and criterion, against every physician"
    schema = True
    folder = "healthbench"
    source = "healthbench/*_oss_meta_eval.jsonl (openai/simple-evals, MIT; has a canary)"
    metrics = (
        Metric("balanced_f1", "balanced F1"),
        *(
            Metric(f"{m}_{of}", m, of.replace("_", " "), concludes=False)
            for of in ("met", "not_met")
            for m in ("precision", "recall", "f1")
        ),
        Metric("graded", "graded", concludes=False),
    )

    def questions(self, data: Path) -> list[Question]:
        """Return a question per reply and criterion; the group is the category, the cluster the conversation."""
        found = []
        for number, row in enumerate(json_lines(_file(data / self.folder, "*_oss_meta_eval.jsonl"))):
            try:
                messages = [*row["prompt"], {"role": "assistant", "content": row["completion"]}]
                labels = [bool(label) for label in row["binary_labels"]]
                request, group = verdict_request(messages, row["rubric"]), row["category"]
            except (KeyError, TypeError) as err:
                raise BftembedError(f"The meta-evaluation file: row {number} has no {err}.") from err
            data_of = {"labels": labels, "physicians": row.get("anonymized_physician_ids", [])}
            found.append(Question(f"{number}", request, group=group, cluster=row.get("prompt_id", ""), data=data_of))
        return found

    def ask(self, questions: Sequence[Question], model: Ask, judge: Ask | None) -> dict[str, list[Answer]]:
        """Return a verdict for each question, after at most `MAX_TRIES`."""
        return {id: [a] for id, a in verdicts({q.id: q.request for q in questions}, model).items()}

    def grade(self, question: Question, answers: Sequence[Answer]) -> dict[str, Any]:
        """Return the counts of agreement with the physicians."""
        verdict = read_verdict(answers[-1]) if answers else None
        failed = not answers or bool(answers[-1].error)
        counts = _counts(verdict, question.data["labels"])
        return counts | {"graded": math.nan if failed else float(verdict is not None), "parsed": verdict}

    def baselines(self, questions: Sequence[Question]) -> dict[tuple[str, str], dict[str, dict[str, float]]]:
        """Return the verdicts "all met" and "none met", and each physician against the others."""
        found: dict[tuple[str, str], dict[str, dict[str, float]]] = {
            ("baseline", name): {q.id: _counts(value, q.data["labels"]) for q in questions}
            for name, value in (("always met", True), ("never met", False))
        }
        several = [q for q in questions if len(q.data["labels"]) > 1]
        if several:
            of_physicians: dict[str, dict[str, float]] = {}
            for q in several:
                labels = q.data["labels"]
                pairs = [_counts(label, labels[:i] + labels[i + 1 :]) for i, label in enumerate(labels)]
                of_physicians[q.id] = {key: sum(p[key] for p in pairs) for key in pairs[0]}
            found["upper-bound", "physicians among themselves"] = of_physicians
        return found

    def statistics(self) -> dict[str, Statistic]:
        """Return precision, recall and F1 of "met" and "not met" over pairs of verdict and physician, and mean F1."""
        found: dict[str, Statistic] = {"balanced_f1": _f1("balanced")}
        for of in ("met", "not_met"):
            for what in ("precision", "recall", "f1"):
                found[f"{what}_{of}"] = _f1(f"{what}_{of}")
        return found | {"graded": mean_of("graded")}


def verdict_request(messages: Sequence[Mapping[str, str]], criterion: str) -> Request:
    """Return the question whether the last message of a conversation meets a criterion."""
    conversation = "\n\n".join(f"{m['role']}: {m['content']}" for m in messages)
    text = _GRADER.format(conversation=conversation, criterion=criterion)
    return Request("", messages=({"role": "user", "content": text},), sampling=_SAMPLING, schema=_VERDICT)


def verdicts(requests: Mapping[str, Request], judge: Ask) -> dict[str, Answer]:
    """Return the verdicts of a judge; what cannot be read is asked again, `MAX_TRIES` times in all."""
    found: dict[str, Answer] = {}
    waiting = dict(requests)
    for attempt in range(MAX_TRIES):
        again = replace(_SAMPLING, temperature=1.0) if attempt else _SAMPLING
        found |= judge({id: replace(r, sample=attempt, sampling=again) for id, r in waiting.items()})
        waiting = {id: r for id, r in waiting.items() if id in found and read_verdict(found[id]) is None}
        if not waiting:
            break
    return found


def read_verdict(answer: Answer) -> bool | None:
    """Return whether a criterion is met, by the JSON object in a verdict; None where it cannot be read."""
    met = (json_object(answer.text) or {}).get("criteria_met")
    return met if isinstance(met, bool) else None


def rubric_score(graded: Iterable[tuple[Mapping[str, Any], bool | None]]) -> float:
    """Return the sum of the points met over that of the positive points; NaN without a positive one."""
    held = list(graded)
    possible = sum(r["points"] for r, _ in held if r["points"] > 0)
    return sum(r["points"] for r, met in held if met) / possible if possible else math.nan


def _counts(verdict: bool | None, labels: Sequence[bool]) -> dict[str, float]:
    """Count pairs of a verdict and a physician: verdict met and label met, and so on."""
    told = {"tp": (True, True), "fp": (True, False), "fn": (False, True), "tn": (False, False)}
    return {key: float(sum(verdict is v and label is x for label in labels)) for key, (v, x) in told.items()} | {
        "balanced_f1": math.nan if verdict is None else 0.0  # counted, the score is made of the counts
    }


def _f1(what: str) -> Statistic:
    def statistic(graded: pd.DataFrame, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        tp, fp, fn, tn = (weights @ graded[name].fillna(0).to_numpy(float) for name in ("tp", "fp", "fn", "tn"))
        with np.errstate(invalid="ignore", divide="ignore"):
            values = {
                "precision_met": tp / (tp + fp),
                "recall_met": tp / (tp + fn),
                "f1_met": 2 * tp / (2 * tp + fp + fn),
                "precision_not_met": tn / (tn + fn),
                "recall_not_met": tn / (tn + fp),
                "f1_not_met": 2 * tn / (2 * tn + fn + fp),
            }
        values["balanced"] = (values["f1_met"] + values["f1_not_met"]) / 2
        return values[what]

    return statistic


def _clipped(statistic: Statistic) -> Statistic:
    return lambda graded, weights: np.clip(statistic(graded, weights), 0, 1)


def _deviation(statistic: Statistic) -> Statistic:
    """Return the standard deviation over the resamples, all rows of weights but the first."""
    return lambda graded, weights: np.full(len(weights), np.std(statistic(graded, weights[1:])))


def _file(folder: Path, pattern: str) -> Path:
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        raise BftembedError(f"{len(found)} files {pattern} in {folder}; one is needed.")
    return found[0]


_AXES = ("accuracy", "completeness", "communication_quality", "context_awareness", "instruction_following")

HEALTHBENCH = HealthBench("healthbench", "HealthBench", "2*_oss_eval.jsonl", 0.0299)
HEALTHBENCH_HARD = HealthBench("healthbench-hard", "HealthBench Hard", "hard_*.jsonl", 0.0392)
HEALTHBENCH_CONSENSUS = HealthBench("healthbench-consensus", "HealthBench Consensus", "consensus_*.jsonl", 0.0020)
HEALTHBENCH_JUDGE = JudgeAgreement()

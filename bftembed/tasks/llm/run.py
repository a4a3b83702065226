"""Verbs of the evaluations: ask, score again from the store, show answers, export."""

from __future__ import annotations

import dataclasses
import json
import math
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bftembed.datasets.fetch import find_data
from bftembed.errors import BftembedError, examples
from bftembed.io import atomic_path, canonical_json, sha256_text, write_json, write_text
from bftembed.llm.ask import Ask, AskedModel
from bftembed.llm.base import Request, Sampling
from bftembed.llm.store import AnswerStore
from bftembed.progress import Progress, silent
from bftembed.tasks.base import EVALUATIONS
from bftembed.tasks.llm.base import Question, chosen, load_evaluation
from bftembed.tasks.llm.similarity import SimilarityPercentile

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence

    import pandas as pd

    from bftembed.llm.base import Answer
    from bftembed.tasks.llm.base import Evaluation

_RUN, _RECORDS, _RESULTS, _QUESTIONS = "run.json", "records.parquet", "results.parquet", "questions"
#: Names of several evaluations.
_SETS = {"perturbqa": ("perturbqa-de", "perturbqa-dir"), "vcworld": ("tahoe-de", "tahoe-dir")}


def list_evaluations() -> list[dict[str, str]]:
    """List the evaluations: name, title, protocol, and the data that each needs below the data folder."""
    found = [load_evaluation(name) for name in EVALUATIONS.names()]
    return [{"name": e.name, "title": e.title, "protocol": e.protocol, "data": e.source} for e in found]


def evaluations_of(
    names: Sequence[str] | str, *, judge: str | None = None, data: str | os.PathLike[str] | None = None
) -> dict[Evaluation, Path]:
    """Return the evaluations that names mean, and the folder of the data of each.

    Raises
    ------
    BftembedError
        For an unknown name, a model that grades and was not named, and missing data.
    """
    single = [one for name in ([names] if isinstance(names, str) else names) for one in _SETS.get(name, (name,))]
    found = [load_evaluation(name) for name in dict.fromkeys(single)]
    if judged := [e.name for e in found if e.judged and not judge]:
        raise BftembedError(f"{', '.join(judged)} needs a model that grades: judge=SPEC (--judge).")
    return {e: find_data(data, e.folder).parent if e.folder else Path(data or ".") for e in found}


def evaluate(
    tasks: Sequence[str] | str,
    *,
    model: Sequence[str] | Mapping[str, str],
    out: str | os.PathLike[str],
    data: str | os.PathLike[str] | None = None,
    limit: int = 0,
    seed: int = 0,
    judge: str | None = None,
    evidence: str | os.PathLike[str] | None = None,
    encoder: str | None = None,
    retry_failed: bool = False,
    progress: Progress = silent,
) -> pd.DataFrame:
    """Evaluate language models: ask what is not stored yet, grade the answers, score them with baselines.

    Every answer is stored as it comes. A run that was stopped goes on with the same command; further models, tasks and
    a larger limit may be added to a folder.

    Parameters
    ----------
    tasks
        Evaluations, see `list_evaluations`; ``vcworld`` is those of the paper's five cell lines (``tahoe-…``),
        ``perturbqa`` both of PerturbQA.
    model
        Specs of language models, ``NAME=SPEC`` names one. The others are compared with the first.
    out
        Folder of answers, ``records.parquet`` (a row per question and model) and ``results.parquet``.
    data
        Folder with the data of the evaluations; default the folders of ``$BFTEMBED_DATA``.
    limit
        Number of questions of each evaluation, spread evenly over its groups; 0 is all.
    seed
        Which questions a limit takes.
    judge
        Spec of the model that grades, for evaluations that need one.
    evidence
        Embeddings of perturbations (genes or drugs), by whose cosine ``perturbqa``, ``tahoe`` and ``vcworld`` choose
        their examples; without them perturbations come in random order.
    encoder
        Spec of an encoder of texts, by which ``geneagent`` also compares names with the references.
    retry_failed
        Ask again where the stored answer is a failure.

    Other Parameters
    ----------------
    progress
        Called with the number of answers.

    Returns
    -------
    DataFrame
        The results table.

    Raises
    ------
    BftembedError
        For an unknown evaluation, missing data, questions that differ from those stored in `out`, or a model that
        cannot do what an evaluation asks for.
    """
    homes = evaluations_of(tasks, judge=judge, data=data)
    vectors = _vectors(evidence) if evidence else {}
    asked = {e: e.prepare(chosen(e.questions(home), limit, seed), home, vectors) for e, home in homes.items()}
    return evaluate_questions(
        asked,
        model=model,
        out=out,
        data=data,
        judge=judge,
        encoder=encoder,
        retry_failed=retry_failed,
        progress=progress,
    )


def evaluate_questions(
    asked: Mapping[Evaluation, Sequence[Question]],
    *,
    model: Sequence[str] | Mapping[str, str],
    out: str | os.PathLike[str],
    data: str | os.PathLike[str] | None = None,
    judge: str | None = None,
    encoder: str | None = None,
    retry_failed: bool = False,
    progress: Progress = silent,
) -> pd.DataFrame:
    """Evaluate language models by questions that were chosen before; all else is as in `evaluate`."""
    folder, evaluations = Path(out), list(asked)
    models = {name: AskedModel.of(spec) for name, spec in _named(model).items()}
    grader = AskedModel.of(judge) if judge else None
    if any(e.schema for e in evaluations):
        for one in filter(None, [*models.values(), grader]):
            one.schema = one.model is not None and one.model.capabilities().schema
    with AnswerStore.writing(folder) as store:
        for evaluation, questions in asked.items():
            _keep_questions(folder, evaluation.name, questions)
        _keep_run(folder, evaluations, models, grader, encoder)
        for evaluation in evaluations:
            for name, one in models.items():
                ask = Ask(store, one, evaluation.name, progress, retry_failed, Path(data) if data else None)
                by_judge = Ask(store, grader, f"{evaluation.name}/judge", progress, retry_failed) if grader else None
                progress(0, len(asked[evaluation]), f"{evaluation.name}, {name}")
                evaluation.ask(asked[evaluation], ask, by_judge)
                _keep_seconds(folder, evaluation.name, name, ask)
    return _score(folder, data)


def score_evaluation(out: str | os.PathLike[str]) -> pd.DataFrame:
    """Grade and score the stored answers of a folder again; no model is asked.

    Parameters
    ----------
    out
        Folder of `evaluate`.

    Returns
    -------
    DataFrame
        The results table; ``results.parquet`` and ``records.parquet`` are written anew.
    """
    return _score(Path(out), None)


def _score(folder: Path, data: str | os.PathLike[str] | None) -> pd.DataFrame:
    import pandas as pd

    from bftembed.tasks.base import Result, to_frame
    from bftembed.tasks.llm.scores import SECONDS, score_rows

    run = _read_run(folder)
    similarity = SimilarityPercentile(run["encoder"], folder, data) if run.get("encoder") else None
    models = {name: AskedModel.stored(one) for name, one in run["models"].items()}
    grader = AskedModel.stored(run["judge"]) if run["judge"] else None
    rows, records = [], []
    with AnswerStore.open(folder) as store:
        for task in run["tasks"]:
            evaluation, questions = copy(load_evaluation(task)), _stored_questions(folder, task)
            evaluation.similarity = similarity
            graded, named = {}, _run_name(task, questions)
            for name, one in models.items():
                by_judge = Ask(store, grader, f"{task}/judge") if grader else None
                answers = evaluation.ask(questions, Ask(store, one, task), by_judge)
                if not answers:
                    continue  # this model was not asked this evaluation
                of_model = [_record(evaluation, q, answers.get(q.id, []), name) for q in questions]
                records += of_model
                graded["subject", name] = _frame(questions, {r["id"]: r["scores"] for r in of_model})
                tokens = [math.nan if r["error"] else r["prompt_tokens"] + r["completion_tokens"] for r in of_model]
                graded["subject", name]["tokens"] = tokens
                if name in (timed := run.get("seconds", {}).get(task, {})):
                    seconds, n = timed[name]
                    missing = sum(bool(r["error"]) for r in of_model)
                    about = (named, name, task, evaluation.protocol, SECONDS.name)
                    rows.append(Result(*about, value=seconds / n, n=n, n_missing=missing))
            if graded:
                for key, scores in evaluation.baselines(questions).items():
                    graded[key] = _frame(questions, scores)
                rows += score_rows(evaluation, named, graded)
    if similarity:
        similarity.keep()
    table = to_frame(rows, folder / _RESULTS)
    for record in records:
        there = {name: value for name, value in record["scores"].items() if value == value}  # JSON has no NaN
        record["scores"] = canonical_json(there)
    with atomic_path(folder / _RECORDS) as temporary:
        pd.DataFrame(records).to_parquet(temporary, index=False)
    return table


def show_evaluation(
    out: str | os.PathLike[str], *, task: str | None = None, model: str | None = None, failed: bool = False, n: int = 5
) -> list[dict[str, Any]]:
    """Return questions with their answers and scores.

    Parameters
    ----------
    out
        Folder of `evaluate`.
    task, model
        Only of this evaluation and this model.
    failed
        Only those whose main score is 0, or that have none.
    n
        Number of questions; 0 is all.

    Returns
    -------
    list of dict
        Rows of ``records.parquet``.
    """
    import pandas as pd

    path = Path(out) / _RECORDS
    if not path.is_file():
        raise BftembedError(f"No {_RECORDS} in {out}: bftembed eval run writes it.")
    table = pd.read_parquet(path)
    for column, wanted in (("task", task), ("subject", model)):
        if wanted is not None:
            if wanted not in set(table[column]):
                raise BftembedError(f"No {wanted} in {out}; there are {examples(sorted(set(table[column])))}.")
            table = table[table[column] == wanted]
    if failed:
        main = {t: load_evaluation(t).metrics[0].name for t in set(table["task"])}
        scores = [json.loads(s).get(main[t]) for s, t in zip(table["scores"], table["task"], strict=True)]
        table = table[[not s for s in scores]]
    found: list[dict[str, Any]] = (table.head(n) if n else table).to_dict("records")
    return found


def _named(model: Sequence[str] | Mapping[str, str]) -> dict[str, str]:
    """Return name → spec; a spec without a name is its own."""
    if isinstance(model, dict):
        return dict(model)
    found: dict[str, str] = {}
    for one in [model] if isinstance(model, str) else model:
        name, sign, spec = one.partition("=")
        name, spec = (name, spec) if sign and ":" not in name and "," not in name else (one, one)
        if name in found:
            raise BftembedError(f"Two models are called {name!r}. Name them: NAME={spec}")
        found[name] = spec
    return found


# -- what a folder holds ----------------------------------------------------------------------------------


def _vectors(path: str | os.PathLike[str]) -> dict[str, Any]:
    from bftembed.embeddings import GeneEmbeddings

    found = GeneEmbeddings.load(path)
    return dict(zip(found.ids, found.matrix, strict=True))


def _keep_questions(folder: Path, task: str, questions: Sequence[Question]) -> None:
    """Add the questions to those that are stored, which must be the same where ids are."""
    path = folder / _QUESTIONS / f"{task}.jsonl"
    lines = {q.id: canonical_json(dataclasses.asdict(q)) for q in questions}
    if path.exists():
        before = {q.id: canonical_json(dataclasses.asdict(q)) for q in _stored_questions(folder, task)}
        changed = [id for id, line in lines.items() if before.get(id, line) != line]
        if changed:
            raise BftembedError(
                f"{len(changed)} questions of {task} differ from those in {folder} (first: {changed[0]}): the data are "
                "of another revision. Give another --out."
            )
        lines = before if lines.keys() <= before.keys() else lines | before
    path.parent.mkdir(exist_ok=True)
    write_text(path, "".join(f"{line}\n" for line in lines.values()))


def _stored_questions(folder: Path, task: str) -> list[Question]:
    path = folder / _QUESTIONS / f"{task}.jsonl"
    found = []
    try:
        for line in path.read_text(encoding="utf-8").splitlines():
            values = json.loads(line)
            request = values.pop("request")
            request["sampling"] = Sampling(**request["sampling"])
            request["messages"], request["options"] = tuple(request["messages"]), tuple(request["options"])
            found.append(Question(request=Request(**request), **values))
    except (OSError, ValueError, KeyError, TypeError) as err:
        raise BftembedError(f"{path} cannot be read ({err}); bftembed eval run writes it.") from err
    return found


def _keep_run(
    folder: Path,
    evaluations: Sequence[Evaluation],
    models: Mapping[str, AskedModel],
    judge: AskedModel | None,
    encoder: str | None,
) -> None:
    path = folder / _RUN
    run = _read_run(folder) if path.exists() else {"tasks": [], "models": {}, "judge": None}
    run["tasks"] = list(dict.fromkeys([*run["tasks"], *(e.name for e in evaluations)]))
    run["models"] |= {name: one.stored_values() for name, one in models.items()}
    run["judge"] = judge.stored_values() if judge else run["judge"]
    run["encoder"] = encoder or run.get("encoder")
    write_json(path, run)


def _keep_seconds(folder: Path, task: str, name: str, ask: Ask) -> None:
    """Add the time that a model took, and the number of its answers."""
    if ask.written:
        run = _read_run(folder)
        of_task = run.setdefault("seconds", {}).setdefault(task, {})
        seconds, n = of_task.get(name, (0.0, 0))
        of_task[name] = (seconds + ask.seconds, n + ask.written)
        write_json(folder / _RUN, run)


def _read_run(folder: Path) -> dict[str, Any]:
    try:
        run: dict[str, Any] = json.loads((folder / _RUN).read_text(encoding="utf-8"))
    except (OSError, ValueError) as err:
        raise BftembedError(f"{folder} is not a folder of bftembed eval run ({_RUN}: {err}).") from err
    return run


def _run_name(task: str, questions: Sequence[Question]) -> str:
    """Return the name of the data: scores of the same questions have the same name."""
    content = [[q.id, q.request.content(), q.answer] for q in questions]
    return f"{task}, {len(questions)} questions@{sha256_text(canonical_json(content))[:8]}"


def _record(evaluation: Evaluation, question: Question, answers: Sequence[Answer], subject: str) -> dict[str, Any]:
    scores = evaluation.grade(question, answers)
    last = answers[-1] if answers else None
    asked = question.request
    return {
        "task": evaluation.name,
        "subject": subject,
        "id": question.id,
        "group": question.group,
        "prompt": asked.prompt or "\n\n".join(m["content"] for m in asked.messages),
        "right": question.answer,
        "parsed": str(scores.pop("parsed", "")),
        "text": last.text if last else "",
        "reasoning": last.reasoning if last else "",
        "error": last.error if last else "not asked",
        "requests": len(answers),
        "prompt_tokens": sum(a.prompt_tokens for a in answers),
        "completion_tokens": sum(a.completion_tokens for a in answers),
        "scores": scores,
    }


def _frame(questions: Sequence[Question], scores: Mapping[str, dict[str, Any]]) -> pd.DataFrame:
    import pandas as pd

    table = pd.DataFrame([scores.get(q.id, {}) for q in questions], index=[q.id for q in questions])
    table["group"] = [q.group for q in questions]
    table["cluster"] = [q.cluster or q.id for q in questions]
    return table

"""Answers with their scores to read: one HTML page, or logs of Inspect (inspect.aisi.org.uk)."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bftembed.errors import BftembedError
from bftembed.io import write_text
from bftembed.tasks.llm.base import load_evaluation
from bftembed.tasks.llm.run import show_evaluation

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence


def export_evaluation(
    out: str | os.PathLike[str],
    *,
    to: str | os.PathLike[str] | None = None,
    inspect: bool = False,
    task: str | None = None,
    model: str | None = None,
    failed: bool = False,
    n: int = 100,
) -> list[Path]:
    """Write questions with prompts, answers, reasoning and scores to read.

    Parameters
    ----------
    out
        Folder of `evaluate`.
    to
        HTML file to write; default ``answers.html`` in `out`. With `inspect`, the folder of the logs; default
        ``inspect`` in `out`.
    inspect
        Write a log of Inspect per evaluation and model, for ``inspect view``; needs the package inspect-ai.
    task, model, failed
        As for `show_evaluation`.
    n
        Number of questions per evaluation and model; 0 is all.

    Returns
    -------
    list of Path
        The files.

    Raises
    ------
    BftembedError
        When nothing was scored in `out`, or inspect-ai is not installed.
    """
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for record in show_evaluation(out, task=task, model=model, failed=failed, n=0):
        held = groups.setdefault((record["task"], record["subject"]), [])
        if not n or len(held) < n:
            held.append({**record, "scores": json.loads(record["scores"])})
    if not groups:
        raise BftembedError(f"No such questions in {out}.")
    target = Path(to) if to else Path(out) / ("inspect" if inspect else "answers.html")
    if inspect:
        return [_write_log(target, *key, records) for key, records in groups.items()]
    from bftembed.report.html import render

    shown = [{"title": load_evaluation(t).title, "subject": s, "records": found} for (t, s), found in groups.items()]
    write_text(target, render("answers.html.j2", title=f"Answers: {Path(out).name}", groups=shown))
    return [target]


def _write_log(folder: Path, task: str, subject: str, records: Sequence[dict[str, Any]]) -> Path:
    try:
        from inspect_ai.log import (
            EvalConfig,
            EvalDataset,
            EvalError,
            EvalLog,
            EvalResults,
            EvalSample,
            EvalSpec,
            write_eval_log,
        )
        from inspect_ai.model import ChatMessageUser, ModelOutput
        from inspect_ai.scorer import Score
    except ImportError as err:
        raise BftembedError("Logs of Inspect need its package: pip install inspect-ai") from err
    samples = []
    for record in records:
        output = ModelOutput.from_content(subject, record["text"])
        error = record["error"]
        samples.append(
            EvalSample(
                id=record["id"],
                epoch=1,
                input=record["prompt"],
                target=record["right"],
                messages=[
                    ChatMessageUser(content=record["prompt"]),
                    *([output.choices[0].message] if not error else []),
                ],
                output=output,
                scores={name: Score(value=value, answer=record["parsed"]) for name, value in record["scores"].items()},
                metadata={"group": record["group"], "reasoning": record["reasoning"]},
                error=EvalError(message=error, traceback="", traceback_ansi="") if error else None,
            )
        )
    now = datetime.now(UTC).isoformat(timespec="seconds")
    spec = EvalSpec(
        created=now, task=task, model=subject, dataset=EvalDataset(samples=len(samples)), config=EvalConfig()
    )
    results = EvalResults(total_samples=len(samples), completed_samples=sum(not s.error for s in samples))
    folder.mkdir(parents=True, exist_ok=True)
    name = "".join(c if c.isalnum() or c in "-_." else "-" for c in f"{task}_{subject}")
    path = folder / f"{name}.eval"
    write_eval_log(EvalLog(eval=spec, status="success", samples=samples, results=results), path)
    return path

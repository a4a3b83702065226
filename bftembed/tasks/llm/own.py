"""Questions of one's own with their right answers, in JSON Lines."""

from __future__ import annotations

import json
import math
import random
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bftembed.errors import BftembedError
from bftembed.llm.base import Request
from bftembed.tasks.base import Metric
from bftembed.tasks.llm.base import Evaluation, Question, balanced_by_answer
from bftembed.tasks.llm.multiple_choice import read_choice

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bftembed.llm.base import Answer


class OwnQuestions(Evaluation):
    """Questions with generated answers, from one file or from ``questions/*.jsonl`` below the data folder.

    Each line is an object with ``prompt`` (a question) or ``messages`` (a chat), and ``answer``; where it has
    ``options``, a list, the answer is the one that the text names, in any case, else the whole text. Of those with
    ``"split": "train"`` a model may learn. ``group`` and ``cluster`` mean what they mean in `Question`.

    Parameters
    ----------
    file
        The file; None for all of the data folder.
    """

    name, title, folder = "questions", "Own questions", "questions"
    protocol, source = "generated answer, greedy", "questions/*.jsonl, rows of prompt, answer, options"
    metrics = (Metric("accuracy", "accuracy"), Metric("answered", "answered", concludes=False))

    def __init__(self, file: str | None = None) -> None:
        self._file = file
        self.folder = "" if file else "questions"

    def questions(self, data: Path) -> list[Question]:
        """Return the questions that are not for training."""
        return self._read(data, training=False)

    def training_questions(self, data: Path, n: int, *, seed: int = 0, balanced: bool = False) -> list[Question]:
        """Return questions for training, in random order."""
        found = self._read(data, training=True)
        random.Random(seed).shuffle(found)
        return balanced_by_answer(found, n, seed) if balanced else found[: n or None]

    def _read(self, data: Path, *, training: bool) -> list[Question]:
        files = [Path(self._file)] if self._file else sorted((data / self.folder).glob("*.jsonl"))
        found = []
        for path in files:
            try:
                lines = path.read_text(encoding="utf-8-sig").split("\n")
            except (OSError, UnicodeError) as err:
                raise BftembedError(f"{path} cannot be read as UTF-8: {err}.") from err
            for number, line in enumerate(lines, 1):
                if line.strip():
                    try:
                        row = json.loads(line)
                        question = _question(row, f"{path.stem}:{number}")
                    except (ValueError, TypeError, KeyError, AttributeError) as err:
                        raise BftembedError(
                            f'{path}, line {number}: {err!r}. Expected {{"prompt": "…", "answer": "…"}}.'
                        ) from err
                    found += [question] if (row.get("split") == "train") == training else []
        return found

    def grade(self, question: Question, answers: Sequence[Answer]) -> dict[str, Any]:
        """Return accuracy (0 or 1), and whether an answer could be read; NaN for a question that failed."""
        answer = answers[-1] if answers else None
        if answer is None or answer.error:
            return {"accuracy": math.nan, "answered": math.nan}
        options = question.data["options"]
        parsed = read_choice(answer.text, options) if options else answer.text.strip().rstrip(".").lower()
        right = parsed.lower() == question.answer.lower()
        return {"accuracy": float(right), "answered": float(bool(parsed)), "parsed": parsed[:80]}

    def baselines(self, questions: Sequence[Question]) -> dict[tuple[str, str], dict[str, dict[str, float]]]:
        """Return the most frequent answer, and chance where there are options."""
        common = Counter(q.answer for q in questions).most_common(1)[0][0]
        found = {("baseline", f"always {common}"): {q.id: {"accuracy": float(q.answer == common)} for q in questions}}
        if all(q.data["options"] for q in questions):
            found["chance", "chance"] = {q.id: {"accuracy": 1 / len(q.data["options"])} for q in questions}
        return found


def _question(row: dict[str, Any], id: str) -> Question:
    messages = row["messages"] if "messages" in row else [{"role": "user", "content": row["prompt"]}]
    chat = tuple({"role": m["role"], "content": m["content"]} for m in messages)
    answer, options = row["answer"], list(row.get("options") or [])
    texts = [answer, *options, *(text for message in chat for text in message.values())]
    if not chat or not all(isinstance(text, str) and text.strip() for text in texts):
        raise ValueError("prompt, answer and options must be texts that are not empty")
    if options and answer not in options:
        raise ValueError(f"the answer {answer!r} is not one of the options")
    request = Request(
        "",
        messages=chat,
    )
    group, cluster = str(row.get("group", "")), str(row.get("cluster", ""))
    return Question(id, request, answer, group, cluster, {"options": options})


QUESTIONS = OwnQuestions()

"""A model with known answers, for tests of evaluations."""

from __future__ import annotations

import csv
import json
import time
from pathlib import Path

from bftembed.llm.base import Capabilities, Completion

#: Question and options of a row of MMLU.
ROW = ["Which?", "one", "two", "three", "four"]


def write_csv(path, rows):
    """Write rows to a CSV file without header."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as handle:
        csv.writer(handle).writerows(rows)


class Known:
    """Answers from a JSON file: id of the question → text, option scores, or {"error": …}.

    ``turns`` has several texts of an id, given in turn. Asked ids go to a log beside the file.
    """

    sampling = None
    batch_size = 4

    def __init__(self, model: str, options: bool = True) -> None:
        self.path = Path(model)
        self.answers = json.loads(self.path.read_text())
        self.options = options

    def fingerprint(self):
        return {"engine": "known", "model": self.path.stem}

    def capabilities(self):
        return Capabilities(options=self.options, schema=True)

    def generate(self, requests):
        for request in requests:
            with (self.path.parent / f"{self.path.stem}.log").open("a") as log:
                log.write(request.metadata["entity"] + "\n")
            entity = request.metadata["entity"]
            answer = self.answers.get(entity, self.answers.get("*"))
            if turns := self.answers.get("turns", {}).get(entity):
                answer = turns.pop(0) if len(turns) > 1 else turns[0]
            if isinstance(answer, dict):
                yield Completion(request.id, finish_reason="error", error=answer["error"])
            elif isinstance(answer, list):
                yield Completion(request.id, scores=tuple(answer), prompt_tokens=7)
            else:
                yield Completion(request.id, text=answer, prompt_tokens=7, completion_tokens=3)


class Agent:
    """Answers that the request alone decides: an action, a claim or a verdict as its schema asks, else a word."""

    sampling = None
    batch_size = 2

    def __init__(self, model: str, delay: float = 0.0) -> None:
        self.log, self.delay = Path(model), delay

    def fingerprint(self):
        return {"engine": "agent"}

    def capabilities(self):
        return Capabilities(options=True, schema=True)

    def generate(self, requests):
        for request in requests:
            time.sleep(self.delay)
            with self.log.open("a") as log:
                log.write(request.id + "\n")
            if request.options:
                scores = tuple(-float(int(request.id[i], 16)) for i in range(len(request.options)))
                yield Completion(request.id, scores=scores, prompt_tokens=7)
            else:
                yield Completion(request.id, text=self.answer(request), prompt_tokens=7, completion_tokens=3)

    def answer(self, request):
        schema = request.schema or {}
        asked = schema.get("properties", {})
        even = int(request.id[0], 16) % 2 == 0
        if "criteria_met" in asked:
            return json.dumps({"explanation": "because", "criteria_met": even})
        if "claims" in asked:
            return json.dumps({"claims": ["the genes act together", "the first gene is known"]})
        if "process" in asked:
            return json.dumps({"process": f"process {request.id[:4]}", "reason": "the genes say so"})
        if "anyOf" in schema and even:
            return json.dumps(
                {"action": "summary", "genes": schema["anyOf"][0]["properties"]["genes"]["items"]["enum"][:1]}
            )
        if "anyOf" in schema or "verdict" in asked:
            return json.dumps({"action": "report", "verdict": "supported", "report": "it is so"})
        return "EGFR phosphorylates KRAS G12C; osimertinib inhibits it. Yes."

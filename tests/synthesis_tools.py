"""A teacher whose answers the request alone decides, and its sources."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

from bftembed.llm.base import Capabilities, Completion

#: What the teacher does with the word for it in a text.
FAULTS = {
    "FAULT-STATEMENTS": '["It is so.", "", "?"]',
    "FAULT-PROSE": "I would rather tell you something else.",
    "FAULT-SOURCE": '["What does the text say about zinc?"]',
}
ANSWERS = {
    "REFUSE": "I'm sorry, but I cannot help with that.",
    "NONE": "None.",
    "SOURCE": "According to the text, zinc is a metal.",
    "LOOP": "Zinc is a metal. " * 12,
    "EMPTY": "",
}


class Teacher:
    """Asks as many questions as wanted about the text, and answers them; `model` is the file to which it logs."""

    sampling = None

    def __init__(
        self, model: str, delay: float = 0.0, schema: bool = True, thinks: str = "", batch: int = 2, context: int = 0
    ) -> None:
        self.log, self.delay, self.schema, self.thinks = Path(model), delay, schema, thinks
        self.batch_size, self.context = batch, context

    def fingerprint(self):
        return {"engine": "teacher", "thinks": self.thinks}

    def capabilities(self):
        return Capabilities(schema=self.schema)

    def generate(self, requests):
        for request in requests:
            time.sleep(self.delay)
            text = request.messages[0]["content"]
            with self.log.open("a") as log:
                log.write(request.id + "\n")
            if self.context and len(text) > 4 * self.context:
                error = f"the prompt has {len(text) // 4} tokens; it exceeds the context of {self.context}"
                yield Completion(request.id, finish_reason="error", error=error)
                continue
            reason = "length" if "FAULT-CUT" in text else "stop"
            yield Completion(request.id, self.answer(text, request), self.thinks, reason, len(text) // 4, 5)

    def answer(self, text, request):
        if "Write down the expert's thoughts" in text:
            if "SUBJECT-ECHO" in text:
                return text.rpartition("Answer:\n")[2]
            return "I recall what zinc does, and from that the rest follows."
        if n := re.search(r"Write (\d+) exam questions", text):
            if fault := next((answer for word, answer in FAULTS.items() if word in text), None):
                return fault
            about = (re.search(r"contains the name (\S+)", text) or re.search(r"SUBJECT-\w+", text) or n)[0]
            about = about.removeprefix("contains the name ")
            questions = [f"What is fact {i} of {about}?" for i in range(int(n[1]))]
            return json.dumps({"questions": questions} if request.schema else questions)
        if faults := [answer for word, answer in ANSWERS.items() if f"ANSWER-{word}" in text]:
            return faults[0]
        asked = re.search(r"What is fact \d+ of \S+\?", text)
        return f"The fact is {request.id[:8]}, since zinc binds there ({asked[0][:-1] if asked else 'a reply'})."


def write_rubrics(path, n=3, first=0, **more):
    """Write prompts with made-up rubrics in the form of HealthBench."""
    rows = [
        {
            "prompt_id": f"made-up-{i}",
            "prompt": [
                {"role": "user", "content": f"I have taken {i} zinc tablets and feel unwell, what now?"},
                {"role": "assistant", "content": "How many, and when?"},
                {"role": "user", "content": f"All {i} of them this morning, on an empty stomach, doctor."},
            ],
            "rubrics": [
                {"criterion": f"Advises to call a made-up poison centre in case {i}.", "points": 5, "tags": []},
                {"criterion": "Recommends an unsafe amount of made-up medicine.", "points": -7, "tags": []},
            ],
            **more,
        }
        for i in range(first, first + n)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path

"""A model with the sampling of its spec, for tests of backends."""

from __future__ import annotations

from dataclasses import replace

from bftembed.llm import generator_fingerprint, model_from_spec
from bftembed.llm.base import Request
from bftembed.llm.reasoning import read_answer
from bftembed.profiles.prompts import get_prompt


class Sampled:
    """`generate` answers with the sampling of the spec; the rest is the model's."""

    def __init__(self, spec):
        self.model, self.sampling = model_from_spec(spec)

    def __getattr__(self, name):
        return getattr(self.model, name)

    def generate(self, requests):
        return self.model.generate([replace(request, sampling=self.sampling) for request in requests])

    def fingerprint(self):
        return generator_fingerprint(self.model, self.sampling)


def gene_requests(names):
    """Requests for profiles, with made-up keys of 64 hexadecimal digits."""
    prompt = get_prompt(None, "gene")
    return [
        Request(f"{i:064x}", prompt.messages(name), metadata={"entity": name, "kind": "gene"})
        for i, name in enumerate(names)
    ]


def answer_of(text):
    """The answer in a generated text."""
    return read_answer(text)[0]

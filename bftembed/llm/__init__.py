"""Language models by spec. Add a backend: a file in `backends` and a line in `BACKENDS`."""

from __future__ import annotations

import inspect
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from bftembed.llm.base import Sampling
from bftembed.registry import Registry, Spec, parse_spec

if TYPE_CHECKING:
    from bftembed.llm.base import LanguageModel

BACKENDS = Registry(
    "generator",
    {
        "facts": "bftembed.profiles.facts:Facts",
        "llamacpp": "bftembed.llm.backends.llamacpp:LlamaCpp",
        "openai": "bftembed.llm.backends.openai:OpenAI",
        "openai-batch": "bftembed.llm.backends.openai_batch:OpenAIBatch",
        "scripted": "bftembed.llm.backends.scripted:Scripted",
        "transformers": "bftembed.llm.backends.transformers:Transformers",
        "vllm": "bftembed.llm.backends.vllm:VLLM",
    },
    group="bftembed.generators",
)


def model_spec(text: str, **options: Any) -> Spec:
    """Parse the spec of a model, such as ``scripted:delay=0.02`` or ``builtin:smollm2-135m-instruct,dtype=fp32``.

    ``builtin:NAME`` means transformers; `options` that are not None override those of the text.
    """
    spec = parse_spec(text)
    given = spec.options | {name: value for name, value in options.items() if value is not None}
    if spec.engine == "builtin":
        return Spec("transformers", f"builtin:{spec.model}", given)
    return Spec(spec.engine, spec.model, given)


def model_from_spec(spec: str | Spec) -> tuple[LanguageModel, Sampling]:
    """Build a model and the sampling that its spec asks for; no weights are loaded yet.

    ``max_new_tokens``, ``temperature``, ``top_p``, ``stop`` and ``seed`` are of the sampling, the rest of the backend;
    a backend may ask for one of these as well.
    """
    spec = model_spec(spec) if isinstance(spec, str) else spec
    backend = BACKENDS.load(spec.engine)
    default: Sampling | None = getattr(backend, "sampling", Sampling())
    own = inspect.signature(backend).parameters
    kinds = {f.name: f.type for f in fields(Sampling) if default}
    given = {n: BACKENDS.typed(spec, n, v, kinds[n]) for n, v in spec.options.items() if n in kinds}
    rest = {name: value for name, value in spec.options.items() if name not in kinds or name in own}
    model: LanguageModel = BACKENDS.create(Spec(spec.engine, spec.model, rest), others=list(kinds))
    return model, replace(default or Sampling(), **given)


def generator_fingerprint(model: LanguageModel, sampling: Sampling) -> dict[str, Any]:
    """Return all that decides an answer but the request: of the model, and of the sampling where it has one."""
    found = model.fingerprint()
    return found if getattr(model, "sampling", sampling) is None else with_sampling(found, sampling)


def with_sampling(fingerprint: dict[str, Any], sampling: Sampling) -> dict[str, Any]:
    """Return the fingerprint of a model with the sampling of its answers."""
    return fingerprint | {"sampling": sampling.fingerprint(server="server" in fingerprint)}

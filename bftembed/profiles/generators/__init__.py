"""Engines that write profiles. Add one: a file here and a line in `GENERATORS`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bftembed.registry import Registry, Spec, parse_spec

if TYPE_CHECKING:
    from bftembed.profiles.records import Generator

GENERATORS = Registry(
    "generator",
    {
        "facts": "bftembed.profiles.generators.facts:FactsGenerator",
        "llamacpp": "bftembed.profiles.generators.llamacpp:LlamaCppGenerator",
        "openai": "bftembed.profiles.generators.openai:OpenAIGenerator",
        "openai-batch": "bftembed.profiles.generators.openai_batch:OpenAIBatchGenerator",
        "scripted": "bftembed.profiles.generators.scripted:ScriptedGenerator",
        "transformers": "bftembed.profiles.generators.transformers:TransformersGenerator",
        "vllm": "bftembed.profiles.generators.vllm:VLLMGenerator",
    },
    group="bftembed.generators",
)


def generator_spec(text: str, **options: Any) -> Spec:
    """Parse a generator spec; ``builtin:NAME`` means the default engine, options given here are added.

    Parameters
    ----------
    text
        For example ``facts``, ``scripted:delay=0.02``, ``builtin:smollm2-135m-instruct,dtype=fp32``.
    **options
        Options that override those of the text; None means not given.
    """
    spec = parse_spec(text)
    given = {name: value for name, value in options.items() if value is not None}
    if spec.engine == "builtin":
        return Spec("transformers", f"builtin:{spec.model}", {**spec.options, **given})
    return Spec(spec.engine, spec.model, {**spec.options, **given})


def generator_from_spec(spec: str | Spec) -> Generator:
    """Build a generator; no weights are loaded yet.

    Raises
    ------
    UnknownNameError
        For an unknown engine or option, with "did you mean".
    BftembedError
        For a model that cannot be found.
    """
    generator: Generator = GENERATORS.create(generator_spec(spec) if isinstance(spec, str) else spec)
    return generator

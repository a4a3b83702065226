"""Configs of single verbs: the recipe is the name of a command, the keys are the parameters of its Python function."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from typing import TYPE_CHECKING, Any

from bftembed.errors import BftembedError, unknown_name

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

#: Recipe → the verb that ``bftembed run`` calls with the other keys.
VERBS = {
    "profiles generate": "bftembed.profiles.generate:generate_profiles",
    "genes embed": "bftembed.embeddings:embed_genes",
    "cells embed": "bftembed.cells.embed:embed_cells",
    "bench clustering": "bftembed.bench:clustering",
    "bench integration": "bftembed.bench:integration",
    "bench genes": "bftembed.bench:genes",
    "bench multimodal": "bftembed.bench:multimodal",
    "bench perturbation": "bftembed.bench:perturbation",
    "export state": "bftembed.export:export_state",
}
_KINDS = {"int": (int,), "float": (int, float), "bool": (bool,), "str": (str,), "None": (type(None),)}


def load_verb(name: str) -> Callable[..., Any]:
    """Return the function behind a recipe."""
    module, _, attribute = VERBS[name].partition(":")
    return getattr(importlib.import_module(module), attribute)


def check_options(
    verb: Callable[..., Any], options: Mapping[str, Any], *, where: str, given: Collection[str] = ("progress",)
) -> None:
    """Raise for an option that a verb does not have, a value of another type, or a required option that is missing.

    Parameters
    ----------
    verb
        Function with annotated parameters.
    options
        Name → value, as read from YAML.
    where
        File and key, for messages.
    given
        Parameters that are given otherwise.
    """
    parameters = {n: p for n, p in inspect.signature(verb).parameters.items() if n not in given}
    for name, value in options.items():
        if name not in parameters:
            raise unknown_name("key", name, parameters, where=where)
        if not _fits(value, str(parameters[name].annotation)):
            raise BftembedError(f"{where}: key {name!r} is {value!r}, expected {parameters[name].annotation}.")
    missing = [n for n, p in parameters.items() if p.default is inspect.Parameter.empty and n not in options]
    if missing:
        raise BftembedError(f"{where}: key {missing[0]!r} is missing.")


def _fits(value: Any, annotation: str) -> bool:
    """Return whether a YAML value can be what an annotation says; True where the annotation is not simple."""
    for found in re.findall(r"Literal(\[[^\]]*\])", annotation):
        if value in ast.literal_eval(found):
            return True
    kinds = [part.strip() for part in re.sub(r"\[[^\]]*\]+", "", annotation).split("|")]
    if isinstance(value, (list, dict)):
        return any(kind not in _KINDS and kind != "Literal" for kind in kinds)
    if any(kind not in _KINDS and kind not in ("Literal", "Iterable", "Sequence", "Mapping") for kind in kinds):
        return True  # a type of its own: a path, or text that the verb reads
    return any(type(value) in _KINDS.get(kind, ()) for kind in kinds)

"""Plug-in seams: specs such as ``engine:model,option=value`` and registries of lazy ``"module:Object"`` names."""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
import math
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bftembed.errors import BftembedError, unknown_name

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Annotation of an option → its type, in code and in words.
_TYPES = {"int": (int, "a whole number"), "float": (float, "a number"), "bool": (bool, "true or false")}


@dataclass(frozen=True)
class Spec:
    """A parsed ``engine:model[,option=value…]``; `model` is empty for engines that need none, options are typed."""

    engine: str
    model: str = ""
    options: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        """Return the spec as it would be typed."""
        pairs = [f"{k}={str(v).lower() if isinstance(v, bool) else v}" for k, v in self.options.items()]
        rest = ",".join(filter(None, [self.model, *pairs]))
        return f"{self.engine}:{rest}" if rest else self.engine


def parse_spec(text: str) -> Spec:
    """Parse ``"tfidf"``, ``"scripted:delay=0.02,fail=0.1"``, ``"transformers:/path/model,dtype=fp32"``.

    Raises
    ------
    BftembedError
        For an empty spec or an option without ``=``.
    """
    text = text.strip()
    engine, _, rest = text.partition("," if "," in text.partition(":")[0] else ":")
    if not engine:
        raise BftembedError(f"Empty spec {text!r}: expected engine:model[,option=value…].")
    model, options = "", dict[str, Any]()
    for i, part in enumerate(rest.split(",") if rest else []):
        key, sign, value = map(str.strip, part.partition("="))
        if sign and key.replace(".", "_").isidentifier():
            options[key] = _literal(value)
        elif i == 0:
            model = part.strip()
        else:
            raise BftembedError(f"Cannot read {part!r} in spec {text!r}: options are written name=value.")
    return Spec(engine.strip(), model, options)


def _literal(value: str) -> Any:
    if value.lower() in ("true", "false"):
        return value.lower() == "true"
    for convert in (int, float):
        with suppress(ValueError):
            return convert(value)
    return value


class Registry:
    """Names of one seam, each a lazy ``"module:Object"`` string; third parties add theirs as entry points of `group`.

    `what` is the word for errors, for example ``"generator"``.
    """

    def __init__(self, what: str, entries: dict[str, str], group: str) -> None:
        self.what, self.entries, self.group = what, dict(entries), group

    def _known(self) -> dict[str, str]:
        return {e.name: e.value for e in importlib.metadata.entry_points(group=self.group)} | self.entries

    def names(self) -> list[str]:
        """Return every known name, ours first."""
        return list(self.entries | self._known())

    def load(self, name: str) -> Any:
        """Import and return the object called `name`, or raise with "did you mean"."""
        place = self.entries.get(name) or self._known().get(name)
        if place is None:
            raise unknown_name(self.what, name, self.names())
        module, _, attribute = place.partition(":")
        return getattr(importlib.import_module(module), attribute)

    def create(self, spec: Spec, others: Sequence[str] = ()) -> Any:
        """Build the object of `spec`: ``Class(model, **options)``, or ``Class(**options)`` without a model.

        A parameter that is a dict collects the options that begin with its name: ``template_enable_thinking=false`` or
        ``template.enable_thinking=false`` is ``template={"enable_thinking": False}``. `others` are options that
        somebody else reads, for "did you mean".

        Raises
        ------
        UnknownNameError
            For an unknown engine or option.
        BftembedError
            For a model that is missing or given to an engine that takes none.
        """
        factory = self.load(spec.engine)
        parameters = dict(inspect.signature(factory).parameters)
        model = parameters.pop("model", None)
        collecting = [name for name, p in parameters.items() if str(p.annotation).startswith("dict[")]
        options: dict[str, Any] = {}
        for option, value in spec.options.items():
            into = next((c for c in collecting if option.startswith((f"{c}_", f"{c}."))), None)
            if option in parameters:
                options[option] = self.typed(spec, option, value, parameters[option].annotation)
            elif into:
                options.setdefault(into, {})[option[len(into) + 1 :]] = value
            else:
                raise unknown_name("option", option, [*parameters, *others], where=f"{self.what} {spec.engine!r}")
        if spec.model and model is None:
            raise BftembedError(f"The {self.what} {spec.engine!r} takes no model, but {spec.model!r} was given.")
        if model is not None and not spec.model and model.default is inspect.Parameter.empty:
            raise BftembedError(f"The {self.what} {spec.engine!r} needs a model: write {spec.engine}:MODEL.")
        return factory(spec.model, **options) if spec.model else factory(**options)

    def typed(self, spec: Spec, name: str, value: Any, annotation: object) -> Any:
        """Return an option as the type of an annotation (a string); types other than these pass unchecked."""
        kind = str(annotation).removesuffix(" | None")
        if kind == "str":
            return str(value)
        if kind == "float" and type(value) is int:
            return float(value)
        wanted, words = _TYPES.get(kind, (type(value), "finite"))
        if type(value) is not wanted or (isinstance(value, float) and not math.isfinite(value)):
            raise BftembedError(f"The option {name}={value!r} of the {self.what} {spec.engine!r} must be {words}.")
        return value

"""Plug-in seams: specs such as ``engine:model,option=value`` and registries of lazy ``"module:Object"`` names."""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bftembed.errors import BftembedError, unknown_name

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class Spec:
    """A parsed ``engine:model[,option=value…]``.

    Attributes
    ----------
    engine
        The part before the first colon (or before the first comma where there is no colon).
    model
        The part after it, up to the first comma; empty for engines that need none.
    options
        The rest, values converted to int, float or bool where they read as such.
    """

    engine: str
    model: str = ""
    options: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        """Return the spec as it would be typed."""
        pairs = [f"{k}={str(v).lower() if isinstance(v, bool) else v}" for k, v in self.options.items()]
        if self.model:
            return ",".join([f"{self.engine}:{self.model}", *pairs])
        return f"{self.engine}:{','.join(pairs)}" if pairs else self.engine


def parse_spec(text: str) -> Spec:
    """Parse ``"tfidf"``, ``"scripted:delay=0.02,fail=0.1"``, ``"transformers:/path/model,dtype=fp32"``.

    Raises
    ------
    BftembedError
        For an empty spec or an option without ``=``.
    """
    engine, _, rest = text.strip().partition(":")
    if "," in engine:
        engine, _, rest = text.strip().partition(",")
    if not engine:
        raise BftembedError(f"Empty spec {text!r}: expected engine:model[,option=value…].")
    model = ""
    options: dict[str, Any] = {}
    for i, part in enumerate(rest.split(",") if rest else []):
        key, eq, value = part.partition("=")
        if eq and key.strip().replace(".", "_").isidentifier():
            options[key.strip()] = _literal(value.strip())
        elif i == 0:
            model = part.strip()
        else:
            raise BftembedError(f"Cannot read {part!r} in spec {text!r}: options are written name=value.")
    return Spec(engine.strip(), model, options)


def _literal(value: str) -> Any:
    if value.lower() in ("true", "false"):
        return value.lower() == "true"
    for convert in (int, float):
        try:
            return convert(value)
        except ValueError:
            continue
    return value


class Registry:
    """Names of one seam, each a lazy ``"module:Object"`` string; third parties add theirs as entry points.

    Parameters
    ----------
    what
        The word for error messages, for example ``"generator"``.
    entries
        Name → ``"module:Object"``.
    group
        Entry-point group that is searched after `entries`.
    """

    def __init__(self, what: str, entries: dict[str, str], group: str) -> None:
        self.what = what
        self.entries = dict(entries)
        self.group = group

    def names(self) -> list[str]:
        """Return every known name, ours first."""
        extra = [e.name for e in importlib.metadata.entry_points(group=self.group)]
        return [*self.entries, *(n for n in extra if n not in self.entries)]

    def load(self, name: str) -> Any:
        """Import and return the object called `name`, or raise with "did you mean"."""
        if name in self.entries:
            module, _, attribute = self.entries[name].partition(":")
            return getattr(importlib.import_module(module), attribute)
        for entry in importlib.metadata.entry_points(group=self.group):
            if entry.name == name:
                return entry.load()
        raise unknown_name(self.what, name, self.names())

    def create(self, spec: Spec, others: Sequence[str] = ()) -> Any:
        """Build the object of `spec`: ``Class(model, **options)``, or ``Class(**options)`` without a model.

        A parameter that is a dict collects the options that begin with its name:
        ``template_enable_thinking=false`` is ``template={"enable_thinking": False}``, and so is
        ``template.enable_thinking=false``. `others` are options that somebody else reads, for "did you mean".

        Raises
        ------
        UnknownNameError
            For an unknown engine or option.
        BftembedError
            For a model that is missing or given to an engine that takes none.
        """
        factory = self.load(spec.engine)
        parameters = inspect.signature(factory).parameters
        takes_model = "model" in parameters
        collecting = [name for name, p in parameters.items() if str(p.annotation).startswith("dict[")]
        options: dict[str, Any] = {}
        for option, value in spec.options.items():
            into = next((c for c in collecting if option.startswith((f"{c}_", f"{c}."))), None)
            if option in parameters and option != "model":
                options[option] = self.typed(spec, option, value, parameters[option].annotation)
            elif into:
                options.setdefault(into, {})[option[len(into) + 1 :]] = value
            else:
                known = [*(p for p in parameters if p != "model"), *others]
                raise unknown_name("option", option, known, where=f"{self.what} {spec.engine!r}")
        if spec.model and not takes_model:
            raise BftembedError(
                f"The {self.what} {spec.engine!r} takes no model, but {spec.model!r} was given in {str(spec)!r}."
            )
        if takes_model and not spec.model and parameters["model"].default is inspect.Parameter.empty:
            raise BftembedError(f"The {self.what} {spec.engine!r} needs a model: write {spec.engine}:MODEL.")
        return factory(spec.model, **options) if spec.model else factory(**options)

    def typed(self, spec: Spec, name: str, value: Any, annotation: object) -> Any:
        """Return an option as the type of an annotation (a string); types other than these pass unchecked."""
        kind = str(annotation).removesuffix(" | None")
        if kind == "float" and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        if kind == "str":
            return value if isinstance(value, str) else str(value)
        wanted = {"int": int, "float": float, "bool": bool}.get(kind)
        wrong = wanted is not None and type(value) is not wanted
        if wrong or (isinstance(value, float) and not math.isfinite(value)):
            words = {"int": "a whole number", "float": "a number", "bool": "true or false"}
            raise BftembedError(
                f"The option {name}={value!r} of the {self.what} {spec.engine!r} must be {words.get(kind, 'finite')}."
            )
        return value

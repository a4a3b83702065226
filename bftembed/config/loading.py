"""Config files: reading, checking, writing, and the templates that come with the package.

The recipe of a file is ``run``, ``tune``, ``grpo``, or the name of a command; then the keys are parameters of its
function.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from bftembed.config.recipes import GrpoConfig, RunConfig, Strict, TuneConfig
from bftembed.errors import BftembedError, unknown_name
from bftembed.io import write_text

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Collection, Mapping

_RECIPES: dict[str, type[Strict]] = {"run": RunConfig, "tune": TuneConfig, "grpo": GrpoConfig}
#: Recipe of a single command → the verb that ``bftembed run`` calls with the other keys.
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
    "eval run": "bftembed.tasks.llm.run:evaluate",
    "tune synthesize": "bftembed.tuning.synthesis:synthesize",
}
_OF_CELLS = ("data", "keys", "texts", "genes", "layer", "use_raw", "out", "run", "progress")
#: Options that the pipeline itself gives to a verb.
_OWN_OPTIONS = {
    "cells embed": ("data", "genes", "key", "out", "sidecar", "shard", "layer", "use_raw", "overwrite", "progress"),
    "bench clustering": _OF_CELLS,
    "bench integration": _OF_CELLS,
    "bench genes": ("embeddings", "texts", "out", "progress"),
    "eval run": ("tasks", "model", "out", "progress"),
    "tune synthesize": ("out", "dry_run", "progress"),
}
_KINDS = {"int": (int,), "float": (int, float), "bool": (bool,), "str": (str,), "None": (type(None),)}


class _Loader(yaml.SafeLoader):
    """YAML as people write it: ``1e-5`` is a number (YAML 1.1 wants ``1.0e-5`` and reads a string).

    Without aliases: no file here needs one, and a few lines of them unfold to more than the memory holds.
    """

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event = self.get_event()
            raise yaml.composer.ComposerError(None, None, "an alias (*); write the value itself", event.start_mark)
        return super().compose_node(parent, index)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def yaml_keys(text: str, *, where: str, expected: str) -> dict[str, Any]:
    """Return the keys and values of a YAML text.

    `where` is its file and `expected` what such a file holds, for the error.

    Raises
    ------
    BftembedError
        For what is no YAML, names a Python object or has an alias (with line and column), and for a text without keys.
    """
    try:
        values = yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as err:
        mark = getattr(err, "problem_mark", None)
        at = f" line {mark.line + 1}, column {mark.column + 1}:" if mark else ""
        raise BftembedError(f"{where}:{at} not valid YAML ({getattr(err, 'problem', None) or err}).") from err
    if not isinstance(values, dict):
        raise BftembedError(f"{where} holds no keys; expected {expected}.")
    return values


def load_config(path: str | os.PathLike[str], expected: type[Strict] | None = None) -> Any:
    """Check a YAML file: every key and value, with defaults filled in.

    Parameters
    ----------
    path
        A YAML file. Its key ``recipe`` is ``run``, ``tune``, ``grpo`` or the name of a command in `VERBS`. With
        ``extends: other.yaml`` (a path relative to the file) it needs only the keys that differ from that file.

    Other Parameters
    ----------------
    expected
        The model of the only recipe that is accepted.

    Returns
    -------
    RunConfig, TuneConfig, GrpoConfig or dict
        Defaults filled in; of a single verb its recipe and options.

    Raises
    ------
    BftembedError
        For a missing, unreadable or ill-formed file, naming the line; for a wrong value, naming the key.
    UnknownNameError
        For an unknown key, with "did you mean".
    """
    values = _read(Path(path), ())
    recipe = values.get("recipe")
    if not isinstance(recipe, str) or recipe not in (*_RECIPES, *VERBS):
        raise unknown_name("recipe", str(recipe)[:80], [*_RECIPES, *VERBS], where=str(path))
    if expected is not None and _RECIPES.get(recipe) is not expected:
        wanted = next(name for name, model in _RECIPES.items() if model is expected)
        raise BftembedError(f"{path} is of recipe {recipe!r}; expected 'recipe: {wanted}'.")
    if recipe in VERBS:
        _check_options(load_verb(recipe), {k: v for k, v in values.items() if k != "recipe"}, where=str(path))
        return values
    config = check_config(_RECIPES[recipe], values, where=str(path))
    if isinstance(config, RunConfig):
        check_parts(config, where=str(path))
    return config


def check_parts(config: RunConfig, *, where: str) -> None:
    """Raise for options of the steps of a run that their verbs do not have."""
    parts: list[tuple[str, str, Any]]
    parts = [("cells embed", f"aggregations.{i}", part) for i, part in enumerate(config.aggregations)]
    parts += [(f"bench {part.task}", f"benchmarks.{i}", part) for i, part in enumerate(config.benchmarks)]
    parts += [("eval run", "eval", config.eval)] if config.eval else []
    parts += [("tune synthesize", "synthesize", config.synthesize)] if config.synthesize else []
    for verb, key, part in parts:
        _check_options(load_verb(verb), part.options, where=f"{where}: {key}", given=_OWN_OPTIONS[verb])


def load_verb(name: str) -> Callable[..., Any]:
    """Return the function behind a recipe."""
    module, _, attribute = VERBS[name].partition(":")
    return getattr(importlib.import_module(module), attribute)


def _check_options(
    verb: Callable[..., Any], options: Mapping[str, Any], *, where: str, given: Collection[str] = ("progress",)
) -> None:
    """Raise for options of YAML that a verb does not have, or of another type, and for required ones that are missing.

    The parameters `given` come from elsewhere; `where` is the file and key, for messages.
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


def _read(file: Path, through: tuple[Path, ...]) -> dict[str, Any]:
    if not file.is_file():
        asked = f" (which {through[-1]} extends)" if through else ""
        raise BftembedError(f"No such config file: {file}{asked}.")
    if file.resolve() in through:
        raise BftembedError(f"{file} extends itself, by way of {through[-1]}.")
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as err:
        raise BftembedError(f"{file} cannot be read as UTF-8 text ({err}).") from err
    values = yaml_keys(text, where=str(file), expected="lines such as 'recipe: run'")
    other = values.pop("extends", None)
    if other is None:
        return values
    if not isinstance(other, str):
        raise BftembedError(f"{file}: key 'extends': expected the path of a config file.")
    return _merged(_read(file.parent / other, (*through, file.resolve())), values)


def _merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Return `base` with the keys of `over`, mapping by mapping; a list is replaced as a whole."""
    both = {k: _merged(base[k], v) for k, v in over.items() if isinstance(v, dict) and isinstance(base.get(k), dict)}
    return {**base, **over, **both}


def check_config(model: type[Strict], values: dict[str, Any], *, where: str) -> Any:
    """Check `values` against `model`; the first mistake is reported with its key, the others are counted."""
    try:
        return model.model_validate(values)
    except ValidationError as err:
        mistakes = err.errors(include_url=False, include_input=False, include_context=False)
        # A misspelt key shows up twice, as unknown and as missing: the misspelling is what to tell.
        first = min(mistakes, key=lambda m: m["type"] != "extra_forbidden")
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise unknown_name("key", key, _known_keys(model, first["loc"]), where=where) from err
        more = f" ({len(mistakes) - 1} more after it)" if len(mistakes) > 1 else ""
        raise BftembedError(f"{where}: key {key!r}: {first['msg']}{more}.") from err


def _known_keys(model: type[BaseModel], loc: tuple[int | str, ...]) -> list[str]:
    """Return the dotted keys that would be right at the place of a wrong one."""
    prefix = ""
    for part in loc[:-1]:
        prefix += f"{part}."
        if isinstance(part, str):
            annotation = model.model_fields[part].annotation
            inner = [a for a in (annotation, *get_args(annotation)) if inspect.isclass(a) and issubclass(a, BaseModel)]
            model = inner[0] if inner else model
    return [prefix + name for name in model.model_fields]


def dump_config(config: BaseModel | dict[str, Any]) -> str:
    """Return a config as YAML with every default written out."""
    values = config if isinstance(config, dict) else config.model_dump()
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=100)


def save_config(config: BaseModel, path: str | os.PathLike[str]) -> None:
    """Write the resolved config, whole or not at all."""
    write_text(path, dump_config(config))


def templates() -> dict[str, Path]:
    """Return name → file of the configs that come with the package, for example ``"tune/smollm2_cpu"``."""
    package = Path(__file__).parent.parent
    folder = next(f for f in (package / "configs", package.parent / "configs") if f.is_dir())
    return {str(f.relative_to(folder).with_suffix("")): f for f in sorted(folder.rglob("*.yaml"))}


def init_config(name: str | None = None, *, out: str | os.PathLike[str] | None = None) -> Path | dict[str, Path]:
    """Copy a commented config that comes with the package; without a name, list them.

    Parameters
    ----------
    name
        Name of the config: my_data for one's own h5ad, demo, profiles, bench_clustering, …
    out
        File to write. By default NAME.yaml in the current folder.

    Returns
    -------
    Path or dict
        The file; without a name, name → file of every config of the package.

    Raises
    ------
    BftembedError
        For an unknown name, or a file that already exists.
    """
    known = templates()
    if name is None:
        return known
    if name not in known:
        raise unknown_name("config", name, known)
    target = Path(out) if out is not None else Path(f"{name.rpartition('/')[2]}.yaml")
    if target.exists():
        raise BftembedError(f"{target} already exists. Choose another file (out=…, --out).")
    text = known[name].read_text(encoding="utf-8")
    if "\nextends:" in text:  # the copy does not find the other file beside it: all keys are written
        text = yaml.safe_dump(_read(known[name], ()), sort_keys=False)
    write_text(target, text)
    return target

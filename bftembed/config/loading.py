"""From a YAML file to a checked config and back."""

from __future__ import annotations

from inspect import isclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from bftembed.config.demo import DemoConfig
from bftembed.config.tune import DataConfig, TuneConfig
from bftembed.config.yaml_keys import yaml_keys
from bftembed.errors import BftembedError, unknown_name
from bftembed.io import write_text

if TYPE_CHECKING:
    import os

    from bftembed.config.strict import Strict

_MAX_BYTES = 1_000_000

RECIPES: dict[str, type[Strict]] = {"demo": DemoConfig, "tune": TuneConfig}


def load_config(path: str | os.PathLike[str], expected: type[Strict] | None = None) -> Any:
    """Check a YAML file: every key and value, with defaults filled in.

    Parameters
    ----------
    path
        A YAML file. Its key ``recipe`` says which model it is checked against. With ``extends: other.yaml`` (a path
        relative to the file) it needs only the keys that differ from that file.

    Other Parameters
    ----------------
    expected
        The model of the only recipe that is accepted.

    Returns
    -------
    DemoConfig or TuneConfig
        Defaults filled in.

    Raises
    ------
    BftembedError
        For a missing, unreadable or ill-formed file, naming the line; for a wrong value, naming the key.
    UnknownNameError
        For an unknown key, with "did you mean".
    """
    values = _read(Path(path), ())
    recipe = values.get("recipe", "demo")
    if not isinstance(recipe, str) or recipe not in RECIPES:
        raise unknown_name("recipe", str(recipe)[:80], RECIPES, where=str(path))
    if expected is not None and RECIPES[recipe] is not expected:
        wanted = next(name for name, model in RECIPES.items() if model is expected)
        raise BftembedError(f"{path} is of recipe {recipe!r}; expected 'recipe: {wanted}'.")
    return check_config(RECIPES[recipe], values, where=str(path))


def show_config(file: str | os.PathLike[str]) -> Any:
    """Print a config with every default written out.

    Parameters
    ----------
    file
        A YAML file, or the name of a recipe (demo, tune).

    Returns
    -------
    DemoConfig or TuneConfig
        The config.
    """
    name = str(file)
    if name not in RECIPES or Path(file).exists():
        return load_config(file)
    return TuneConfig(data=DataConfig(train="train.jsonl")) if name == "tune" else RECIPES[name]()


def _read(file: Path, through: tuple[Path, ...]) -> dict[str, Any]:
    if not file.is_file():
        asked = f" (which {through[-1]} extends)" if through else ""
        raise BftembedError(f"No such config file: {file}{asked}.")
    if file.resolve() in through:
        raise BftembedError(f"{file} extends itself, by way of {through[-1]}.")
    if file.stat().st_size > _MAX_BYTES:
        raise BftembedError(f"{file} has {file.stat().st_size} bytes; a config file is shorter than {_MAX_BYTES}.")
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as err:
        raise BftembedError(f"{file} cannot be read as UTF-8 text ({err}).") from err
    values = yaml_keys(text, where=str(file), expected="lines such as 'recipe: demo'")
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
            inner = [a for a in (annotation, *get_args(annotation)) if isclass(a) and issubclass(a, BaseModel)]
            model = inner[0] if inner else model
    return [prefix + name for name in model.model_fields]


def dump_config(config: BaseModel) -> str:
    """Return a config as YAML with every default written out."""
    return yaml.safe_dump(config.model_dump(), sort_keys=False, allow_unicode=True, width=100)


def save_config(config: BaseModel, path: str | os.PathLike[str]) -> None:
    """Write the resolved config, whole or not at all."""
    write_text(path, dump_config(config))

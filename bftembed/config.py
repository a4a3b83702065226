"""Models of ``configs/*.yaml``: every key is known, every value has its type, every error names both."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bftembed.errors import BftembedError, unknown_name
from bftembed.io import write_text

if TYPE_CHECKING:
    import os

_MAX_BYTES = 1_000_000


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class ProfileSet(_Strict):
    """Profiles by one generator, as one row of a benchmark.

    Attributes
    ----------
    name
        How tables call the embedding made from them.
    generator
        Generator spec.
    prompt
        Name of the prompt; None is the default of the kind.
    allow_marks
        Marks of screening that do not keep a profile from being embedded.
    """

    name: str = Field(min_length=1)
    generator: str = Field(min_length=1)
    prompt: str | None = None
    allow_marks: list[str] = []


class DemoConfig(_Strict):
    """The main job on real models and real cells: what ``bftembed demo`` runs.

    Attributes
    ----------
    recipe
        Which model of this module the file is checked against.
    out
        Folder for everything that is written.
    cells
        ``builtin:NAME`` or the path of a h5ad.
    use_raw
        Take expression and genes from ``.raw``.
    label
        Column of ``obs`` with the true labels.
    reference
        Key of ``obsm`` that is shown as the reference embedding, or None.
    genes
        Take only so many genes, those with the highest mean expression; None takes all.
    profiles
        Sets of profiles.
    encoder
        Encoder spec for all of them.
    seeds
        K-means seeds, and draws of every random floor.
    """

    recipe: Literal["demo"] = "demo"
    out: str = "runs/demo"
    cells: str = "builtin:pbmc68k_reduced"
    use_raw: bool = True
    label: str = "bulk_labels"
    reference: str | None = "X_pca"
    genes: int | None = Field(default=None, ge=2)
    profiles: list[ProfileSet] = Field(
        default=[
            ProfileSet(
                name="SmolLM2-135M profiles",
                generator="builtin:smollm2-135m-instruct,max_new_tokens=64",
                allow_marks=["truncated"],
            ),
            ProfileSet(name="HGNC facts", generator="facts"),
        ],
        min_length=1,
    )
    encoder: str = "builtin:all-minilm-l6-v2"
    seeds: int = Field(default=5, ge=2, le=100)


RECIPES: dict[str, type[_Strict]] = {"demo": DemoConfig}


def load_config(path: str | os.PathLike[str]) -> Any:
    """Read and check a YAML file.

    Parameters
    ----------
    path
        The file. Its key ``recipe`` says which model it is checked against.

    Returns
    -------
    DemoConfig
        (or the model of another recipe), defaults filled in.

    Raises
    ------
    BftembedError
        For a missing, unreadable or ill-formed file, naming the line; for a wrong value, naming the key.
    UnknownNameError
        For an unknown key, with "did you mean".
    """
    file = Path(path)
    if not file.is_file():
        raise BftembedError(f"No such config file: {file}.")
    if file.stat().st_size > _MAX_BYTES:
        raise BftembedError(f"{file} has {file.stat().st_size} bytes; a config file is shorter than {_MAX_BYTES}.")
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8-sig"))
    except (yaml.YAMLError, ValueError, RecursionError) as err:
        mark = getattr(err, "problem_mark", None)
        where = f" line {mark.line + 1}, column {mark.column + 1}:" if mark else ""
        raise BftembedError(f"{file}:{where} not valid YAML ({getattr(err, 'problem', None) or err}).") from err
    if not isinstance(values, dict):
        raise BftembedError(f"{file} holds no keys; expected lines such as 'recipe: demo'.")
    recipe = values.get("recipe", "demo")
    if not isinstance(recipe, str) or recipe not in RECIPES:
        raise unknown_name("recipe", str(recipe)[:80], RECIPES, where=str(file))
    return check_config(RECIPES[recipe], values, where=str(file))


def check_config(model: type[_Strict], values: dict[str, Any], *, where: str) -> Any:
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
    fields: dict[str, Any] = model.model_fields
    prefix = ""
    for part in loc[:-1]:
        prefix += f"{part}."
        if isinstance(part, str) and part == "profiles":
            fields = ProfileSet.model_fields
    return [prefix + name for name in fields]


def dump_config(config: BaseModel) -> str:
    """Return a config as YAML with every default written out."""
    return yaml.safe_dump(config.model_dump(), sort_keys=False, allow_unicode=True, width=100)


def save_config(config: BaseModel, path: str | os.PathLike[str]) -> None:
    """Write the resolved config, whole or not at all."""
    write_text(path, dump_config(config))

"""Signature and docstring of a verb, read from its source, so that ``--help`` imports neither the verb nor NumPy."""

from __future__ import annotations

import ast
import functools
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from docstring_parser import DocstringStyle, parse

#: Of a parameter without a default, and of a default that is not a literal.
REQUIRED, UNKNOWN = object(), object()

_PACKAGE = Path(__file__).parents[1]
_TYPES: dict[str, list[Any]] = {"bool": [bool], "int": [int], "float": [float], "str": [str], "Any": [str, Path]}
_LISTS = {"Sequence", "Iterable", "Collection", "list", "tuple"}


@dataclass(frozen=True)
class Option:
    """A parameter of a verb."""

    name: str
    default: Any  # `REQUIRED`, or `UNKNOWN` where it is no literal
    help: str | None  # None for what does not stand under ``Parameters``: it is for Python alone
    scalar: Any  # str, int, float, bool or a Literal; None where a text cannot give one value
    many: bool = False  # a list of such values is taken too
    path: bool = False
    named: bool = False  # a mapping of names is taken too


@dataclass(frozen=True)
class Verb:
    """A function: its docstring above ``Parameters``, and its parameters in order."""

    about: str
    options: tuple[Option, ...]


@functools.cache
def read_verb(path: str) -> Verb:
    """Read ``"package.module:function"`` without importing it."""
    module, _, name = path.partition(":")
    place = _find(module, name)
    assert place is not None and isinstance(place[1], ast.FunctionDef), path  # noqa: PT018
    module, function = place[0], place[1]
    given = function.args
    arguments = [*given.args, *given.kwonlyargs]
    names = [one.arg for one in arguments]
    defaults = [None] * (len(given.args) - len(given.defaults)) + [*given.defaults, *given.kw_defaults]
    docstring = parse(ast.get_docstring(function) or "", DocstringStyle.NUMPYDOC)
    help_of = {
        name: _plain(" ".join((entry.description or "").split("\n\n")[0].split()), names)
        for entry in docstring.params
        if entry.args[0] == "param"
        for name in entry.arg_name.split(", ")
    }
    options = []
    for one, default in zip(arguments, defaults, strict=True):
        kinds = _kinds(one.annotation, module)
        choices = tuple(kind for kind in kinds if isinstance(kind, str))
        scalar = (
            Literal[choices] if choices else next((kind for kind in (bool, int, float, str) if kind in kinds), None)
        )
        value = REQUIRED if default is None else _value(default, module)
        marks = (list in kinds, Path in kinds, dict in kinds)
        options.append(Option(one.arg, value, help_of.get(one.arg), scalar, *marks))
    return Verb(_plain((docstring.description or "").strip(), names), tuple(options))


def _kinds(node: ast.AST | None, module: str) -> list[Any]:
    """Return what a text can give of an annotation: bool, int, float, str, choices, Path, list (of them), dict."""
    match node:
        case ast.BinOp():
            return _kinds(node.left, module) + _kinds(node.right, module)
        case ast.Constant(value=str(text)):
            return _kinds(ast.parse(text, mode="eval").body, module)
        case ast.Name(id=name):
            place = _find(module, name)
            return _kinds(place[1], place[0]) if place else _TYPES.get(name, [])
        case ast.Subscript(value=outer, slice=inner):
            match ast.unparse(outer).rpartition(".")[2]:
                case "Literal":
                    values = ast.literal_eval(inner)
                    return [v for v in (values if isinstance(values, tuple) else [values]) if isinstance(v, str)]
                case "PathLike":
                    return [str, Path]
                case "Mapping":
                    return [dict]
                case kind if kind in _LISTS and (inside := _kinds(inner, module)):
                    return [list, *(one for one in inside if one is Path)]
    return []


@functools.cache
def _tree(module: str) -> tuple[dict[str, ast.AST], dict[str, tuple[str, str]]] | None:
    """Return the definitions and the imported names of a module of this package."""
    file = _PACKAGE.joinpath(*module.split(".")[1:])
    file = file / "__init__.py" if file.is_dir() else file.with_suffix(".py")
    if module.partition(".")[0] != _PACKAGE.name or not file.is_file():
        return None
    defined: dict[str, ast.AST] = {}
    imported: dict[str, tuple[str, str]] = {}
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        for one in node.body if isinstance(node, ast.If) else [node]:
            if isinstance(one, ast.FunctionDef):
                defined[one.name] = one
            elif isinstance(one, ast.Assign | ast.AnnAssign) and one.value is not None:
                targets = one.targets if isinstance(one, ast.Assign) else [one.target]
                for target in targets:
                    pairs = [(target, one.value)]
                    if isinstance(target, ast.Tuple) and isinstance(one.value, ast.Tuple):
                        pairs = list(zip(target.elts, one.value.elts, strict=True))
                    defined |= {t.id: value for t, value in pairs if isinstance(t, ast.Name)}
            elif isinstance(one, ast.ImportFrom) and one.module:
                imported |= {alias.asname or alias.name: (one.module, alias.name) for alias in one.names}
    return defined, imported


def _find(module: str, name: str) -> tuple[str, ast.AST] | None:
    """Return the module of this package that defines `name`, and the definition; None where it is another's."""
    while (tree := _tree(module)) is not None:
        if name in tree[0]:
            return module, tree[0][name]
        if name not in tree[1]:
            return None
        module, name = tree[1][name]
    return None


def _value(node: ast.AST, module: str) -> Any:
    if isinstance(node, ast.Name) and (found := _find(module, node.id)) is not None:
        return _value(found[1], found[0])
    try:
        return ast.literal_eval(node)
    except ValueError:
        return UNKNOWN


def _plain(text: str, names: list[str]) -> str:
    """Return `text` without markup; parameters go by the name of their option."""

    def word(found: re.Match[str]) -> str:
        return f"--{found[1].replace('_', '-')}" if found[1] in names else found[1]

    return re.sub(r"`([^`]+)`", word, text.replace("``", ""))

"""Signature and docstring of a verb, read from its source, so that ``--help`` imports neither the verb nor NumPy."""

from __future__ import annotations

import ast
import functools
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

#: Of a parameter without a default, and of a default that is not a literal.
REQUIRED, UNKNOWN = object(), object()

_PACKAGE = Path(__file__).parents[1]
_SCALARS = {"str": str, "int": int, "float": float, "bool": bool}
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
    sections = _sections(ast.get_docstring(function) or "")
    a = function.args
    given = [*a.posonlyargs, *a.args, *a.kwonlyargs]
    positional = len(given) - len(a.kwonlyargs)
    defaults = [None] * (positional - len(a.defaults)) + [*a.defaults, *a.kw_defaults]
    names = [one.arg for one in given]
    help_of = _descriptions(sections.get("Parameters", ""), names)
    options = []
    for one, default in zip(given, defaults, strict=True):
        found = _Type()
        found.add(one.annotation, module)
        value = REQUIRED if default is None else _value(default, module)
        options.append(Option(one.arg, value, help_of.get(one.arg), found.scalar, found.many, found.path, found.named))
    return Verb(_plain(sections[""], names), tuple(options))


class _Type:
    """What the members of an annotation have that a command line can give."""

    def __init__(self) -> None:
        self.choices: tuple[Any, ...] = ()
        self.scalars: set[type] = set()
        self.many = self.path = self.named = False

    @property
    def scalar(self) -> Any:
        if self.choices:
            return Literal[self.choices]
        return next((kind for kind in (bool, int, float, str) if kind in self.scalars), None)

    def add(self, node: ast.AST | None, module: str) -> None:
        if isinstance(node, ast.BinOp):
            self.add(node.left, module)
            self.add(node.right, module)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            self.add(ast.parse(node.value, mode="eval").body, module)
        elif isinstance(node, ast.Name) and node.id == "Any":
            self.path = True
            self.scalars.add(str)
        elif isinstance(node, ast.Name) and node.id in _SCALARS:
            self.scalars.add(_SCALARS[node.id])
        elif isinstance(node, ast.Name) and (found := _find(module, node.id)) is not None:
            self.add(found[1], found[0])
        elif isinstance(node, ast.Subscript):
            outer = ast.unparse(node.value).rpartition(".")[2]
            if outer == "Literal":
                values = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
                self.choices += tuple(v for one in values if isinstance(v := ast.literal_eval(one), str))
            elif outer == "PathLike":
                self.path = True
                self.scalars.add(str)
            elif outer == "Mapping":
                self.named = True
            elif outer in _LISTS:
                inner = _Type()
                inner.add(node.slice, module)
                if inner.scalar is not None:
                    self.many = True
                    self.path |= inner.path


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


def _sections(docstring: str) -> dict[str, str]:
    """Return the sections of a numpydoc docstring by heading, ``""`` for what stands above the first."""
    parts = re.split(r"^(\S.*)\n-{3,}\n", docstring, flags=re.MULTILINE)
    return {"": parts[0].strip(), **dict(zip(parts[1::2], parts[2::2], strict=True))}


def _descriptions(section: str, names: list[str]) -> dict[str, str]:
    """Return the first paragraph on each parameter; several names of one entry share it."""
    found = {}
    parts = re.split(r"^(\S.*)$", section, flags=re.MULTILINE)
    for entry, text in zip(parts[1::2], parts[2::2], strict=True):
        for name in entry.partition(":")[0].split(","):
            found[name.strip()] = _plain(" ".join(re.split(r"\n\s*\n", text.strip())[0].split()), names)
    return found


def _plain(text: str, names: list[str]) -> str:
    """Return `text` without markup; parameters go by the name of their option."""

    def word(found: re.Match[str]) -> str:
        return f"--{found[1].replace('_', '-')}" if found[1] in names else found[1]

    return re.sub(r"`([^`]+)`", word, text.replace("``", ""))

"""A command made of a verb: options from its source, help, progress, what is printed, and the exit code.

Signature and docstring are read from the source, so that ``--help`` imports neither the verb nor NumPy.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import functools
import importlib
import inspect
import json
import re
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, Parameter
from docstring_parser import DocstringStyle, parse

from bftembed.errors import examples
from bftembed.progress import silent

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

    from bftembed.progress import Progress

#: Exit codes. Usage errors are 2.
DONE, ERROR, FAILED_ITEMS, INTERRUPTED = 0, 1, 3, 130
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
    help: str | None  # None for what is not under ``Parameters``: it is for Python alone
    scalar: Any  # str, int, float, bool or a Literal; None where a text cannot give one value
    many: bool = False  # a list of such values is taken too
    path: bool = False
    named: bool = False  # a mapping of names is taken too


@dataclass(frozen=True)
class Shown:
    """What a command prints of a result."""

    lines: Sequence[str] | None = None  # by default one per field of the data
    data: Any = None  # for --json; by default the result itself
    code: int = DONE
    errors: Sequence[str] = ()  # on standard error


@functools.cache
def read_verb(path: str) -> tuple[str, tuple[Option, ...]]:
    """Return the docstring of ``"package.module:function"`` above ``Parameters``, and its parameters in order."""
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
        name: _without_markup(" ".join((entry.description or "").split("\n\n")[0].split()), names)
        for entry in docstring.params
        if entry.args[0] == "param"
        for name in entry.arg_name.split(", ")
    }
    options = []
    for one, default in zip(arguments, defaults, strict=True):
        kinds = _kinds(one.annotation, module)
        choices = tuple(kind for kind in kinds if isinstance(kind, str))
        scalar = next((kind for kind in (bool, int, float, str) if kind in kinds), None)
        value = REQUIRED if default is None else _literal(default, module)
        marks = (list in kinds, Path in kinds, dict in kinds)
        options.append(Option(one.arg, value, help_of.get(one.arg), Literal[choices] if choices else scalar, *marks))
    return _without_markup((docstring.description or "").strip(), names), tuple(options)


def _kinds(node: ast.AST | None, module: str) -> list[Any]:
    """Return what a text can give of an annotation: bool, int, float, str, choices, Path, list (of them), dict."""
    match node:
        case ast.BinOp():
            return _kinds(node.left, module) + _kinds(node.right, module)
        case ast.Constant(value=str(text)):
            return _kinds(ast.parse(text, mode="eval").body, module)
        case ast.Name(id=name) if name in _TYPES:
            return _TYPES[name]
        case ast.Name(id=name):
            place = _find(module, name)
            return _kinds(place[1], place[0]) if place else []
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
                for target in one.targets if isinstance(one, ast.Assign) else [one.target]:
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


def _literal(node: ast.AST, module: str) -> Any:
    if isinstance(node, ast.Name) and (found := _find(module, node.id)) is not None:
        return _literal(found[1], found[0])
    try:
        return ast.literal_eval(node)
    except ValueError:
        return UNKNOWN


def _without_markup(text: str, names: list[str]) -> str:
    """Return a docstring as plain text; parameters go by the name of their option."""

    def word(found: re.Match[str]) -> str:
        return f"--{found[1].replace('_', '-')}" if found[1] in names else found[1]

    return re.sub(r"`([^`]+)`", word, text.replace("``", ""))


#: ``"group.command"`` → what makes the command, called when it is needed: a verb is read for its own help alone.
_PENDING: dict[str, Callable[[], Callable[..., int]]] = {}


def __getattr__(name: str) -> Callable[..., int]:
    """Give a command to cyclopts, which loads it as ``"bftembed.cli._verbs:group.command"``."""
    if name not in _PENDING:
        raise AttributeError(name)
    return _PENDING[name]()


def group(name: str, default: Callable[[], Callable[..., int]] | None = None, /, **commands: Any) -> App:
    """Make the group `name` of some commands, in their order; `default` runs without a name."""
    app = App(name=name, group_parameters="Options", default_command=default and default())
    for number, (called, make) in enumerate(commands.items()):
        _PENDING[f"{name}.{called}"] = make
        app.command(f"{__name__}:{name}.{called}", name=called, sort_key=number)
    return app


def command(
    verb: str,
    present: Callable[[Any, dict[str, Any]], Shown] = lambda result, given: Shown(),
    *,
    bar: str | None = None,
    bar_with_json: bool = False,
    positional: int = 1,
    required: Sequence[str] = (),
    defaults: Mapping[str, Any] | None = None,
    extra: Mapping[str, str] | None = None,
    before: Callable[[dict[str, Any], Collection[str]], None] | None = None,
) -> Callable[[], Callable[..., int]]:
    """Return what makes a command of a verb; the verb is imported when the command runs.

    Parameters of the verb become options of the same name, as far as its docstring has them under ``Parameters``; those
    under ``Other Parameters`` are for Python alone.

    Parameters
    ----------
    verb
        ``"package.module:function"``.
    present
        Result and values given → what is printed; by default the fields of the result.
    bar, bar_with_json
        Label of the progress bar, for a verb that takes ``progress``; and whether it is shown with ``--json`` too.
    positional
        Number of parameters that are given without a name.
    required, defaults
        Parameters that the command line has to have though they have a default, and defaults of the command line alone.
    extra
        Files that `present` writes: option → help.
    before
        Called with the values given and the names of all parameters before the verb is; it may add values.
    """

    @functools.cache
    def make() -> Callable[..., int]:
        module, _, name = verb.partition(":")
        about, of_verb = read_verb(verb)
        taken, own = {o.name for o in of_verb}, extra or {}
        shown = [dataclasses.replace(o, default=(defaults or {}).get(o.name, o.default)) for o in of_verb if o.help]
        shown += [Option(key, None, help, str, path=True) for key, help in own.items()]
        options = {o.name: o for o in shown}
        parameters = [_parameter(o, i < positional, o.name in required) for i, o in enumerate(shown)]
        json_flag = Annotated[bool, Parameter(parse=False)]
        kind = inspect.Parameter.KEYWORD_ONLY
        parameters.append(inspect.Parameter("as_json", kind, default=False, annotation=json_flag))
        signature = inspect.Signature(parameters)

        def run(*args: Any, **kwargs: Any) -> int:
            given = signature.bind(*args, **kwargs).arguments
            quiet = given.pop("as_json", False)
            values = dict(defaults or {}) | {key: _value(options[key], value) for key, value in given.items()}
            if before is not None:
                before(values, taken)
            function = getattr(importlib.import_module(module), name)
            passed = {key: value for key, value in values.items() if key not in own}
            passed |= {"bar": progress_bar} if "bar" in taken else {}
            with progress_bar(bar, quiet=quiet and not bar_with_json) if bar else contextlib.nullcontext() as progress:
                result = function(**passed, **({"progress": progress} if bar else {}))
            return _print(result, present(result, values), quiet)

        run.__name__, run.__doc__ = name, about
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        run.__signature__, run.verb = signature, verb  # type: ignore[attr-defined]
        return run

    return make


def text_of(frame: Any) -> tuple[list[Any], str]:
    """Return the tables of results, and the same as text."""
    from bftembed.report.table import text
    from bftembed.tasks.base import tables_of

    tables = [table for found in tables_of(frame).values() for table in found]
    return tables, text(tables)


def scores_of(frame: Any) -> list[dict[str, Any]]:
    """Return the scores that tables show, for --json."""
    from bftembed.tasks.base import overall

    scores = overall(frame)
    found: list[dict[str, Any]] = scores.astype(object).where(scores.notna(), None).to_dict("records")
    return found


def _print(result: Any, shown: Shown, as_json: bool) -> int:
    for line in shown.errors:
        say(line)
    data = result if shown.data is None else shown.data
    for method in ("to_dict", "as_dict"):
        data = getattr(data, method)() if hasattr(data, method) else data
    data = dataclasses.asdict(data) if dataclasses.is_dataclass(data) else data  # type: ignore[arg-type]
    lines = field_lines(data) if shown.lines is None else shown.lines
    for line in [json.dumps(data, ensure_ascii=False, default=str)] if as_json else lines:
        print(line)
    return shown.code


def _parameter(option: Option, positional: bool, required: bool) -> inspect.Parameter:
    kind = inspect.Parameter.POSITIONAL_ONLY if positional else inspect.Parameter.KEYWORD_ONLY
    several = option.many if positional or option.scalar is None else option.named
    default = inspect.Parameter.empty if option.default is REQUIRED or required else option.default
    if isinstance(default, tuple):
        default = ",".join(default) or None
    if default is UNKNOWN or (several and default is not inspect.Parameter.empty):
        default = None
    scalar = option.scalar or str
    annotation: Any = list[scalar] if several else scalar  # type: ignore[valid-type]
    about = Parameter(
        help=option.help,
        show_default=lambda value: None if value is None or value is False or value == "" else str(value),
        metavar="PATH" if option.path else None,
        negative=None if option.default is True else (),
        allow_repeating=not several or None,
    )
    if default is None:
        annotation = annotation | None
    return inspect.Parameter(option.name, kind, default=default, annotation=Annotated[annotation, about])


def _value(option: Option, given: Any) -> Any:
    """Return what the verb is given: a list for commas, a mapping for ``NAME=FILE``, a path for ``builtin:NAME``."""
    if not isinstance(given, list):
        return _packaged(given) if option.path else given
    if option.named and option.scalar is not None:
        from bftembed.tasks.base import named_files

        return given[0] if len(given) == 1 and ("=" not in given[0] or Path(given[0]).exists()) else named_files(given)
    if option.named:
        return given
    if option.path:
        return _packaged(given[0]) if len(given) == 1 and option.scalar else [_packaged(one) for one in given]
    return [one.strip() for text in given for one in text.split(",") if one.strip()]


def _packaged(given: str) -> str:
    from bftembed.datasets import data_path

    return data_path(given) if given.startswith("builtin:") else given


def field_lines(fields: Mapping[str, Any], indent: str = "") -> list[str]:
    """Return a line for each field that is not empty or 0; the fields of a field are indented below it."""
    lines = []
    for name, value in fields.items():
        title = f"{indent}{name.removeprefix('n_').replace('_', ' ')}"
        if isinstance(value, dict) and not all(type(one) is int for one in value.values()):
            lines += [title, *field_lines(value, indent + "  ")]
        elif isinstance(value, list | tuple) and any(isinstance(one, dict) for one in value):
            lines += [title, *(f"{indent}  {', '.join(_pairs(one))}" for one in value)]
        elif value or value is False:
            lines.append(f"{title:<23} {_words(value)}")
    return lines


def _pairs(fields: Mapping[str, Any]) -> Iterator[str]:
    return (f"{name.removeprefix('n_').replace('_', ' ')} {_words(value)}" for name, value in fields.items() if value)


def _words(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{number:,} {name}" for name, number in value.items() if number)
    if isinstance(value, list | tuple):
        return examples(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}" if isinstance(value, float) else str(value)


def say(text: str) -> None:
    """Print a line for people on standard error, so that standard output stays clean for data."""
    print(text, file=sys.stderr)


def columns(table: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table; its last column is not padded."""
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]) - 1)]
    return ["  ".join([*(c.ljust(w) for c, w in zip(row, widths, strict=False)), row[-1]]).rstrip() for row in table]


@contextlib.contextmanager
def progress_bar(label: str, *, quiet: bool = False) -> Iterator[Progress]:
    """Give a `Progress` callable: a bar on a terminal, a line every few seconds in a pipe, nothing when `quiet`."""
    if quiet:
        yield silent
    elif sys.stderr.isatty():
        with _rich_bar(label) as progress:
            yield progress
    else:
        yield _plain_lines(label)


@contextlib.contextmanager
def _rich_bar(label: str) -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, TextColumn
    from rich.progress import Progress as Bar

    parts = (*Bar.get_default_columns(), MofNCompleteColumn(), TextColumn("{task.fields[note]}"))
    with Bar(*parts, console=Console(stderr=True)) as bar:
        task = bar.add_task(label, total=None, note="")
        yield lambda done, total, note: bar.update(task, completed=done, total=total, note=note)


def _plain_lines(label: str, every_seconds: float = 5.0) -> Progress:
    last = 0.0

    def progress(done: int, total: int, note: str) -> None:
        nonlocal last
        now = time.monotonic()
        if done >= total or now - last >= every_seconds:
            last = now
            say(f"{label}: {done}/{total}{'  ' + note if note else ''}")

    return progress

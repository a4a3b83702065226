"""A command made of a verb: its options, its help, its progress and its exit code."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import inspect
import json
import os
import sys
import time
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from bftembed.cli._source import REQUIRED, UNKNOWN, Option, read_verb
from bftembed.errors import BftembedError, examples
from bftembed.progress import silent

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

    from bftembed.progress import Progress

#: Exit codes. Usage errors are 2.
DONE, ERROR, FAILED_ITEMS, INTERRUPTED = 0, 1, 3, 130


@dataclasses.dataclass(frozen=True)
class Shown:
    """What a command prints of a result."""

    lines: Sequence[str] | None = None  # by default one per field of the data
    data: Any = None  # for --json; by default the result itself
    code: int = DONE
    errors: Sequence[str] = ()  # on standard error


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
) -> Callable[..., int]:
    """Make a command of a verb, which is imported when the command runs.

    Parameters of the verb become options of the same name, as far as its docstring has them under ``Parameters``; those
    under ``Other Parameters`` are for Python alone.

    Parameters
    ----------
    verb
        ``"package.module:function"``.
    present
        Result and values given → what is printed; by default the fields of the result.
    bar
        Label of the progress bar, for a verb that takes ``progress``.
    bar_with_json
        Show the progress with ``--json`` too.
    positional
        Number of parameters that are given without a name.
    required
        Parameters with a default that the command line has to have.
    defaults
        Defaults of the command line that are not those of the verb.
    extra
        Files that `present` writes: option → help.
    before
        Called with the values given and the names of all parameters before the verb is; it may add values.
    """
    module, _, name = verb.partition(":")
    found = read_verb(verb)
    taken, own = {o.name for o in found.options}, extra or {}
    shown = [o for o in found.options if o.help is not None]
    shown = [dataclasses.replace(o, default=(defaults or {}).get(o.name, o.default)) for o in shown]
    shown += [Option(key, None, about, str, path=True) for key, about in own.items()]
    options = {o.name: o for o in shown}
    parameters = [_parameter(o, i < positional, o.name in required) for i, o in enumerate(shown)]
    as_json = Annotated[bool, Parameter(parse=False)]
    parameters.append(inspect.Parameter("as_json", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=as_json))
    signature = inspect.Signature(parameters)

    def run(*args: Any, **kwargs: Any) -> int:
        given = signature.bind(*args, **kwargs).arguments
        quiet = given.pop("as_json", False)
        values = dict(defaults or {}) | {key: _value(options[key], value) for key, value in given.items()}
        if before is not None:
            before(values, taken)
        function = getattr(importlib.import_module(module), name)
        of_verb = {key: value for key, value in values.items() if key not in own}
        of_verb |= {"bar": progress_bar} if "bar" in taken else {}
        with progress_bar(bar, quiet=quiet and not bar_with_json) if bar else contextlib.nullcontext() as progress:
            result = function(**of_verb, **({"progress": progress} if bar else {}))
        shown = present(result, values)
        for line in shown.errors:
            say(line)
        data = _plain(result if shown.data is None else shown.data)
        lines = field_lines(data) if shown.lines is None else shown.lines
        for line in [json.dumps(data, ensure_ascii=False, default=str)] if quiet else lines:
            print(line)
        return shown.code

    run.__name__, run.__doc__ = name, found.about
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    run.__signature__, run.verb = signature, verb  # type: ignore[attr-defined]
    return run


def group(name: str, default: Callable[..., int] | None = None, /, **commands: Callable[..., int]) -> App:
    """Make the group `name` of some commands, in their order; `default` runs without a name."""
    app = App(name=name, group_parameters="Options", default_command=default)
    for number, (called, run) in enumerate(commands.items()):
        app.command(run, name=called, sort_key=number)
    return app


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
    if option.named:
        return given if option.scalar is None else _named(given)
    if option.path:
        return _packaged(given[0]) if len(given) == 1 and option.scalar else [_packaged(one) for one in given]
    return [one.strip() for text in given for one in text.split(",") if one.strip()]


def _packaged(given: str) -> str:
    from bftembed.datasets import data_path

    return data_path(given) if given.startswith("builtin:") else given


def _named(given: list[str]) -> dict[str, str] | str:
    """Return a single file without a name as it is, and several as name → file; the stem is the name of one without."""
    found: dict[str, str] = {}
    for one in given:
        name, sign, file = one.partition("=")
        if not sign or os.path.exists(one):  # noqa: PTH110
            if len(given) == 1:
                return one
            name, file = os.path.splitext(os.path.basename(one))[0], one  # noqa: PTH119, PTH122
        if not name or not file:
            raise BftembedError(f"{one}: write NAME=FILE, or the file alone.")
        if name in found:
            raise BftembedError(f"Two files are called {name!r}. Name them: NAME={one}")
        found[name] = file
    return found


def _plain(result: Any) -> Any:
    for name in ("to_dict", "as_dict"):
        if hasattr(result, name):
            return getattr(result, name)()
    return dataclasses.asdict(result) if dataclasses.is_dataclass(result) else result  # type: ignore[arg-type]


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
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    first, last = TextColumn("{task.description}"), TextColumn("{task.fields[note]}")
    parts = (first, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), last)
    with Bar(*parts, console=Console(stderr=True)) as bar:
        task = bar.add_task(label, total=None, note="")

        def progress(done: int, total: int, note: str) -> None:
            bar.update(task, completed=done, total=total, note=note)

        yield progress


def _plain_lines(label: str, every_seconds: float = 5.0) -> Progress:
    last = 0.0

    def progress(done: int, total: int, note: str) -> None:
        nonlocal last
        now = time.monotonic()
        if done >= total or now - last >= every_seconds:
            last = now
            say(f"{label}: {done}/{total}{'  ' + note if note else ''}")

    return progress

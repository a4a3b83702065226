"""What every command shares: one way to fail, to show progress and to print a result."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    import pandas as pd

    from bftembed.progress import Progress

#: Exit codes. Usage errors are 2, given by the parser.
DONE, ERROR, FAILED_ITEMS, INTERRUPTED = 0, 1, 3, 130

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output.")]


def run(app: typer.Typer) -> None:
    """Run `app`; a `BftembedError` becomes one message on standard error and exit code 1."""
    from bftembed.errors import BftembedError

    try:
        app()
    except BftembedError as err:
        typer.echo(f"error: {err}", err=True)
        sys.exit(ERROR)
    except SystemExit as leaving:
        if leaving.code == INTERRUPTED:  # the parser's answer to Ctrl-C, without a word
            say("interrupted. What was finished is kept; run the same command to go on.")
        raise


def say(text: str) -> None:
    """Print a line for people on standard error, so that standard output stays clean for data."""
    typer.echo(text, err=True)


def finish(summary: Mapping[str, Any], lines: list[str], *, as_json: bool, failed: bool = False) -> None:
    """Print the result of a command and leave with 0, or with 3 when items failed.

    Parameters
    ----------
    summary
        What ``--json`` prints, one object.
    lines
        What people read instead.
    as_json
        Whether ``--json`` was given.
    failed
        Whether some items failed though the command is done.
    """
    if as_json:
        typer.echo(json.dumps(summary, ensure_ascii=False, default=str))
    else:
        for line in lines:
            typer.echo(line)
    if failed:
        raise typer.Exit(FAILED_ITEMS)


def finish_bench(frame: pd.DataFrame, summary: pd.DataFrame, out: Path, lines: list[str], *, as_json: bool) -> None:
    """Print the result of a benchmark, as `finish` does: the results table's summary, and `lines` for people."""
    failed = int(frame["value"].isna().sum())
    rows = summary.astype(object).where(summary.notna(), None).to_dict("records")
    found = {"out": str(out), "rows": len(frame), "failed": failed, "summary": rows}
    finish(found, [*lines, str(out)], as_json=as_json, failed=failed > 0)


@contextlib.contextmanager
def progress_bar(label: str, *, quiet: bool = False) -> Iterator[Progress]:
    """Give a `Progress` callable: a bar on a terminal, a plain line every few seconds in a pipe.

    Parameters
    ----------
    label
        What is being done, for example ``"profiles"``.
    quiet
        Show nothing.
    """
    if quiet:
        yield lambda done, total, note: None
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

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Bar(*columns, console=Console(stderr=True)) as bar:
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

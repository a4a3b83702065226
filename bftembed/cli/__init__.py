"""The command line: parse, call, print. One module per command group; the library is imported inside commands."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from bftembed.cli import bench, cells, config, data, demo, export, genes, profiles, report, tune

app = typer.Typer(
    name="bftembed",
    help="Gene and protein profiles by language models, as embeddings for single-cell biology, measured honestly.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("demo")(demo.demo)
app.add_typer(tune.app, name="tune")
app.add_typer(profiles.app, name="profiles")
app.add_typer(genes.app, name="genes")
app.add_typer(cells.app, name="cells")
app.add_typer(bench.app, name="bench")
app.add_typer(export.app, name="export")
app.command("report")(report.report)
app.add_typer(data.app, name="data")
app.add_typer(config.app, name="config")


def _version(value: bool) -> None:
    if value:
        from bftembed import __version__

        typer.echo(f"bftembed {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line: exit codes 0 done, 1 error, 2 usage, 3 done with failed items."""
    from bftembed.cli.common import run

    # Threads of GNU OpenMP (torch on Linux) wait for each other in a loop that takes several times the work's own CPU
    # time where other programs share the cores. It reads this when torch is loaded.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    run(app)

"""`bftembed tune …`: tune a language model; make its data; look at its uncertainty."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from bftembed.cli.common import JsonOption, finish, progress_bar, say
from bftembed.cli.tune_diagnose import diagnose

if TYPE_CHECKING:
    from bftembed.config import TuneConfig


class _RunByDefault(TyperGroup):
    """``tune CONFIG`` is ``tune run CONFIG``."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            args = ["run", *args]
        return super().resolve_command(ctx, args)


app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    cls=_RunByDefault,
    help="Tune a language model (tune CONFIG), make data for it, and look at its uncertainty.",
)
app.command("diagnose")(diagnose)

ConfigArgument = Annotated[Path, typer.Argument(metavar="CONFIG", help="A YAML file; see: bftembed config show tune")]


@app.command("run")
def run(config: ConfigArgument, as_json: JsonOption = False) -> None:
    """Tune the model of CONFIG; a run that was stopped goes on. The word "run" may be left out."""
    from dataclasses import asdict

    from bftembed.tuning.stage import tune

    with progress_bar("tuning") as progress:
        report = tune(_tune_config(config), progress=progress)
    for warning in report.warnings:
        say(f"warning: {warning}")
    rows = ", ".join(f"{n} {kind}" for kind, n in report.rows.items() if n)
    measures = [
        f"{name} {report.final[name]:.4g}" for name in ("nll", "eval_nll", "sft_mass_kept") if name in report.final
    ]
    what = f"{report.steps} steps on {rows}" if report.seconds else f"finished before: {report.steps} steps on {rows}"
    lines = [
        what,
        ", ".join(measures),
        f"model: {report.model}   (bftembed profiles generate … --generator transformers:{report.model})",
    ]
    finish(asdict(report), lines, as_json=as_json)


@app.command("pairs")
def pairs(
    table: Annotated[Path, typer.Argument(metavar="TABLE", help="TSV or CSV with a column of genes and one of texts.")],
    out: Annotated[Path, typer.Option("--out", help="JSON Lines to write.")],
    entity: Annotated[str, typer.Option("--entity", help="Column of gene symbols.")] = "symbol",
    text: Annotated[str, typer.Option("--text", help="Column of texts.")] = "summary",
    prompt: Annotated[str, typer.Option("--prompt", help="The question; {name} is the gene.")] = (
        "Tell me about the gene {name}."
    ),
    leave_out: Annotated[
        Path | None, typer.Option("--leave-out", help="File of genes, one per line, to keep for evaluation.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Make instruction pairs from a table of texts about genes (NCBI summaries, for example)."""
    from bftembed.io import refuse_input_as_output
    from bftembed.tuning.data import write_conversations
    from bftembed.tuning.sources import gene_texts

    refuse_input_as_output(out, table, leave_out)
    names = frozenset(leave_out.read_text(encoding="utf-8").split()) if leave_out else frozenset()
    conversations = gene_texts(table, entity=entity, text=text, prompt=prompt, leave_out=names)
    write_conversations(conversations, out)
    finish({"pairs": len(conversations), "out": str(out)}, [f"{len(conversations)} pairs: {out}"], as_json=as_json)


@app.command("llamafactory")
def llamafactory(
    config: ConfigArgument,
    out: Annotated[Path, typer.Option("--out", help="Folder to write.")],
    as_json: JsonOption = False,
) -> None:
    """Write data, settings and our objective as a hook for LLaMA-Factory."""
    from bftembed.tuning.llamafactory import export_llamafactory

    done = export_llamafactory(_tune_config(config), out)
    lines = [
        f"{done.folder}: {', '.join(f.name for f in done.files)}",
        *done.differences,
        f"run it there: {done.command}",
    ]
    finish(
        {"folder": str(done.folder), "files": [f.name for f in done.files], "differences": list(done.differences)},
        lines,
        as_json=as_json,
    )


def _tune_config(file: Path) -> TuneConfig:
    from bftembed.config import TuneConfig, load_config
    from bftembed.errors import BftembedError

    config = load_config(file)
    if not isinstance(config, TuneConfig):
        raise BftembedError(f"{file} is of recipe {config.recipe!r}; expected 'recipe: tune'.")
    return config

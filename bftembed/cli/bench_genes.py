"""`bftembed bench genes`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from bftembed.cli.common import JsonOption, finish, finish_bench, progress_bar


def genes(
    embeddings: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME=]EMB…", help="Gene vectors: .safetensors, TSV, word2vec text, h5ad, npz."),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Results table to write (Parquet).")] = None,
    tasks: Annotated[
        str, typer.Option("--tasks", help="Names or folders, separated by commas: dosage,ggi,./my_task.")
    ] = "dosage",
    protocol: Annotated[str, typer.Option("--protocol", help="strict, genept, or both: strict,genept.")] = "strict",
    probes: Annotated[str, typer.Option("--probes", help="Of protocol strict: logistic, mlp, or both.")] = "logistic",
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Divisions of protocol strict.")] = 5,
    texts: Annotated[
        list[str] | None,
        typer.Option(
            "--texts",
            metavar="[NAME=]SOURCE",
            help="What the vectors were made from, for floors of text and the leak check: a profile store, its "
            "Parquet, a TSV of gene and text, or dataset:NAME. May be repeated.",
        ),
    ] = None,
    encoder: Annotated[
        str | None, typer.Option("--encoder", help="Encode texts that state a label again, without those words.")
    ] = None,
    floors: Annotated[bool, typer.Option(help="Score floors and ceilings too.")] = True,
    own: Annotated[bool, typer.Option(help="Score each embedding on all of its genes too.")] = True,
    allow_pickle: Annotated[
        bool, typer.Option("--allow-pickle", help="Read pickles of plain numbers; anything else in one is refused.")
    ] = False,
    key: Annotated[str | None, typer.Option("--key", help="Array of a npz or h5ad that holds the vectors.")] = None,
    figure: Annotated[Path | None, typer.Option("--figure", help="Draw the scores: .png or .svg.")] = None,
    report: Annotated[Path | None, typer.Option("--report", help="Write an HTML report too.")] = None,
    jobs: Annotated[int, typer.Option("--jobs", min=0, help="Processes; 0 takes the cores.")] = 0,
    cache: Annotated[
        Path | None, typer.Option("--cache", help="Folder of scores to go on from; default in the user's cache.")
    ] = None,
    use_cache: Annotated[bool, typer.Option("--use-cache/--no-cache", help="Keep and reuse scores.")] = True,
    list_tasks: Annotated[bool, typer.Option("--list-tasks", help="Print the tasks by name, and leave.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Score gene embeddings on tasks about genes and gene pairs, beside floors: GenePT's tasks, or your own."""
    if list_tasks:
        _list_tasks(as_json=as_json)
        return
    if not embeddings:
        raise typer.BadParameter("give at least one file of gene vectors")
    if out is None:
        raise typer.BadParameter("give --out FILE.parquet for the results")
    from bftembed import bench
    from bftembed.machine import free_cores
    from bftembed.models import cache_folder
    from bftembed.reports.genes import draw_gene_scores, gene_summary, text_lines, write_gene_report

    folder = (cache or cache_folder() / "gene-scores") if use_cache else None
    with progress_bar("tasks", quiet=as_json) as progress:
        frame = bench.genes(
            embeddings,
            tasks,
            protocols=protocol,
            probes=probes,
            seeds=seeds,
            floors=floors,
            own=own,
            texts=_sources(texts or []),
            encoder=encoder,
            allow_pickle=allow_pickle,
            key=key,
            out=out,
            cache=folder,
            jobs=jobs or free_cores(),
            progress=progress,
        )
    summary = gene_summary(frame)
    lines = text_lines(summary)
    if figure is not None:
        draw_gene_scores(figure, summary)
        lines.append(str(figure))
    if report is not None:
        lines.append(str(write_gene_report(out, report)))
    finish_bench(frame, summary, out, lines, as_json=as_json)


def _sources(given: list[str]) -> str | dict[str, str] | None:
    """Return one source for all embeddings, or name → source."""
    named = {}
    for text in given:
        name, sign, source = text.partition("=")
        if not sign or os.path.exists(text):  # noqa: PTH110
            if len(given) > 1:
                raise typer.BadParameter(f"--texts {text}: with several, say of which embedding: NAME={text}")
            return text
        named[name] = source
    return named or None


def _list_tasks(*, as_json: bool) -> None:
    from bftembed.tasks.genes.builtin import list_tasks

    tasks = list_tasks()
    width = max(len(t["name"]) for t in tasks)
    lines = [f"{t['name']:<{width}}  {t['kind']:<10}  {t['description']}" for t in tasks]
    lines += ["", *(f"{t['name']}: data not at hand; see bftembed data list" for t in tasks if not t["here"])]
    finish({"tasks": tasks}, lines, as_json=as_json)

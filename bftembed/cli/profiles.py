"""`bftembed profiles …`: write, export and read profiles."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from bftembed.cli.common import JsonOption, finish, progress_bar

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Write, export and read profiles.")

_DEFAULT_GENERATOR = "builtin:smollm2-135m-instruct"


@app.command("generate")
def generate(
    genes: Annotated[
        str,
        typer.Argument(metavar="GENES", help="Names: text, CSV/TSV, h5ad (its var names), builtin:NAME, or TP53,EGFR."),
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder of the store; a rerun goes on where it stopped.")],
    generator: Annotated[
        str, typer.Option("--generator", help="facts, builtin:NAME, transformers:PATH_OR_HUB_NAME[,option=value…]")
    ] = _DEFAULT_GENERATOR,
    prompt: Annotated[str | None, typer.Option("--prompt", help="bft-gene or bft-protein.")] = None,
    kind: Annotated[Literal["gene", "protein"], typer.Option("--kind", help="What the names name.")] = "gene",
    column: Annotated[str | None, typer.Option("--column", help="Column of the table or of the h5ad's var.")] = None,
    max_new_tokens: Annotated[int | None, typer.Option("--max-new-tokens", min=1, help="Longest answer.")] = None,
    unknown: Annotated[
        Literal["skip", "keep", "error"], typer.Option("--unknown", help="What to do with unresolved names.")
    ] = "skip",
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Try failed items again.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Write a profile for every gene or protein of a list. Exit code 3 when some are missing."""
    from bftembed.datasets import data_path
    from bftembed.profiles.runner import generate_profiles

    with progress_bar("profiles") as progress:
        report = generate_profiles(
            data_path(genes),
            generator=generator,
            out=out,
            prompt=prompt,
            kind=kind,
            column=column,
            max_new_tokens=max_new_tokens,
            unknown=unknown,
            retry_failed=retry_failed,
            progress=progress,
        )
    resolution = ", ".join(f"{count} {status}" for status, count in report.resolution.items())
    marks = ", ".join(f"{count} {mark}" for mark, count in report.marks.items())
    lines = [
        f"names: {report.listed} ({resolution}; {report.duplicates} duplicates)",
        f"profiles: {report.entities} ({report.written} written now, {report.already_stored} from earlier runs)",
        f"screening: {marks}",
    ]
    if report.tokens and report.seconds:
        lines.append(f"speed: {report.tokens / report.seconds:.0f} tokens/s over {report.seconds:.0f} s")
    if report.skipped:
        lines.append(f"skipped, unresolved: {_some(report.skipped)} (bftembed genes resolve shows why)")
    if report.failed:
        lines.append(f"failed: {_some(report.failed)} (--retry-failed tries them again)")
    lines.append(f"store: {report.out}")
    finish(report.to_dict(), lines, as_json=as_json, failed=bool(report.skipped or report.failed))


@app.command("export")
def export(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the store.")],
    out: Annotated[Path, typer.Option("--out", help="Parquet file; a card is written beside it.")],
    as_json: JsonOption = False,
) -> None:
    """Write every profile to a Parquet file with a card."""
    from bftembed.profiles.export import export_profiles

    summary = export_profiles(folder, out)
    finish(summary, [f"{summary['profiles']} profiles: {summary['out']}", f"card: {summary['card']}"], as_json=as_json)


@app.command("show")
def show(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the store.")],
    genes: Annotated[list[str] | None, typer.Argument(metavar="[GENE]…", help="Which ones; none: a summary.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Print profiles with their marks, or a summary of the store. Exit code 3 when a gene has no profile."""
    from dataclasses import asdict

    from bftembed.profiles.export import mark_counts
    from bftembed.profiles.store import ProfileStore

    with ProfileStore.open(folder) as store:
        entity_of = {e.name: e.entity for e in store.entities()}
        wanted = [entity_of.get(g, g) for g in genes] if genes else None
        profiles, generators = store.profiles(entities=wanted), store.generators()
        listed = len(entity_of)
    if wanted is None:
        summary = {
            "listed": listed,
            "profiles": len(profiles),
            "marks": mark_counts(profiles),
            "generators": generators,
        }
        lines = [f"names asked for: {listed}", f"profiles: {len(profiles)}"]
        lines += [f"  {mark}: {count}" for mark, count in mark_counts(profiles).items()]
        lines += [f"generator: {g['spec']}" for g in generators]
        finish(summary, lines, as_json=as_json)
        return
    found = {p.entity for p in profiles}
    missing = [g for g in wanted if g not in found]
    lines = []
    for p in profiles:
        lines += [f"{p.entity}  [{', '.join(p.marks) or 'ok'}]  {p.generator}  {p.prompt}", p.text or p.error, ""]
    lines += [f"no profile: {', '.join(missing)}"] if missing else []
    summary = {"profiles": [asdict(p) for p in profiles], "missing": missing}
    finish(summary, lines, as_json=as_json, failed=bool(missing))


def _some(names: tuple[str, ...], n: int = 8) -> str:
    return ", ".join(names[:n]) + (f", … ({len(names)} in all)" if len(names) > n else "")

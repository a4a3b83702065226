"""`bftembed profiles …`: write, export and read profiles."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from bftembed.cli.common import JsonOption, finish, progress_bar
from bftembed.cli.profiles_report import GeneratorsOption, PromptsOption, quality, report, show_diff

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Write, export and read profiles.")
app.command("report")(report)
app.command("quality")(quality)

_DEFAULT_GENERATOR = "builtin:smollm2-135m-instruct"


@app.command("generate")
def generate(
    genes: Annotated[
        str,
        typer.Argument(metavar="GENES", help="Names: text, CSV/TSV, h5ad (its var names), builtin:NAME, or TP53,EGFR."),
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder of the store; a rerun goes on where it stopped.")],
    generator: Annotated[
        str,
        typer.Option(
            "--generator", help="facts, builtin:NAME, transformers:…, vllm:…, llamacpp:…, openai:…, openai-batch:…"
        ),
    ] = _DEFAULT_GENERATOR,
    prompt: Annotated[str | None, typer.Option("--prompt", help="Default: bft- and the kind.")] = None,
    kind: Annotated[
        Literal["gene", "protein", "cell-type", "drug"], typer.Option("--kind", help="What the names name.")
    ] = "gene",
    context: Annotated[
        Path | None, typer.Option("--context", help="TSV of name and free text that the prompt passes on.")
    ] = None,
    column: Annotated[str | None, typer.Option("--column", help="Column of the table or of the h5ad's var.")] = None,
    max_new_tokens: Annotated[int | None, typer.Option("--max-new-tokens", min=1, help="Longest answer.")] = None,
    unknown: Annotated[
        Literal["skip", "keep", "error"], typer.Option("--unknown", help="What to do with unresolved names.")
    ] = "skip",
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Try failed items again.")] = False,
    shard: Annotated[str | None, typer.Option("--shard", help="i/n: only the i-th of n parts of the list.")] = None,
    workers: Annotated[
        str | None, typer.Option("--workers", metavar="ray[:ADDRESS]", help="Write --shard-count shards as Ray tasks.")
    ] = None,
    shard_count: Annotated[int | None, typer.Option("--shard-count", min=1, help="Shards for --workers.")] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Only so many, the first of the list.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Count, and estimate tokens and cost; write nothing.")
    ] = False,
    price: Annotated[
        str | None, typer.Option("--price", help="With --dry-run: US dollars per million tokens, IN,OUT.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write a profile for every gene, protein, cell type or drug of a list. Exit code 3 when some are missing."""
    from bftembed.datasets import data_path
    from bftembed.profiles.context import read_context
    from bftembed.profiles.runner import generate_profiles

    options: dict[str, Any] = {
        "generator": generator,
        "out": out,
        "prompt": prompt,
        "kind": kind,
        "column": column,
        "context": read_context(context) if context else None,
        "max_new_tokens": max_new_tokens,
        "unknown": unknown,
        "shard": shard,
        "limit": limit,
    }
    if dry_run:
        _estimate(data_path(genes), options, price, as_json=as_json)
        return
    if (workers is None) != (shard_count is None) or (workers and shard):
        raise typer.BadParameter("--workers and --shard-count go together, without --shard.", param_hint="'--workers'")
    with progress_bar("profiles") as progress:
        if workers is None:
            report = generate_profiles(data_path(genes), **options, retry_failed=retry_failed, progress=progress)
        else:
            from bftembed.profiles.spread import generate_with_ray

            engine, _, address = workers.partition(":")
            if engine != "ray":
                raise typer.BadParameter("Only ray is known, or ray:ADDRESS.", param_hint="'--workers'")
            del options["shard"]
            report = generate_with_ray(
                data_path(genes),
                shard_count=shard_count or 1,
                address=address or None,
                retry_failed=retry_failed,
                progress=progress,
                **options,
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


def _estimate(genes: str, options: dict[str, Any], price: str | None, *, as_json: bool) -> None:
    from bftembed.profiles.estimate import estimate_profiles, parse_price

    found = estimate_profiles(genes, **options, price=parse_price(price))
    most = found.most_completion_tokens
    lines = [
        f"profiles: {found.entities} ({found.to_write} to write, {found.already_stored} stored already)",
        f"tokens: about {found.prompt_tokens:,} of prompts, "
        + (f"at most {most:,} of answers" if most is not None else "no limit on answers"),
    ]
    if found.price is not None and found.most_cost is not None:
        asked, answered = found.price
        lines.append(f"cost: at most ${found.most_cost:,.2f} (${asked:g} and ${answered:g} per million tokens)")
    else:
        lines.append("cost: no price known for this generator (--price IN,OUT)")
    finish(found.to_dict(), lines, as_json=as_json)


@app.command("merge")
def merge(
    parts: Annotated[list[Path], typer.Argument(metavar="DIR…", help="Folders of the shards' stores.")],
    out: Annotated[Path, typer.Option("--out", help="Folder of the store to make or add to.")],
    as_json: JsonOption = False,
) -> None:
    """Join the stores of shards into one."""
    from dataclasses import asdict

    from bftembed.profiles.merge import merge_stores

    report = merge_stores(parts, out)
    lines = [f"{report.added} profiles added, {report.same} were there already", f"store: {report.out}"]
    finish(asdict(report), lines, as_json=as_json)


@app.command("status")
def status(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the store; a run may be writing to it.")],
    as_json: JsonOption = False,
) -> None:
    """Count what a store holds: names, profiles, marks, tokens. Exit code 3 when entities lack a profile."""
    from bftembed.profiles.store import ProfileStore

    with ProfileStore.open(folder) as store:
        found = store.status()
    lines = [
        f"names: {sum(found['names'].values())} ({', '.join(f'{n} {s}' for s, n in found['names'].items())})",
        f"profiles: {found['profiles']} of {found['entities']} entities, {found['failed']} failed, "
        f"{found['without_profile']} without one",
        f"tokens: {found['prompt_tokens']:,} of prompts, {found['completion_tokens']:,} of answers",
        *(f"{origin['prompt']} by {origin['generator']}: {origin['profiles']}" for origin in found["origins"]),
    ]
    finish(found, lines, as_json=as_json, failed=bool(found["failed"] or found["without_profile"]))


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
    diff: Annotated[bool, typer.Option("--diff", help="Word diffs of a gene's profiles against its first.")] = False,
    prompt: PromptsOption = None,
    generator: GeneratorsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print profiles with their marks, or a summary of the store. Exit code 3 when a gene has no profile."""
    from dataclasses import asdict

    from bftembed.profiles.diff import chosen
    from bftembed.profiles.export import mark_counts
    from bftembed.profiles.store import ProfileStore

    if diff:
        show_diff(folder, genes or (), prompts=prompt or (), generators=generator or (), as_json=as_json)
        return
    with ProfileStore.open(folder) as store:
        entity_of = {e.name: e.entity for e in store.entities()}
        wanted = [entity_of.get(g, g) for g in genes] if genes else None
        profiles, generators = store.profiles(entities=wanted), store.generators()
        listed = len(entity_of)
    if prompt or generator:
        profiles = chosen(profiles, prompts=prompt or (), generators=generator or (), where=str(folder))
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

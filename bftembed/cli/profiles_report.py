"""`bftembed profiles report | quality`, and `show --diff`: what a store's profiles are like."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bftembed.cli.common import JsonOption, finish, say

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from bftembed.profiles.quality import Score
    from bftembed.profiles.records import Profile
    from bftembed.profiles.summary import Lengths, Origin, OriginSummary

FolderArgument = Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the store.")]
PromptsOption = Annotated[list[str] | None, typer.Option("--prompt", help="Only this prompt; may be repeated.")]
GeneratorsOption = Annotated[
    list[str] | None, typer.Option("--generator", help="Only this generator: its spec, or its id; may be repeated.")
]

_Block = tuple[str, list[tuple[str, str]]]


def report(
    folder: FolderArgument,
    out: Annotated[Path | None, typer.Option("--out", help="Write the report as .html or .json.")] = None,
    figure: Annotated[Path | None, typer.Option("--figure", help="PNG of lengths and marks.")] = None,
    threshold: Annotated[
        float, typer.Option("--threshold", help="Jaccard similarity of near-duplicates, above 0, up to 1.")
    ] = 0.7,
    as_json: JsonOption = False,
) -> None:
    """Summarise a store per prompt and generator: coverage, lengths, marks, own names, near-duplicates."""
    from bftembed.errors import BftembedError
    from bftembed.io import refuse_input_as_output, write_json
    from bftembed.profiles.store import STORE_FILE, ProfileStore
    from bftembed.profiles.summary import summarise

    if not 0 < threshold <= 1:
        raise BftembedError(f"--threshold is {threshold:g}; give a similarity above 0, up to 1.")
    if out is not None and out.suffix.lower() not in (".html", ".json"):
        raise BftembedError(f"--out is {out}; give a file that ends in .html or .json.")
    if figure is not None and figure.suffix.lower() != ".png":
        raise BftembedError(f"--figure is {figure}; give a file that ends in .png.")
    for written in (out, figure):
        if written is not None:
            refuse_input_as_output(written, folder / STORE_FILE)
    with ProfileStore.open(folder) as store:
        entities, profiles = store.entities(), store.profiles()
    if not profiles:
        raise BftembedError(f"There are no profiles in {folder}. Run bftembed profiles generate again.")
    found = summarise(entities, profiles, threshold=threshold)
    told = [f"names ({kind}): {_counts(counts)}" for kind, counts in found.names.items()]
    blocks = _blocks(found.origins)
    files = _write(folder, out, figure, found.origins, blocks, told)
    if out is not None and out.suffix.lower() == ".json":
        write_json(out, {"store": folder.name, **found.to_dict()})
        files.append(out)
    lines = list(told)
    for heading, rows in blocks:
        lines += ["", heading, *(f"  {name:17}{value}" for name, value in rows)]
    lines += ["", *map(str, files)] if files else []
    finish({**found.to_dict(), "files": [str(f) for f in files]}, lines, as_json=as_json)


def _write(
    folder: Path,
    out: Path | None,
    figure: Path | None,
    origins: Sequence[OriginSummary],
    blocks: list[_Block],
    about: list[str],
) -> list[Path]:
    files: list[Path] = []
    if figure is None and (out is None or out.suffix.lower() != ".html"):
        return files
    from bftembed.reports.profiles import Drawn, draw_profiles, write_page

    rows = [Drawn(b[0], o.words_each, o.marks, o.profiles) for b, o in zip(blocks, origins, strict=True)]
    title = f"Profiles of {folder.resolve().name}"
    if figure is not None:
        draw_profiles(figure, rows, title=title)
        files.append(figure)
    if out is not None and out.suffix.lower() == ".html":
        write_page(out, rows, blocks, title=title, about=about)
        files.append(out)
    return files


def _blocks(origins: Sequence[OriginSummary]) -> list[_Block]:
    labels = _labels([o.origin for o in origins])
    return [(f"{o.origin.kind}: {labels[o.origin]}", _rows(o)) for o in origins]


def _labels(origins: Sequence[Origin]) -> dict[Origin, str]:
    """Name origins by prompt and generator, and by the generator's id where a spec stands there with several."""
    ids: dict[tuple[str, str, str], int] = {}
    for o in origins:
        ids[o.kind, o.prompt, o.generator] = ids.get((o.kind, o.prompt, o.generator), 0) + 1
    return {
        o: f"{o.prompt} by {o.generator}" + (f" ({o.generator_id})" if ids[o.kind, o.prompt, o.generator] > 1 else "")
        for o in origins
    }


def _rows(o: OriginSummary) -> list[tuple[str, str]]:
    near = o.near_duplicates
    coverage = "unknown: the store lists no names of this kind"
    if o.coverage is not None:
        coverage = (
            f"{o.coverage:.1%} of {o.resolvable:,} resolvable names without a mark, {o.text_coverage:.1%} with a text"
        )
    own = f"{o.naming_itself / o.with_text:.1%} of the texts name their own entity" if o.with_text else "no text"
    rows = [
        ("profiles", f"{o.profiles:,} of {o.entities:,} entities; {o.with_text:,} with text, {o.unmarked:,} unmarked"),
        ("coverage", coverage),
        ("characters", _lengths(o.characters)),
        ("words", _lengths(o.words)),
        ("finish reasons", _counts(o.finish_reasons)),
        ("marks", _counts(o.marks)),
        ("own name", own),
        (
            "near-duplicates",
            f"{near.with_duplicate:,} of {near.compared:,} ({near.share:.1%}) are nearly another entity's "
            f"(similarity {near.threshold:g} or more, own names removed): {near.pairs:,} pairs, "
            f"{len(near.groups):,} groups",
        ),
    ]
    if near.groups:
        sizes = ", ".join(f"{n:,}" for n in near.groups[:8]) + (", …" if len(near.groups) > 8 else "")
        some = ", ".join(near.largest[0]) + (", …" if near.groups[0] > len(near.largest[0]) else "")
        rows += [("  groups of", sizes), ("  the largest", some)]
        rows.append(("  closest", ", ".join(f"{p.first} ~ {p.second} ({p.similarity:.2f})" for p in near.closest[:4])))
    return rows


def _lengths(lengths: Lengths | None) -> str:
    if lengths is None:
        return "no text"
    x = lengths
    return f"median {x.median:,.0f}; 5 % {x.low:,.0f}, 95 % {x.high:,.0f}; {x.shortest:,} to {x.longest:,}"


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{n:,} {name or '(none)'}" for name, n in counts.items())


def show_diff(
    folder: Path, genes: Sequence[str], *, prompts: Sequence[str], generators: Sequence[str], as_json: bool
) -> None:
    """Print the profiles of each gene, the first whole and the others as word diffs against it."""
    from bftembed.errors import BftembedError
    from bftembed.profiles.diff import chosen, compare
    from bftembed.profiles.store import ProfileStore

    if not genes:
        raise BftembedError(f"--diff needs a gene: bftembed profiles show {folder} TP53 --diff")
    with ProfileStore.open(folder) as store:
        entity_of = {e.name: e.entity for e in store.entities()}
        wanted = list(dict.fromkeys(entity_of.get(g, g) for g in genes))
        every = store.profiles()
    picked = chosen(every, prompts=prompts, generators=generators, where=str(folder))
    missing = [g for g in wanted if not any(p.entity == g for p in picked)]
    lines: list[str] = []
    told: list[dict[str, Any]] = []
    for gene in wanted:
        for number, one in enumerate(compare([p for p in picked if p.entity == gene])):
            p = one.profile
            who = {"entity": gene, "prompt": p.prompt, "generator": p.generator, "generator_id": p.generator_id}
            told.append({**who, "marks": list(p.marks), "same": one.same, "diff": one.diff})
            head = f"{gene}  {p.prompt} by {p.generator} ({p.generator_id[:6]})  [{', '.join(p.marks) or 'ok'}]"
            head += f"  {one.same:.0%} of the words as in the first" if number else ""
            lines += [head, one.diff or p.error or "(no text)", ""]
    lines += [f"no profile: {', '.join(missing)}"] if missing else []
    finish({"profiles": told, "missing": missing}, lines, as_json=as_json, failed=bool(missing))


def quality(
    folder: FolderArgument,
    texts: Annotated[
        Path | None, typer.Option("--texts", help="Table of summaries (.tsv, .csv, .gz), adds retrieval.")
    ] = None,
    candidates: Annotated[
        str, typer.Option("--candidates", help="Summaries to search: all of the table, or of the covered genes.")
    ] = "all",
    prompt: PromptsOption = None,
    generator: GeneratorsOption = None,
    entity: Annotated[str, typer.Option("--entity", help="Column of the table with the symbol.")] = "symbol",
    text: Annotated[str, typer.Option("--text", help="Column of the table with the summary.")] = "summary",
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Shuffles of the floor.")] = 5,
    out: Annotated[Path | None, typer.Option("--out", help="Results table to write (.parquet).")] = None,
    as_json: JsonOption = False,
) -> None:
    """Score gene profiles against HGNC names and, with --texts, by finding the gene's summary; each beside floors."""
    from bftembed.errors import BftembedError, unknown_name
    from bftembed.io import refuse_input_as_output
    from bftembed.profiles.quality import naming_scores, retrieval_scores, shared_genes
    from bftembed.profiles.store import STORE_FILE, ProfileStore
    from bftembed.results import write_results

    if candidates not in ("all", "covered"):
        raise unknown_name("candidates", candidates, ("all", "covered"))
    if out is not None and out.suffix.lower() != ".parquet":
        raise BftembedError(f"--out is {out}; give a file that ends in .parquet.")
    if out is not None:
        refuse_input_as_output(out, folder / STORE_FILE, *([texts] if texts else []))
    summaries = _summaries(texts, entity, text) if texts else {}
    with ProfileStore.open(folder) as store:
        profiles = store.profiles(kind="gene")
    by_label = _texts_of(profiles, prompt or (), generator or (), folder)
    records = _records(shared_genes(by_label))
    usable = [g for g in records if not texts or g in summaries]
    if len(usable) < 2:
        raise BftembedError(_too_few(by_label, len(records), len(usable), texts))
    left_out = len(set().union(*by_label.values())) - len(usable)
    say(f"quality: {len(usable):,} genes, covered by every origin ({len(by_label)}); {left_out:,} left out")
    by_label = {label: {g: of[g] for g in usable} for label, of in by_label.items()}
    shuffles = range(seeds)
    scores = naming_scores(by_label, records, seeds=shuffles)
    covered = set(usable)
    searched = {c: s for c, s in summaries.items() if candidates == "all" or c in covered}
    if texts:
        try:
            scores += retrieval_scores(by_label, searched, _names_of(searched), seeds=shuffles)
        except ValueError as err:
            raise BftembedError(f"{texts}: {err} Give a table of texts with --texts, --entity and --text.") from err
    if out is not None:
        write_results(_results(scores, folder.resolve().name, left_out), out)
    summary = {
        "genes": len(usable),
        "left_out": left_out,
        "candidates": len(searched),
        "seeds": seeds,
        "texts": texts.name if texts else None,
        "scores": [_plain(s) for s in scores],
    }
    lines = _table(scores, len(searched))
    finish(summary, lines + ([str(out)] if out else []), as_json=as_json)


def _summaries(path: Path, entity: str, text: str) -> dict[str, str]:
    from bftembed.tuning.sources import gene_texts

    # The pairs' prompt is the bare name.
    found: dict[str, str] = {}
    for pair in gene_texts(path, entity=entity, text=text, prompt="{name}"):
        found.setdefault(pair.turns[0].content, pair.turns[1].content)
    return found


def _texts_of(
    profiles: list[Profile], prompts: Sequence[str], generators: Sequence[str], folder: Path
) -> dict[str, dict[str, str]]:
    from bftembed.errors import BftembedError
    from bftembed.profiles.diff import chosen
    from bftembed.profiles.summary import by_origin

    if not profiles:
        raise BftembedError(f"There are no profiles of genes in {folder}; only those can be scored.")
    origins = by_origin(chosen(profiles, prompts=prompts, generators=generators, where=str(folder)))
    labels = _labels(list(origins))
    found: dict[str, dict[str, str]] = {}
    for origin, some in origins.items():
        texts = {p.entity: p.text for p in reversed(some) if p.text.strip() and not p.error}
        if not texts:
            say(f"{labels[origin]} has no text and is left out.")
        else:
            found[labels[origin]] = texts
    if not found:
        raise BftembedError(f"None of the profiles in {folder} has a text. Generate them again with --retry-failed.")
    return found


def _records(genes: Sequence[str]) -> dict[str, Any]:
    from bftembed.entities.genes import GeneIndex

    records = ((g, GeneIndex.default().get(g)) for g in genes)
    return {g: r for g, r in records if r is not None}


def _names_of(genes: Iterable[str]) -> dict[str, tuple[str, ...]]:
    from bftembed.profiles.summary import own_names

    return {g: own_names("gene", g) for g in genes}


def _too_few(by_label: dict[str, dict[str, str]], known: int, usable: int, texts: Path | None) -> str:
    counts = "; ".join(f"{label}: {len(of):,}" for label, of in by_label.items())
    lost = f", and {usable} of them in {texts.name}" if texts else ""
    return (
        f"Only {known} genes of HGNC have a profile of every origin{lost}; at least 2 are needed ({counts}). "
        "Choose origins with --generator and --prompt, or generate the same genes with each."
    )


def _results(scores: list[Score], run: str, left_out: int) -> list[Any]:
    from bftembed.results import ENDS, Result

    rows = []
    for s in scores:
        note = "" if s.n else "no gene has such a name"
        for split, value in zip(("all", *ENDS), (s.value, s.low, s.high), strict=True):
            key = (run, _who(s), "profile-quality", s.protocol, s.metric, split, None)
            rows.append(Result(*key, value=value, n_used=s.n, n_missing=left_out, note=note))
    return rows


def _who(s: Score) -> str:
    return s.texts if not s.generator else s.generator if s.texts == "profiles" else f"{s.generator} ({s.texts})"


def _plain(s: Score) -> dict[str, Any]:
    from dataclasses import asdict

    return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in asdict(s).items()}


def _table(scores: list[Score], candidates: int) -> list[str]:
    lines: list[str] = []
    for protocol in dict.fromkeys(s.protocol for s in scores):
        here = [s for s in scores if s.protocol == protocol]
        searched = f"its summary among {candidates:,}, {protocol}" if protocol != "names" else "names of the gene"
        lines += ["", searched]
        for who in dict.fromkeys(_who(s) for s in here):
            lines.append(f"  {who}")
            for s in (s for s in here if _who(s) == who):
                form = {"median-rank": ",.1f", "mean-reciprocal-rank": ".4f"}.get(s.metric, ".3f")
                told = f"{s.value:{form}}  ({s.low:{form}} to {s.high:{form}})" if s.n else "no gene has one"
                lines.append(f"    {s.metric:24}{told}  {s.n:,} genes")
    return [*lines[1:], "", "in brackets: 95 % bootstrap interval over genes; shuffled: mean over the seeds"]

"""`bftembed genes embed`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bftembed.cli.common import JsonOption, finish, progress_bar


def embed(
    profiles: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a profile store, or exported Parquet.")],
    out: Annotated[Path, typer.Option("--out", help="The .safetensors file to write.")],
    encoder: Annotated[
        str,
        typer.Option("--encoder", help="builtin:NAME, st:FOLDER_OR_HUB_NAME[,option=value…], openai:MODEL, tfidf…"),
    ] = "builtin:all-minilm-l6-v2",
    allow_marks: Annotated[
        str, typer.Option("--allow-marks", help="Embed profiles with these marks too: truncated,looping,…")
    ] = "",
    prompt: Annotated[str | None, typer.Option("--prompt", help="Only profiles of this prompt.")] = None,
    generator: Annotated[
        str | None, typer.Option("--generator", help="Only profiles of this generator: its spec, or its id.")
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option("--cache", help="SQLite file of vectors, to go on from. openai: DIR/vectors.sqlite unless given."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Encode profiles into one vector per gene. Marked profiles are left out and counted."""
    from bftembed.embeddings import embed_genes
    from bftembed.errors import examples

    with progress_bar("texts") as progress:
        embeddings = embed_genes(
            profiles,
            encoder,
            allow_marks=allow_marks,
            prompt=prompt,
            generator=generator,
            out=out,
            cache=cache,
            progress=progress,
        )
    made = embeddings.provenance
    counts, encoding, spec = made["counts"], made["encoding"], made["encoder"]
    summary = {
        "out": str(out),
        "dim": embeddings.dim,
        "counts": counts,
        "left_out": {mark: len(ids) for mark, ids in made["left_out"].items()},
        "encoder": spec,
        "encoding": encoding,
        "cache": made.get("cache"),
        "fingerprint": embeddings.fingerprint(),
    }
    lines = [f"embedded: {counts['embedded']} of {counts['profiles']} profiles, {embeddings.dim} dimensions each"]
    for mark, ids in made["left_out"].items():
        lines.append(f"left out, {mark}: {len(ids)} ({examples(ids)})")
    if encoding["n_chunked"]:
        lines.append(
            f"longer than {encoding['max_tokens']} tokens: {encoding['n_chunked']} texts, "
            f"encoded in {encoding['n_chunks']} pieces and averaged"
        )
    if encoding["n_truncated"]:
        lines.append(
            f"longer than {encoding['max_tokens']} tokens: {encoding['n_truncated']} texts, cut: "
            f"{encoding['n_tokens_dropped']} of {encoding['n_tokens_total']} tokens dropped"
        )
    if "cache" in made:
        lines.append(f"vectors from the cache: {made['cache']['reused']}, new in it: {made['cache']['encoded']}")
    lines.append(f"embeddings: {out}")
    finish(summary, lines, as_json=as_json)

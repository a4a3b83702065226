"""`bftembed tune diagnose`: where a model is unsure of reference responses, and of what."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bftembed.cli.common import JsonOption, finish, progress_bar, say

if TYPE_CHECKING:
    import numpy as np

    from bftembed.tuning.data import Conversation
    from bftembed.tuning.diagnostic import Diagnostic
    from bftembed.tuning.tagging import Response

_DTYPES = {"auto": "", "bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
#: Longest response of figure 1b, in tokens: three rows of it.
_EXAMPLE_TOKENS = 132


def diagnose(
    data: Annotated[
        Path,
        typer.Argument(metavar="DATA", help="Pairs (.jsonl), PubMedQA (.json) or gene texts (.tsv, .csv); also .gz."),
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder for the result: JSON, windows and two figures.")],
    model: Annotated[
        str, typer.Option("--model", help="builtin:NAME, a folder, or a hub name.")
    ] = "builtin:smollm2-135m-instruct",
    responses: Annotated[int | None, typer.Option("--responses", min=1, help="Only N rows, drawn by --seed.")] = None,
    window: Annotated[int, typer.Option("--window", min=1, help="Tokens of a window.")] = 32,
    stride: Annotated[int, typer.Option("--stride", min=1, help="Tokens from one window to the next.")] = 1,
    tau_quantile: Annotated[
        float, typer.Option("--tau-quantile", help="Low confidence: below this quantile of the response.")
    ] = 0.5,
    sparse_quantile: Annotated[
        float, typer.Option("--sparse-quantile", help="Group A: low fraction and longest run at most at this quantile.")
    ] = 0.25,
    dense_quantile: Annotated[
        float, typer.Option("--dense-quantile", help="Group B: low fraction and longest run at least at this quantile.")
    ] = 0.75,
    tagger: Annotated[str, typer.Option("--tagger", help="Entities: genes, or spacy:MODEL.")] = "genes",
    template: Annotated[str, typer.Option("--template", help="Prompt: auto, chat or none.")] = "auto",
    entity: Annotated[str, typer.Option("--entity", help="Column with the name of the gene (tables).")] = "symbol",
    text: Annotated[str, typer.Option("--text", help="Column with the text (tables).")] = "summary",
    dtype: Annotated[str, typer.Option("--dtype", help="auto, bf16, fp16 or fp32.")] = "auto",
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the draw of rows and of the bootstrap.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Sort windows of token confidences into sparse-low and dense-low, and compare what their low tokens speak of."""
    from bftembed.errors import BftembedError, unknown_name
    from bftembed.io import refuse_input_as_output, sha256_file, write_json
    from bftembed.tuning.diagnostic import DiagnosticOptions
    from bftembed.tuning.diagnostic import diagnose as compare
    from bftembed.tuning.tagging import connective_spans, load_tagger, tag_tokens

    # All that can be refused is refused before the model runs.
    options = DiagnosticOptions(window, stride, tau_quantile, sparse_quantile, dense_quantile, seed=seed)
    if dtype not in _DTYPES:
        raise unknown_name("dtype", dtype, _DTYPES)
    if out.exists() and not out.is_dir():
        raise BftembedError(f"{out} is a file. Give a folder for the result with --out.")
    refuse_input_as_output(out / "diagnostic.json", data)
    entities = load_tagger(tagger)
    conversations = _read(data, entity, text)
    chosen = _drawn(conversations, responses, seed)
    say(f"diagnose: {len(chosen)} of {len(conversations)} rows of {data.name}; window {window}, by {model}")
    found, confidences, described = _forced(chosen, model, dtype, template, quiet=as_json)
    tags = [tag_tokens(r.offsets, entities(r.text), connective_spans(r.text)) for r in found]
    result = compare(confidences, tags, options)

    record = {
        "about": "Window, thresholds and groups are this project's choice, since the paper's are lost.",
        **_versions(tagger),
        "data": {"file": data.name, "sha256": sha256_file(data), "rows": len(conversations), "drawn": len(chosen)},
        "model": described,
        **result.to_dict(),
    }
    shown = _example(result, tags, confidences)
    record["example"] = found[shown].where
    _write_windows(out / "windows.parquet", result, found)
    about = f"{data.name}, {described['name']}: {len(found):,} responses, windows of {window} tokens"
    _draw(out, result, about, found[shown].where, _tokens(result, shown, found, confidences, tags))
    # Last: a folder with this file is whole.
    write_json(out / "diagnostic.json", record)
    finish(
        {"out": str(out), **{k: record[k] for k in ("counts", "thresholds", "enrichment")}},
        [*_table(result), str(out)],
        as_json=as_json,
    )


def _read(data: Path, entity: str, text: str) -> list[Conversation]:
    from bftembed.errors import BftembedError
    from bftembed.tuning import data as pairs
    from bftembed.tuning import sources

    plain = data.name.lower().removesuffix(".gz")
    if plain.endswith((".tsv", ".csv")):
        return sources.gene_texts(data, entity=entity, text=text)
    if plain.endswith(".json") and sources.is_pubmedqa(data):
        return sources.pubmedqa(data)
    if data.suffix.lower() in (".json", ".jsonl"):
        return pairs.read_conversations(data)
    raise BftembedError(f"{data}: expected .jsonl, .json, .tsv or .csv (the last three also as .gz).")


def _drawn(conversations: list[Conversation], n: int | None, seed: int) -> list[Conversation]:
    import numpy as np

    if n is None or n >= len(conversations):
        return conversations
    at = np.random.default_rng(seed).choice(len(conversations), size=n, replace=False)
    return [conversations[i] for i in np.sort(at)]


def _forced(
    conversations: list[Conversation], model: str, dtype: str, template: str, *, quiet: bool
) -> tuple[list[Response], list[np.ndarray], dict[str, Any]]:
    """Return each answer with the confidences of its tokens, and what is to be said about the model."""
    from bftembed.errors import BftembedError, require
    from bftembed.machine import cpu_has_bf16, free_cores
    from bftembed.models import load_language_model
    from bftembed.tuning.confidence import context_of, token_confidence
    from bftembed.tuning.encoding import encode
    from bftembed.tuning.tagging import responses

    torch = require("torch", "local")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    chosen = _DTYPES[dtype] or ("bfloat16" if device == "cuda" or cpu_has_bf16() else "float32")
    network, tokenizer, local = load_language_model(model, chosen)
    rows = [(c, encode(c, tokenizer, template=template)) for c in conversations]
    longest = context_of(network)
    fitting = [(c, e) for c, e in rows if not longest or len(e.input_ids) <= longest]
    if not fitting:
        raise BftembedError(f"None of the {len(rows)} rows fits the model's context of {longest} tokens.")
    if len(fitting) < len(rows):
        say(f"{len(rows) - len(fitting)} rows are longer than the model's context of {longest} tokens and left out.")
    threads = torch.get_num_threads()
    torch.set_num_threads(free_cores())
    try:
        with progress_bar("confidence", quiet=quiet) as progress:
            values = token_confidence(network.to(device), [e for _, e in fitting], progress=progress)
    finally:
        torch.set_num_threads(threads)
    found, confidences = [], []
    for (conversation, encoded), value in zip(fitting, values, strict=True):
        for response in responses(conversation, encoded, tokenizer):
            found.append(response)
            confidences.append(value[response.start : response.start + len(response.offsets)])
    described = {"name": local.name, "revision": local.revision, "dtype": chosen, "device": device}
    return found, confidences, described | {"template": template, "rows_too_long": len(rows) - len(fitting)}


def _versions(tagger: str) -> dict[str, Any]:
    import torch
    import transformers

    import bftembed
    from bftembed.entities.hgnc import hgnc_version
    from bftembed.tuning.tagging import connectives_version

    versions = {"bftembed": bftembed.__version__, "torch": torch.__version__, "transformers": transformers.__version__}
    if tagger == "genes":
        versions["hgnc"] = hgnc_version()
    return {"tagger": tagger, "versions": versions | {"causal_connectives": connectives_version()}}


def _example(result: Diagnostic, tags: list[np.ndarray], confidences: list[np.ndarray]) -> int:
    """Return the response of figure 1b: not too long, with the most tagged low tokens in windows of group B."""
    from bftembed.tuning.diagnostic import DENSE, in_group, low_tokens
    from bftembed.tuning.tagging import OTHER

    inside = in_group(result.windows, [len(c) for c in confidences], DENSE)

    def told(i: int) -> tuple[bool, int, int]:
        low = low_tokens(confidences[i], result.options.tau_quantile) & inside[i]
        return 0 < len(low) <= _EXAMPLE_TOKENS, int((low & (tags[i] != OTHER)).sum()), int(low.sum())

    return max(range(len(tags)), key=told)


def _write_windows(path: Path, result: Diagnostic, found: list[Response]) -> None:
    import pandas as pd

    from bftembed.io import atomic_path
    from bftembed.tuning.tagging import TAGS

    w = result.windows
    frame = pd.DataFrame({name: getattr(w, name) for name in ("response", "start", "length", "low_fraction")})
    frame["longest_run"], frame["group"] = w.longest_run, w.group
    for i, tag in enumerate(TAGS):
        frame[f"low_{tag}"] = w.low_tags[:, i]
    frame.insert(0, "where", [found[i].where for i in w.response])
    with atomic_path(path) as temporary:
        frame.to_parquet(temporary, index=False)


def _tokens(
    result: Diagnostic, i: int, found: list[Response], confidences: list[np.ndarray], tags: list[np.ndarray]
) -> dict[str, Any]:
    """Return what figure 1b shows of a response."""
    import numpy as np

    from bftembed.tuning.diagnostic import DENSE, SPARSE, in_group, low_tokens
    from bftembed.tuning.tagging import TAGS

    sizes, tau = [len(c) for c in confidences], result.options.tau_quantile
    return {
        "tokens": [found[i].text[first:last] for first, last in found[i].offsets],
        "confidence": confidences[i],
        "low": low_tokens(confidences[i], tau),
        "tags": [TAGS[t] for t in tags[i]],
        "in_sparse": in_group(result.windows, sizes, SPARSE)[i],
        "in_dense": in_group(result.windows, sizes, DENSE)[i],
        "tau": float(np.quantile(confidences[i], tau)),
    }


def _draw(out: Path, result: Diagnostic, about: str, where: str, response: dict[str, Any]) -> None:
    from bftembed.reports import diagnostic as figures

    ratios = [
        figures.Ratio(e.tag, e.ratio, e.low, e.high, f"low tokens: {e.low_sparse:,} in A, {e.low_dense:,} in B")
        for e in result.enrichment
    ]
    w = result.windows
    figures.draw_windows(out / "figure-1a.png", w.low_fraction, w.longest_run, w.group, ratios, title=about)
    title = f"{where}: chosen for its tagged low-confidence tokens in windows of B"
    figures.draw_response(out / "figure-1b.png", **response, title=title)


def _table(result: Diagnostic) -> list[str]:
    def number(x: float | None, form: str) -> str:
        return "–" if x is None else format(x, form)

    lines = [f"{'tag':12}{'low in A':>10}{'low in B':>10}{'share A':>9}{'share B':>9}{'B / A':>8}   95 % interval"]
    for e in result.enrichment:
        seen = f"{e.low_sparse:>10,}{e.low_dense:>10,}"
        shares = f"{number(e.share_sparse, '.2%'):>9}{number(e.share_dense, '.2%'):>9}{number(e.ratio, '.2f'):>8}"
        lines.append(f"{e.tag:12}{seen}{shares}   {number(e.low, '.2f')} to {number(e.high, '.2f')}")
    counts = result.counts
    return [
        *lines,
        "",
        f"{counts['windows_sparse']:,} windows in A and {counts['windows_dense']:,} in B of {counts['windows']:,}, "
        f"from {counts['responses']:,} responses with {counts['tokens']:,} tokens",
        "low: distinct low-confidence tokens; shares count a token once per window",
        "interval: bootstrap over responses; –: unbounded or unknown",
    ]

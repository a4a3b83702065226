"""The paper's uncertainty diagnostic of a model on reference responses: JSON, windows and two figures in a folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from bftembed.errors import BftembedError, require, unknown_name
from bftembed.io import atomic_path, refuse_input_as_output, sha256_file, write_json
from bftembed.progress import silent
from bftembed.tuning import figures, sources
from bftembed.tuning.data import Conversation, read_conversations
from bftembed.tuning.diagnostic import DENSE, SPARSE, Diagnostic, DiagnosticOptions, diagnose, in_group, low_tokens
from bftembed.tuning.tagging import (
    OTHER,
    TAGS,
    Response,
    connective_spans,
    connectives_version,
    load_tagger,
    responses,
    tag_tokens,
)

if TYPE_CHECKING:
    import os

    from bftembed.progress import Progress

_DTYPES = {"auto": "", "bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
#: Longest response of figure 1b, in tokens: three rows of it.
_EXAMPLE_TOKENS = 132


@dataclass(frozen=True)
class UncertaintyReport:
    """The result, the folder it was written to, and the responses that were too long for the model."""

    out: Path
    result: Diagnostic
    too_long: int

    def to_dict(self) -> dict[str, Any]:
        """Return counts, thresholds and enrichment as JSON values."""
        told = self.result.to_dict()
        return {"out": str(self.out), **{name: told[name] for name in ("counts", "thresholds", "enrichment")}}


def diagnose_responses(
    data: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    model: str = "builtin:smollm2-135m-instruct",
    max_responses: int | None = None,
    window: int = 32,
    tagger: str = "genes",
    seed: int = 0,
    stride: int = 1,
    tau_quantile: float = 0.5,
    sparse_quantile: float = 0.25,
    dense_quantile: float = 0.75,
    entity: str = "symbol",
    text: str = "summary",
    template: Literal["auto", "chat", "none"] = "auto",
    dtype: Literal["auto", "bf16", "fp16", "fp32"] = "auto",
    progress: Progress = silent,
) -> UncertaintyReport:
    """Find where a model is unsure of reference responses, and compare what its low-confidence tokens speak of.

    Windows of token confidences are sorted into sparse-low (A) and dense-low (B).

    Parameters
    ----------
    data
        Conversations (.jsonl), PubMedQA (.json) or a table of gene texts (.tsv, .csv), also .gz.
    out
        Folder to write: JSON, windows (Parquet) and two figures.
    model
        Language model: builtin:NAME, a folder, or a hub name.
    max_responses
        Number of responses, sampled at random. By default all.
    window
        Number of tokens in a window.
    tagger
        Finder of entities: genes, or spacy:MODEL.

    Other Parameters
    ----------------
    seed
        Seed of the sample and of the bootstrap.
    stride
        Number of tokens from one window to the next.
    tau_quantile
        Tokens below this quantile of their response have low confidence.
    sparse_quantile
        Group A: low fraction and longest run at most at this quantile of all windows.
    dense_quantile
        Group B: low fraction and longest run at least at this quantile.
    entity
        Column of a table with the gene.
    text
        Column of a table with the text.
    template
        Prompt, as in `bftembed.tuning.encoding.encode`.
    dtype
        Data type of the weights.
    progress
        Called with the number of responses done.

    Raises
    ------
    BftembedError
        For data, a model or a tagger that cannot be read, options out of range, and groups that are empty or alike. All
        that can be checked is checked before the model runs.
    """
    options = DiagnosticOptions(window, stride, tau_quantile, sparse_quantile, dense_quantile, seed=seed)
    if dtype not in _DTYPES:
        raise unknown_name("dtype", dtype, _DTYPES)
    if max_responses is not None and max_responses < 1:
        raise BftembedError(f"max_responses (--max-responses) is {max_responses}; give 1 or more.")
    source, folder = Path(data), Path(out)
    if folder.exists() and not folder.is_dir():
        raise BftembedError(f"{folder} is a file. Give a folder for the result (--out).")
    refuse_input_as_output(folder / "diagnostic.json", source)
    entities = load_tagger(tagger)
    conversations = _read(source, entity, text)
    n = len(conversations)
    size = n if max_responses is None else min(n, max_responses)
    at = np.sort(np.random.default_rng(seed).choice(n, size=size, replace=False))
    found, confidences, described = _forced([conversations[i] for i in at], model, dtype, template, progress)
    tags = [tag_tokens(r.offsets, entities(r.text), connective_spans(r.text)) for r in found]
    result = diagnose(confidences, tags, options)
    shown = _example(result, tags, confidences)
    _write_windows(folder / "windows.parquet", result, found)
    about = f"{source.name}, {described['name']}: {len(found):,} responses, windows of {window} tokens"
    _draw(folder, result, about, shown, found, confidences, tags)
    record = {
        "about": "Window, thresholds and groups are this project's choice, since the paper's are lost.",
        **_versions(tagger),
        "data": {"file": source.name, "sha256": sha256_file(source), "rows": n, "drawn": size},
        "model": described,
        **result.to_dict(),
        "example": found[shown].where,
    }
    # Last: a folder with this file is complete.
    write_json(folder / "diagnostic.json", record)
    return UncertaintyReport(folder, result, int(described["rows_too_long"]))


def _read(data: Path, entity: str, text: str) -> list[Conversation]:
    plain = data.name.lower().removesuffix(".gz")
    if plain.endswith((".tsv", ".csv")):
        return sources.gene_texts(data, entity=entity, text=text)
    if plain.endswith(".json") and sources.is_pubmedqa(data):
        return sources.pubmedqa(data)
    if data.suffix.lower() in (".json", ".jsonl"):
        return read_conversations(data)
    raise BftembedError(f"{data}: expected .jsonl, .json, .tsv or .csv (the last three also as .gz).")


def _forced(
    conversations: list[Conversation], model: str, dtype: str, template: str, progress: Progress
) -> tuple[list[Response], list[np.ndarray], dict[str, Any]]:
    """Return each answer with the confidences of its tokens, and a description of the model."""
    from bftembed.llm.models import load_language_model
    from bftembed.machine import cpu_has_bf16, free_cores
    from bftembed.tuning.confidence import context_of, token_confidence
    from bftembed.tuning.encoding import encode

    torch = require("torch", "local")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    chosen = _DTYPES[dtype] or ("bfloat16" if device == "cuda" or cpu_has_bf16() else "float32")
    network, tokenizer, local = load_language_model(model, chosen)
    rows = [(c, encode(c, tokenizer, template=template)) for c in conversations]
    longest = context_of(network)
    fitting = [(c, e) for c, e in rows if not longest or len(e.input_ids) <= longest]
    if not fitting:
        raise BftembedError(f"None of the {len(rows)} rows fits the model's context of {longest} tokens.")
    threads = torch.get_num_threads()
    torch.set_num_threads(free_cores())
    try:
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

    versions = {"bftembed": bftembed.__version__, "torch": torch.__version__, "transformers": transformers.__version__}
    if tagger == "genes":
        versions["hgnc"] = hgnc_version()
    return {"tagger": tagger, "versions": versions | {"causal_connectives": connectives_version()}}


def _example(result: Diagnostic, tags: list[np.ndarray], confidences: list[np.ndarray]) -> int:
    """Return the response of figure 1b: not too long, with the most tagged low tokens in windows of group B."""
    inside = in_group(result.windows, [len(c) for c in confidences], DENSE)

    def rank(i: int) -> tuple[bool, int, int]:
        low = low_tokens(confidences[i], result.options.tau_quantile) & inside[i]
        return 0 < len(low) <= _EXAMPLE_TOKENS, int((low & (tags[i] != OTHER)).sum()), int(low.sum())

    return max(range(len(tags)), key=rank)


def _write_windows(path: Path, result: Diagnostic, found: list[Response]) -> None:
    import pandas as pd

    w, plain = result.windows, ("response", "start", "length", "low_fraction", "longest_run", "group")
    columns = {"where": [found[i].where for i in w.response], **{name: getattr(w, name) for name in plain}}
    frame = pd.DataFrame(columns | {f"low_{tag}": w.low_tags[:, i] for i, tag in enumerate(TAGS)})
    with atomic_path(path) as temporary:
        frame.to_parquet(temporary, index=False)


def _draw(
    out: Path,
    result: Diagnostic,
    about: str,
    i: int,
    found: list[Response],
    confidences: list[np.ndarray],
    tags: list[np.ndarray],
) -> None:
    """Draw figure 1a of all windows, and figure 1b of response `i`."""
    ratios = [
        figures.Ratio(e.tag, e.ratio, e.low, e.high, f"low tokens: {e.low_sparse:,} in A, {e.low_dense:,} in B")
        for e in result.enrichment
    ]
    w, tau = result.windows, result.options.tau_quantile
    figures.draw_windows(out / "figure-1a.png", w.low_fraction, w.longest_run, w.group, ratios, title=about)
    sizes = [len(c) for c in confidences]
    figures.draw_response(
        out / "figure-1b.png",
        tokens=[found[i].text[first:last] for first, last in found[i].offsets],
        confidence=confidences[i],
        low=low_tokens(confidences[i], tau),
        tags=[TAGS[t] for t in tags[i]],
        in_sparse=in_group(w, sizes, SPARSE)[i],
        in_dense=in_group(w, sizes, DENSE)[i],
        tau=float(np.quantile(confidences[i], tau)),
        title=f"{found[i].where}: chosen for its tagged low-confidence tokens in windows of B",
    )

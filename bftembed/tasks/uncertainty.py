"""The paper's uncertainty diagnostic of a model on reference responses: JSON, windows and figures in a folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from bftembed.entities.genes import hgnc_version
from bftembed.errors import BftembedError, require, unknown_name
from bftembed.io import atomic_path, refuse_input_as_output, sha256_file, write_json
from bftembed.progress import silent
from bftembed.report.manifest import versions
from bftembed.tuning import diagnostic
from bftembed.tuning.data import Conversation, gene_texts, read_conversations
from bftembed.tuning.tagging import OTHER, TAGS, connective_spans, connectives_version, load_tagger, tag_tokens

if TYPE_CHECKING:
    import os

    from bftembed.progress import Progress

_DTYPES = {"auto": "", "bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
#: Longest response of figure 1b, in tokens: three rows of it.
_EXAMPLE_TOKENS = 132


@dataclass(frozen=True)
class UncertaintyReport:
    """The result, the folder it was written to, and the number of responses that were too long for the model."""

    out: Path
    result: diagnostic.Diagnostic
    too_long: int

    def to_dict(self) -> dict[str, Any]:
        """Return note, counts, thresholds and enrichment as JSON values."""
        found = self.result.to_dict()
        return {"out": str(self.out), **{n: found[n] for n in ("note", "counts", "thresholds", "enrichment")}}


class _Response(NamedTuple):
    """One answer: file and row, text, characters of each token, confidence and tag of each token."""

    where: str
    text: str
    offsets: list[tuple[int, int]]
    confidence: np.ndarray
    tags: np.ndarray


def diagnose_responses(
    data: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    model: str = "builtin:smollm2-135m-instruct",
    max_responses: int | None = None,
    window: int | None = None,
    tagger: str = "genes",
    seed: int = 0,
    stride: int = 1,
    tau_quantile: float = 0.5,
    sparse_quantile: float = 0.25,
    dense_quantile: float = 0.75,
    entity: str = "symbol",
    text: str = "summary",
    dtype: Literal["auto", "bf16", "fp16", "fp32"] = "auto",
    progress: Progress = silent,
) -> UncertaintyReport:
    """Find where a model is unsure of reference responses, and compare the tags of its low-confidence tokens.

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
        Number of tokens in a window. By default the paper's 256 where the median response is longer, else 32.
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
    options: dict[str, Any] = {"window": window, "stride": stride, "tau_quantile": tau_quantile}
    options |= {"sparse_quantile": sparse_quantile, "dense_quantile": dense_quantile}
    diagnostic.check_options(*options.values())
    if dtype not in _DTYPES:
        raise unknown_name("dtype", dtype, _DTYPES)
    if max_responses is not None and max_responses < 1:
        raise BftembedError(f"max_responses (--max-responses) is {max_responses}; give 1 or more.")
    source, folder = Path(data), Path(out)
    if folder.exists() and not folder.is_dir():
        raise BftembedError(f"{folder} is a file. Give a folder for the result (--out).")
    refuse_input_as_output(folder / "diagnostic.json", source)
    entities = load_tagger(tagger)
    is_table = source.name.lower().removesuffix(".gz").endswith((".tsv", ".csv"))
    conversations = gene_texts(source, entity=entity, text=text) if is_table else read_conversations(source)
    n = len(conversations)
    size = n if max_responses is None else min(n, max_responses)
    at = np.sort(np.random.default_rng(seed).choice(n, size=size, replace=False))
    found, described = _responses([conversations[i] for i in at], model, dtype, entities, progress)
    result = diagnostic.diagnose([r.confidence for r in found], [r.tags for r in found], **options, seed=seed)
    windows = result.windows.copy()
    windows.insert(0, "where", [found[i].where for i in windows["response"]])
    with atomic_path(folder / "windows.parquet") as temporary:
        windows.to_parquet(temporary, index=False)
    weights = diagnostic.group_weights([r.confidence for r in found], result)
    diagnostic.draw_weights(folder / "weights.png", weights)
    record = {
        "about": "Window, thresholds and groups are this project's choice, since the paper's are lost.",
        "tagger": tagger,
        "versions": versions() | {"causal_connectives": connectives_version(), "hgnc": hgnc_version()},
        "data": {"file": source.name, "sha256": sha256_file(source), "rows": n, "drawn": size},
        "model": described,
        **result.to_dict(),
        "weights": weights,
        "example": _draw_example(folder / "figure-1b.png", result, found),
    }
    # Last: a folder with this file is complete.
    write_json(folder / "diagnostic.json", record)
    return UncertaintyReport(folder, result, int(described["rows_too_long"]))


def _responses(
    conversations: list[Conversation], model: str, dtype: str, entities: Any, progress: Progress
) -> tuple[list[_Response], dict[str, Any]]:
    """Return each answer with confidences and tags of its tokens, and a description of the model."""
    from bftembed.llm.models import load_language_model
    from bftembed.machine import cpu_has_bf16, free_cores
    from bftembed.tuning.encoding import encode

    torch = require("torch", "local")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    chosen = _DTYPES[dtype] or ("bfloat16" if device == "cuda" or cpu_has_bf16() else "float32")
    network, tokenizer, local = load_language_model(model, chosen)
    if not tokenizer.is_fast:
        raise BftembedError(f"{type(tokenizer).__name__} gives no offsets. Use a model with a fast tokenizer.")
    rows = [encode(c, tokenizer) for c in conversations]
    longest = getattr(network.config.get_text_config(), "max_position_embeddings", None)
    fitting = [row for row in rows if not longest or len(row.input_ids) <= longest]
    if not fitting:
        raise BftembedError(f"None of the {len(rows)} rows fits the model's context of {longest} tokens.")
    threads = torch.get_num_threads()
    torch.set_num_threads(free_cores())
    try:
        values = diagnostic.token_confidence(network.to(device), fitting, progress=progress)
    finally:
        torch.set_num_threads(threads)
    found = []
    for row, value in zip(fitting, values, strict=True):
        start = 0
        for text in row.answers:
            tokens = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
            offsets = [tuple(span) for span in tokens["offset_mapping"]]
            confidence = value[start : start + len(offsets)]
            tags = tag_tokens(offsets, entities(text), connective_spans(text))
            found.append(_Response(row.where, text, offsets, confidence, tags))
            start += len(offsets) + 1  # the end token is left out
    described = {"name": local.name, "revision": local.revision, "dtype": chosen, "device": device}
    return found, described | {"rows_too_long": len(rows) - len(fitting)}


def _draw_example(path: Path, result: diagnostic.Diagnostic, found: list[_Response]) -> str:
    """Draw figure 1b, and return which response: not too long, with the most tagged low tokens in windows of B."""
    tau, sizes = result.options["tau_quantile"], [len(r.confidence) for r in found]
    low = [diagnostic.low_tokens(r.confidence, tau) for r in found]
    inside = {g: diagnostic.in_group(result.windows, sizes, g) for g in (diagnostic.SPARSE, diagnostic.DENSE)}

    def rank(i: int) -> tuple[bool, int, int]:
        dense = low[i] & inside[diagnostic.DENSE][i]
        return 0 < len(dense) <= _EXAMPLE_TOKENS, int((dense & (found[i].tags != OTHER)).sum()), int(dense.sum())

    i = max(range(len(found)), key=rank)
    shown = found[i]
    diagnostic.draw_response(
        path,
        [shown.text[first:last] for first, last in shown.offsets],
        shown.confidence,
        [TAGS[tag] for tag in shown.tags],
        {group: held[i] for group, held in inside.items()},
        tau=float(np.quantile(shown.confidence, tau)),
        title=f"{shown.where}: chosen for its tagged low-confidence tokens in windows of B",
    )
    return shown.where

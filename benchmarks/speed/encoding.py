"""How fast the packaged MiniLM encodes profiles: ours against sentence-transformers itself, fp32 and bf16, and pieces.

Usage: python benchmarks/speed/encoding.py [--texts 2000] [--repeats 3] [--threads 1] [--summaries FILE] [--out FILE]

Texts: half RefSeq gene summaries (a table with the columns ``symbol`` and ``summary``), half profiles of the ``facts``
generator. Every way encodes the same texts in the same process with the same batch size, one after the other and in
another order each time. Only ratios within one run are meant to be compared. CPU seconds of the process (all threads)
stand beside wall seconds, since wall depends on what else the machine does; the ratios are those of CPU seconds, of
medians over the repeats. The first round warms up and does not count.

``ours`` truncates here as sentence-transformers does. What the default makes of long texts, all pieces averaged, is
compared with the cut on summaries beyond the limit alone (few texts are, so that time hardly differs).
"""

from __future__ import annotations

import argparse
import csv
import gzip
import itertools
import json
import os
import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

MODEL = "builtin:all-minilm-l6-v2"
BATCH = 32
SUMMARIES = Path(__file__).parents[3] / "shared" / "data" / "gene_text" / "refseq_gene_summary_human.tsv.gz"


def summaries(path: Path, n: int | None, seed: int) -> list[str]:
    with gzip.open(path, "rt", encoding="utf-8") as handle:
        rows = csv.reader(handle, delimiter="\t", quoting=csv.QUOTE_NONE)
        header = next(rows)
        place = next(i for i, name in enumerate(header) if "summary" in name.lower())
        texts = sorted({row[place].strip() for row in rows if len(row) > place and row[place].strip()})
    order = np.random.default_rng(seed).permutation(len(texts))
    return [texts[i] for i in order[:n]]


def facts_profiles(n: int, seed: int) -> list[str]:
    from bftembed.entities.genes import GeneIndex
    from bftembed.llm.base import Request
    from bftembed.profiles.facts import Facts
    from bftembed.profiles.generate import get_prompt

    names = sorted(GeneIndex.default())
    chosen = [names[i] for i in np.random.default_rng(seed).choice(len(names), size=2 * n, replace=False)]
    prompt = get_prompt(None, "gene")
    asked = [
        Request(f"{i:064x}", prompt.messages(name), metadata={"entity": name, "kind": "gene"})
        for i, name in enumerate(chosen)
    ]
    texts = [c.text for c in Facts().generate(asked) if c.text.strip() and not c.error]
    return texts[:n]


def ways() -> dict[str, Callable[[list[str]], np.ndarray]]:
    from sentence_transformers import SentenceTransformer

    from bftembed.encoders.base import encoder_from_spec
    from bftembed.llm.models import resolve_model
    from bftembed.machine import cpu_has_bf16

    theirs = SentenceTransformer(str(resolve_model("encoder", MODEL).path), device="cpu")
    specs = {"ours fp32": "long=truncate"}
    if cpu_has_bf16():
        specs["ours bf16"] = "dtype=bf16,long=truncate"
    encoders = {name: encoder_from_spec(f"{MODEL},device=cpu,batch_size={BATCH},{o}") for name, o in specs.items()}
    return {
        "sentence-transformers fp32": lambda texts: theirs.encode(texts, batch_size=BATCH, show_progress_bar=False),
        **{name: encoder.encode for name, encoder in encoders.items()},
    }


def cosines(a: np.ndarray, b: np.ndarray) -> dict[str, float]:
    found = (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    shown = {"min": found.min(), "p1": np.quantile(found, 0.01), "median": np.median(found), "mean": found.mean()}
    return {name: round(float(value), 6) for name, value in shown.items()}


def lengths(texts: list[str]) -> dict[str, Any]:
    from transformers import AutoTokenizer

    from bftembed.encoders.sentence_transformer import _token_offsets
    from bftembed.llm.models import resolve_model

    tokenizer = AutoTokenizer.from_pretrained(resolve_model("encoder", MODEL).path)
    counts = np.array([len(offsets) for offsets in _token_offsets(tokenizer, texts)])
    return {
        "texts": len(texts),
        "characters_median": int(np.median([len(t) for t in texts])),
        "tokens_mean": round(float(counts.mean()), 1),
        "tokens_max": int(counts.max()),
        "share_over_256_tokens": round(float((counts > 254).mean()), 4),
    }


def policies(path: Path, n: int) -> dict[str, Any]:
    """Compare a cut at the limit with pieces averaged, on summaries that are longer."""
    from bftembed.encoders.base import encoder_from_spec

    whole, cut = (encoder_from_spec(f"{MODEL},device=cpu,batch_size={BATCH},long={o}") for o in ("chunk", "truncate"))
    long = (t for t in summaries(path, None, 0) if len(t) > 800 and len(whole._cut([t])[0].texts) > 1)
    texts = list(itertools.islice(long, n))
    averaged, short = whole.encode(texts), cut.encode(texts)
    report = cut.report
    return {
        "texts": len(texts),
        "pieces": whole.report.n_chunks,
        "share_of_tokens_dropped_by_the_cut": round(report.n_tokens_dropped / report.n_tokens_total, 3),
        "cosine_cut_to_averaged": cosines(short, averaged),
        # How far apart texts are that have nothing in common, to read the cosines by.
        "cosine_to_the_next_text": cosines(averaged, np.roll(averaged, 1, axis=0)),
    }


def environment() -> dict[str, Any]:
    import torch

    from bftembed.machine import cpu_has_bf16
    from bftembed.report.manifest import versions

    model = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line), ":?")
    return {
        "cpu": model.split(":")[1].strip(),
        "cpu_has_bf16": cpu_has_bf16(),
        "torch_threads": torch.get_num_threads(),
        "load_at_the_end": round(os.getloadavg()[0], 2),
        "versions": versions(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--long-texts", type=int, default=100)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--summaries", type=Path, default=SUMMARIES)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "results" / "encoding.json")
    options = parser.parse_args()
    import torch

    torch.set_num_threads(options.threads)
    half = options.texts // 2
    kinds = {"refseq": summaries(options.summaries, half, 0), "facts": facts_profiles(options.texts - half, 0)}
    texts = [*kinds["refseq"], *kinds["facts"]]
    texts = [texts[i] for i in np.random.default_rng(1).permutation(len(texts))]
    policy = policies(options.summaries, options.long_texts)
    print(json.dumps(policy), flush=True)
    known = ways()
    made: dict[str, np.ndarray] = {}
    wall: dict[str, list[float]] = {name: [] for name in known}
    cpu: dict[str, list[float]] = {name: [] for name in known}
    for encode in known.values():
        encode(texts[: 4 * BATCH])
    for repeat in range(options.repeats):
        names = list(known)
        for name in names[repeat % len(names) :] + names[: repeat % len(names)]:
            started, used = time.monotonic(), time.process_time()
            made[name] = known[name](texts)
            wall[name].append(round(time.monotonic() - started, 2))
            cpu[name].append(round(time.process_time() - used, 2))
            print(f"{name}: {wall[name][-1]} s wall, {cpu[name][-1]} s CPU", flush=True)

    theirs = "sentence-transformers fp32"
    seconds = {name: statistics.median(found) for name, found in cpu.items()}
    walls = {name: statistics.median(found) for name, found in wall.items()}
    result = {
        "environment": environment(),
        "texts": {name: lengths(part) for name, part in kinds.items()},
        "long_texts": policy,
        "batch_size": BATCH,
        "cpu_seconds": cpu,
        "wall_seconds": wall,
        "speed_x_sentence_transformers_fp32": {n: round(seconds[theirs] / s, 3) for n, s in seconds.items()},
        "speed_x_sentence_transformers_fp32_by_wall": {n: round(walls[theirs] / s, 3) for n, s in walls.items()},
        "texts_per_cpu_second": {n: round(len(texts) / s, 1) for n, s in seconds.items()},
        "cosine_to_sentence_transformers_fp32": {n: cosines(v, made[theirs]) for n, v in made.items() if n != theirs},
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({k: v for k, v in result.items() if k not in ("environment",)}, indent=1))


if __name__ == "__main__":
    main()

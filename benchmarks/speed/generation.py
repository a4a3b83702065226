"""What the runner and the store cost, how fast a restart is, and whether memory stays where it is.

Usage: python benchmarks/speed/generation.py [--items 1000000] [--parts runner early batching restart million facts]

``runner``: SmolLM2 writes the same batches bare and through `generate_profiles`, turn by turn in one process, by CPU
seconds. ``early``: texts that end early against full-length ones, tokens per CPU second. ``batching``: prompts of mixed
lengths, batched by length as `generate_profiles` does, against batches of 8 in the order of the list. ``restart``: a
finished store of 20,000 items. ``million``: scripted items in a process of its own. ``facts``: every coding gene
by `facts`, and embedded. Only ratios within one run are meant to be compared.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SPEC = "builtin:smollm2-135m-instruct,max_new_tokens=32,batch_size=8,threads=1"


def runner(folder: Path, n_genes: int = 48, turns: int = 3) -> dict[str, Any]:
    from bftembed.entities.genes import GeneIndex
    from bftembed.llm import model_from_spec
    from bftembed.llm.base import Request
    from bftembed.profiles import generate as room
    from bftembed.profiles.generate import get_prompt

    engine, sampling = model_from_spec(SPEC)
    genes = list(GeneIndex.default())[1000 : 1000 + n_genes]
    prompt = get_prompt(None, "gene")
    requests = [Request(f"{i:064x}", prompt.messages(gene), sampling=sampling) for i, gene in enumerate(genes)]
    room.model_from_spec = lambda spec: (engine, sampling)  # the weights are loaded once
    used: dict[str, list[float]] = {"bare": [], "runner": []}
    list(engine.generate(requests[:8]))
    for turn in range(turns):
        started = time.process_time()
        tokens = sum(c.completion_tokens for c in engine.generate(requests))
        used["bare"].append((time.process_time() - started) / tokens)
        started = time.process_time()
        report = room.generate_profiles(genes, generator=SPEC, out=folder / f"runner{turn}")
        used["runner"].append((time.process_time() - started) / report.tokens)
    best = {name: min(times) for name, times in used.items()}
    return {
        "tokens_per_cpu_second": {name: round(1 / t, 1) for name, t in best.items()},
        "runner_share_of_bare": round(best["bare"] / best["runner"], 3),
    }


def early(folder: Path, n: int = 64, turns: int = 2) -> dict[str, Any]:
    """Answers of 4 to 48 tokens, as different models end them, against answers of 26 tokens each: as many tokens."""
    import random

    from bftembed.llm import model_from_spec
    from bftembed.llm.base import Request, Sampling
    from bftembed.profiles.generate import get_prompt

    engine, _ = model_from_spec("builtin:smollm2-135m-instruct,dtype=fp32,batch_size=16,threads=1")
    prompt = get_prompt(None, "gene")
    draw = random.Random(0)
    lengths = {"full length": [26] * n, "end early": [draw.randint(4, 48) for _ in range(n)]}
    used: dict[str, list[float]] = {name: [] for name in lengths}
    for _ in range(turns):
        for name, wanted in lengths.items():
            requests = [
                Request(f"{i:064x}", prompt.messages(f"GENE{i}"), sampling=Sampling(max_new_tokens=k))
                for i, k in enumerate(wanted)
            ]
            started = time.process_time()
            tokens = sum(c.completion_tokens for c in engine.generate(requests))
            used[name].append((time.process_time() - started) / tokens)
    best = {name: min(times) for name, times in used.items()}
    return {
        "tokens_per_cpu_second": {name: round(1 / t, 1) for name, t in best.items()},
        "early_share_of_full": round(best["full length"] / best["end early"], 3),
    }


def batching(folder: Path, n: int = 48) -> dict[str, Any]:
    """Contexts of 0 to 300 words before the same short answers."""
    import random

    from bftembed.llm import model_from_spec
    from bftembed.llm.base import Request, Sampling
    from bftembed.profiles.generate import get_prompt

    draw = random.Random(0)
    prompt = get_prompt(None, "drug")
    words = [
        "kinase",
        "inhibitor",
        "binds",
        "receptor",
        "lowers",
        "signal",
        "in",
        "cells",
        "of",
        "the",
        "blood",
        "and",
        "tissue",
    ]
    requests = []
    for i in range(n):
        context = " ".join(draw.choices(words, k=draw.choice([0, 5, 10, 20, 300])))
        messages = prompt.messages(f"drug {i}", context=context)
        requests.append(Request(f"{i:064x}", messages, sampling=Sampling(max_new_tokens=8)))
    spec = "builtin:smollm2-135m-instruct,threads=1"
    ours, naive = model_from_spec(f"{spec},batch_size=16")[0], model_from_spec(f"{spec},batch_size=8")[0]
    list(ours.generate(requests[:2]))
    list(naive.generate(requests[:2]))
    used: dict[str, list[float]] = {"ours": [], "input order": []}
    for _ in range(3):
        started = time.process_time()
        assert len(list(ours.generate(requests))) == n
        used["ours"].append(time.process_time() - started)
        started = time.process_time()
        for start in range(0, n, 8):
            list(naive.generate(requests[start : start + 8]))
        used["input order"].append(time.process_time() - started)
    best = {name: min(times) for name, times in used.items()}
    return {
        "cpu_seconds": {k: round(v, 2) for k, v in best.items()},
        "times_faster": round(best["input order"] / best["ours"], 2),
    }


def restart(folder: Path, items: int = 20_000) -> dict[str, float]:
    names = folder / "names.txt"
    names.write_text("\n".join(f"made-up {i}" for i in range(items)))
    call = [sys.executable, "-c", "from bftembed.cli import main; main()", "profiles", "generate", str(names)]
    call += ["--generator", "scripted:batch=256", "--unknown", "keep", "--out", str(folder / "restart")]
    seconds = []
    for _ in range(2):
        started = time.monotonic()
        subprocess.run(call, check=True, capture_output=True)
        seconds.append(round(time.monotonic() - started, 2))
    return {"items": items, "first_seconds": seconds[0], "restart_seconds": seconds[1]}


def scripted(out: str, items: str) -> dict[str, float]:
    from bftembed.profiles.generate import generate_profiles

    n = int(items)
    before = peak_mb()
    names = [f"made-up {i}" for i in range(n)]
    started, used = time.monotonic(), time.process_time()
    report = generate_profiles(names, generator="scripted:batch=256", out=out, unknown="keep")
    assert report.written == n
    return {
        "items": n,
        "items_per_second": round(n / (time.monotonic() - started)),
        "items_per_cpu_second": round(n / (time.process_time() - used)),
        "interpreter_mb": before,
        "peak_mb": peak_mb(),
    }


def peak_mb() -> int:
    """Return the peak of this program alone; ``ru_maxrss`` would be that of the process which started it."""
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmHWM"))
    return int(line.split()[1]) // 1024


def million(folder: Path, items: int) -> dict[str, Any]:
    """Write items in two processes, one with a tenth of them: what grows is what a list costs."""
    found = {}
    for n in (items // 10, items):
        command = [sys.executable, __file__, "--one", str(folder / f"scripted{n}"), str(n)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        found[str(n)] = json.loads(done.stdout.splitlines()[-1])
        print(found[str(n)], flush=True)
    return found


def facts(folder: Path) -> dict[str, Any]:
    from bftembed.entities.genes import GeneIndex

    index = GeneIndex.default()
    genes = [s for s in index if (record := index.get(s)) and record.locus_type == "gene with protein product"]
    (folder / "coding.txt").write_text("\n".join(genes))
    base = [sys.executable, "-c", "from bftembed.cli import main; main()"]
    calls = {
        "profiles": ["profiles", "generate", folder / "coding.txt", "--generator", "facts", "--out", folder / "facts"],
        "embeddings": ["genes", "embed", folder / "facts", "--encoder", "builtin:all-minilm-l6-v2", "--json"],
    }
    calls["embeddings"] += ["--out", folder / "facts.safetensors"]
    found: dict[str, Any] = {"genes": len(genes)}
    for name, call in calls.items():
        started = time.monotonic()
        subprocess.run([*base, *map(str, call)], check=True, capture_output=True)
        found[f"{name}_seconds"] = round(time.monotonic() - started, 1)
    return found


def main() -> None:
    parts = ("runner", "early", "batching", "restart", "million", "facts")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=parts, default=list(parts))
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "results" / "generation.json")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(scripted(*options.one)))
        return
    from bftembed.report.manifest import versions

    result = json.loads(options.out.read_text()) if options.out.exists() else {}
    result["environment"] = versions()
    with tempfile.TemporaryDirectory() as name:
        for part in options.parts:
            arguments = [options.items] if part == "million" else []
            result[part] = globals()[part](Path(name), *arguments) | {"machine": versions()["machine"]}
            print(part, result[part], flush=True)
            options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()

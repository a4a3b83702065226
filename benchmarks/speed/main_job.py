"""How long the main job takes, step by step, from an empty folder: the demo's whole run and its parts alone.

Usage: python benchmarks/speed/main_job.py [--genes N] [--out benchmarks/results/main_job.json]

Times are wall seconds on the machine named in the result; compare ratios within one run only. The demo runs in a
process of its own with an empty output folder; whether the language model was converted before, the result says.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any


def seconds_of(command: list[str], repeats: int) -> list[float]:
    times = []
    for _ in range(repeats):
        started = time.monotonic()
        subprocess.run(command, check=True, capture_output=True)
        times.append(round(time.monotonic() - started, 3))
    return times


def environment() -> dict[str, Any]:
    from bftembed.llm.models import cache_folder
    from bftembed.report.manifest import versions

    model = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line), ":?")
    return {
        "cpu": model.split(":")[1].strip(),
        "load_before": round(os.getloadavg()[0], 2),
        "language_model_converted_before": any((cache_folder() / "models").glob("smollm2*")),
        "versions": versions(),
    }


def resolve_rate() -> dict[str, float]:
    from bftembed.entities.genes import GeneIndex

    started = time.monotonic()
    index = GeneIndex.default()
    built = time.monotonic() - started
    names = list(index)[:20_000]
    started = time.monotonic()
    index.resolve(names)
    return {"index_seconds": round(built, 3), "seconds_for_20000_symbols": round(time.monotonic() - started, 3)}


def runner_rate() -> dict[str, float]:
    """Seconds of runner, screening and store for every protein-coding gene: the generator itself costs nothing."""
    from bftembed.entities.genes import GeneIndex
    from bftembed.profiles.generate import generate_profiles

    index = GeneIndex.default()
    records = [index.get(symbol) for symbol in index]
    names = [r.symbol for r in records if r is not None and r.locus_type == "gene with protein product"]
    with tempfile.TemporaryDirectory() as folder:
        started = time.monotonic()
        generate_profiles(names, generator="facts", out=folder)
        first = time.monotonic() - started
        started = time.monotonic()
        again = generate_profiles(names, generator="facts", out=folder)
        rerun = time.monotonic() - started
    assert again.written == 0
    return {"genes": len(names), "facts_seconds": round(first, 2), "rerun_seconds": round(rerun, 2)}


def demo(genes: int | None) -> dict[str, Any]:
    from bftembed.tasks.base import read_results

    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", "from bftembed.cli import main; main()", "demo", "--out", folder]
        if genes:
            command += ["--n-genes", str(genes)]
        first = seconds_of(command, 1)[0]
        record = json.loads((Path(folder) / "run.json").read_text())
        results = (Path(folder) / "results.parquet").read_bytes()
        second = seconds_of(command, 1)[0]
        equal = (Path(folder) / "results.parquet").read_bytes() == results
        frame = read_results(Path(folder) / "results.parquet")
        summary = frame[frame["seed"].isna()]
    scores = [
        {
            "subject": r.subject,
            "kind": r.kind,
            "metric": r.metric,
            "value": round(r.value, 4),
            "low": round(r.low, 4),
            "high": round(r.high, 4),
        }
        for r in summary.itertuples()
    ]
    return {
        "genes": genes or "all",
        "wall_seconds": first,
        "wall_seconds_second_run": second,
        "second_run_gives_equal_results": equal,
        "steps": [{k: s[k] for k in ("name", "seconds", "detail")} for s in record["steps"]],
        "coverage": record["coverage"],
        "scores": scores,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--genes", type=int, default=None)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "results" / "main_job.json")
    options = parser.parse_args()
    result = {
        "environment": environment(),
        "help_seconds": seconds_of([sys.executable, "-c", "from bftembed.cli import main; main()", "--help"], 5),
        "resolve": resolve_rate(),
        "runner": runner_rate(),
        "demo": demo(options.genes),
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n")
    print(options.out)


if __name__ == "__main__":
    main()

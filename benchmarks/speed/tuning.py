"""What a step of tuning costs: SmolLM2-135M by the demo's recipe, rows joined and, for comparison, padded.

Usage: python benchmarks/speed/tuning.py [--steps 10] [--repeats 2] [--threads N] [--precision auto]

320 HGNC facts as answers to the question of the profiles, 8 rows a step, BFT, all weights. Each way runs in a process
of its own, turn by turn. ``seconds`` and ``cpu_seconds`` are medians over the steps after the second; ``loading`` is
everything before the first step and ``saving`` everything after the last. The machine is rarely quiet: compare CPU
seconds, and ratios within one run. Both ways have to give the same losses.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

WAYS = ("padded", "joined")


def pairs(file: Path) -> None:
    from bftembed.pipeline import fact_pairs
    from bftembed.profiles.generate import get_prompt
    from bftembed.tuning.data import write_conversations

    write_conversations(fact_pairs([], 320, 0, get_prompt(None, "gene")), file)


def one(way: str, steps: int, precision: str, threads: int | None) -> dict[str, Any]:
    started = (time.monotonic(), time.process_time())
    from bftembed.config import TuneConfig
    from bftembed.tuning import head
    from bftembed.tuning.run import tune

    if way == "padded":
        head._join_rows = lambda model: False
    marks = []
    with tempfile.TemporaryDirectory() as folder:
        pairs(Path(folder) / "pairs.jsonl")
        training = {"max_steps": steps, "learning_rate": 2e-5, "precision": precision, "threads": threads}
        config = TuneConfig.model_validate(
            {
                "out": f"{folder}/run",
                "objective": {"name": "bft", "window": 16},
                "data": {"train": f"{folder}/pairs.jsonl", "max_length": 256},
                "training": training,
            }
        )
        report = tune(config, progress=lambda *_: marks.append((time.monotonic(), time.process_time())))
        log = json.loads((Path(report.out) / "log.json").read_text())
    ended = (time.monotonic(), time.process_time())
    names = ("seconds", "cpu_seconds")
    found: dict[str, Any] = {
        name: round(statistics.median(b[i] - a[i] for a, b in itertools.pairwise(marks[1:])), 3)
        for i, name in enumerate(names)
    }
    first = {name: found[name] for name in names}
    found["loading"] = {n: round(marks[0][i] - started[i] - first[n], 1) for i, n in enumerate(names)}
    found["saving"] = {n: round(ended[i] - marks[-1][i], 1) for i, n in enumerate(names)}
    return {**found, "losses": [round(line["loss"], 4) for line in log]}


def environment(precision: str, threads: int | None) -> dict[str, Any]:
    from bftembed.report.manifest import versions

    model = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line), ":?")
    return {
        "cpu": model.split(":")[1].strip(),
        "load_before": round(os.getloadavg()[0], 2),
        "precision": precision,
        "threads": threads or "torch's",
        "versions": versions(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "results" / "tuning_speed.json")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(one(options.one, options.steps, options.precision, options.threads)))
        return
    result: dict[str, Any] = {"environment": environment(options.precision, options.threads), "steps": options.steps}
    runs: dict[str, list[dict[str, Any]]] = {way: [] for way in options.ways}
    call = [sys.executable, __file__, "--steps", str(options.steps), "--precision", options.precision]
    call += ["--threads", str(options.threads)] if options.threads else []
    for _ in range(options.repeats):
        for way in options.ways:
            done = subprocess.run([*call, "--one", way], stdout=subprocess.PIPE, text=True, check=True)
            runs[way].append(json.loads(done.stdout.splitlines()[-1]))
            print(way, runs[way][-1], flush=True)
    result["runs"] = runs
    result["cpu_seconds_per_step"] = {way: min(r["cpu_seconds"] for r in found) for way, found in runs.items()}
    if len(runs) == len(WAYS):
        padded, joined = (result["cpu_seconds_per_step"][way] for way in WAYS)
        result["joined_times_faster"] = round(padded / joined, 2)
        losses = [runs[way][0]["losses"] for way in WAYS]
        result["largest_difference_of_losses"] = max(abs(a - b) for a, b in zip(*losses, strict=True))
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(options.out)


if __name__ == "__main__":
    main()

"""Evaluations: scoring of stored verdicts, answers of the offline tools, and opening of a finished evaluation.

Usage: python benchmarks/speed/eval.py DATA [--out FILE.json]

DATA has gene_sets, pairs and gene_text. Conversations and verdicts are made up: 1,000 rows of 11 rubric items.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

ROWS, ITEMS = 1000, 11


def healthbench(folder: Path) -> dict[str, float]:
    """Return CPU seconds to score stored verdicts, and to open the finished evaluation."""
    from bftembed.llm import BACKENDS
    from bftembed.tasks.llm.run import evaluate, score_evaluation, show_evaluation

    BACKENDS.entries["known"] = "evaluation_tools:Known"
    draw = np.random.default_rng(0)
    (folder / "healthbench").mkdir()
    with (folder / "healthbench" / "hard_made_up.jsonl").open("w") as handle:
        for i in range(ROWS):
            rubrics = [
                {"criterion": f"says {j} of {i}", "points": int(draw.integers(-5, 11)) or 1, "tags": ["axis:accuracy"]}
                for j in range(ITEMS)
            ]
            prompt = [{"role": "user", "content": f"Question {i}? " + "word " * 100}]
            row = {"prompt_id": f"p{i}", "prompt": prompt, "rubrics": rubrics, "example_tags": ["theme:hedging"]}
            handle.write(json.dumps(row) + "\n")
    (folder / "replies.json").write_text(json.dumps({"*": "Rest. " * 50}))
    (folder / "judge.json").write_text(json.dumps({"*": '{"explanation": "x", "criteria_met": true}'}))
    out = folder / "out"
    models = {"m": f"known:{folder}/replies.json"}
    evaluate(["healthbench-hard"], model=models, judge=f"known:{folder}/judge.json", out=out, data=folder)
    started = time.process_time()
    score_evaluation(out)
    scored = time.process_time() - started
    started = time.process_time()
    show_evaluation(out, n=20)
    return {"score_cpu_seconds": round(scored, 2), "open_cpu_seconds": round(time.process_time() - started, 2)}


def tools(data: Path) -> dict[str, Any]:
    """Return milliseconds of CPU per call by tool, after the first, which reads the files."""
    from bftembed.tasks.llm.gene_tools import GeneTools

    genes = ["BRCA1", "BARD1", "RAD51", "PALB2", "TP53", "ATM", "CHEK2", "MRE11", "NBN", "RAD50"]
    made = GeneTools(data)
    found = {}
    for name in made.TOOLS:
        made.call(name, genes, genes)
        started = time.process_time()
        for _ in range(20):
            made.call(name, genes, genes)
        found[name] = round((time.process_time() - started) / 20 * 1000, 1)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "results" / "eval.json")
    options = parser.parse_args()
    from bftembed.report.manifest import versions

    with tempfile.TemporaryDirectory() as folder:
        rows = healthbench(Path(folder))
    found = {"environment": versions(), "healthbench_1000_rows": rows, "tool_cpu_ms": tools(options.data)}
    options.out.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found["healthbench_1000_rows"]), json.dumps(found["tool_cpu_ms"]))


if __name__ == "__main__":
    main()

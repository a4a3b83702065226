"""Evaluations of the packaged model, or of others beside it, recorded with their baselines and the environment.

Usage: python benchmarks/evaluations.py [DATA] [--limit 20] [--folder runs/evaluations] [--tasks mmlu cmmlu …]
       [--model NAME=SPEC …] [--judge SPEC]

The folder keeps the answers: a run that was stopped goes on. A model of 135M parameters is near chance; the numbers
say that the machinery runs, not that the model knows.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

MODEL = "builtin:smollm2-135m-instruct"
TASKS = ["mmlu", "cmmlu", "pubmedqa", "perturbqa-de", "tahoe-de", "tahoe-dir", "geneagent", "responses"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?", help="default: the folders of $BFTEMBED_DATA")
    parser.add_argument("--limit", type=int, default=20, help="questions of each evaluation")
    parser.add_argument("--folder", type=Path, default=Path("runs/evaluations"))
    parser.add_argument("--tasks", nargs="+", default=TASKS)
    parser.add_argument(
        "--model", nargs="+", default=[f"smollm2={MODEL}"], help="NAME=SPEC; the first is the reference"
    )
    parser.add_argument("--judge")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "evaluations.json")
    options = parser.parse_args()
    from bftembed.report.manifest import versions
    from bftembed.tasks.llm.base import load_evaluation
    from bftembed.tasks.llm.run import evaluate

    models = dict(one.split("=", 1) for one in options.model)
    started = time.monotonic()
    more = {"limit": options.limit, "judge": options.judge}
    frame = evaluate(options.tasks, model=models, out=options.folder, data=options.data, **more)
    seconds = round(time.monotonic() - started)
    found = {}
    shown = frame[(frame["split"] == "all") & frame["task"].isin(options.tasks)]
    for task, rows in shown.groupby("task"):
        main_metric = load_evaluation(task).metrics[0].name
        rows = rows[rows["metric"] == main_metric]
        pairs = rows[rows["reference"].isin(models)]
        rows = rows.drop_duplicates("subject")
        found[task] = {
            "run": rows["run"].iloc[0],
            "protocol": rows["protocol"].iloc[0],
            "metric": main_metric,
            "differences": {
                f"{r.subject} - {r.reference}": [
                    round(x, 4) for x in (r.difference, r.difference_low, r.difference_high)
                ]
                for r in pairs.itertuples()
            },
            "scores": {
                r.subject: {
                    "kind": r.kind,
                    "value": round(r.value, 4),
                    "low": round(r.low, 4),
                    "high": round(r.high, 4),
                    "n": r.n,
                }
                for r in rows.itertuples()
            },
        }
    about = {"environment": versions(), "models": models, "limit": options.limit, "judge": options.judge}
    record = {**about, "seconds": seconds, "evaluations": found}
    options.out.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    print(json.dumps(found, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()

"""GRPO learns what it is paid for: a known rule is learnt, random rewards teach nothing; the paper's claim in small.

Usage: python benchmarks/grpo.py [--parts rule random paper] [--steps 24] [--folder runs/grpo-benchmark]

``rule``: simulated questions whose answer is yes for a knock-out and no for a control; held-out questions are about
other genes. ``random``: the same questions, a coin as reward. ``paper``: GRPO from the packaged model and from it tuned
by sft, dft and bft, three seeds each (hours). The folder keeps the runs: one that was stopped goes on.
"""

from __future__ import annotations

import argparse
import json
import random
from dataclasses import asdict
from pathlib import Path

MODEL = "builtin:smollm2-135m-instruct"
OUT = Path(__file__).parent / "results" / "grpo.json"
SYSTEM = "You are a biologist."
#: The untuned model says yes to both about equally often.
ASKED = {
    "yes": "CRISPR knock-out of {other}: does {gene} respond? Yes or no?",
    "no": "Cells got only water. Did {gene} change? Yes or no?",
}
OBJECTIVES = ("sft", "dft", "bft")


def rule_questions(file: Path, n_train: int = 400, n_test: int = 120, seed: int = 0) -> Path:
    """Write questions of a known rule; no gene of the test is one of the training."""
    from bftembed.entities.genes import GeneIndex

    draw = random.Random(seed)
    genes = draw.sample([g for g in GeneIndex.default() if g.isalnum() and 3 <= len(g) <= 5], 400)
    rows = []
    for split, n, known in (("train", n_train, genes[:200]), ("test", n_test, genes[200:])):
        for i in range(n):
            answer = ("yes", "no")[i % 2]
            other, gene = draw.sample(known, 2)
            asked = ASKED[answer].format(other=other, gene=gene)
            chat = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": asked}]
            rows.append({"messages": chat, "answer": answer, "options": ["yes", "no"], "split": split})
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def config_of(folder: Path, questions: str, model: str = MODEL, **changes: object) -> object:
    from bftembed.config import GrpoConfig

    training = {
        **{"precision": "fp32", "threads": 1, "schedule": "constant", "learning_rate": 4e-4, "max_steps": 24},
        **{"batch_size": 16, "num_generations": 4, "max_completion_length": 2, "save_every": 5},
    }
    values = {"model": model, "out": str(folder), "questions": questions, "held_out": 120, "lora": {"rank": 16}}
    training |= changes.pop("training", {})
    return GrpoConfig.model_validate(values | {"training": training} | changes)


def run(config: object) -> dict:
    """Run or go on; return the report with the measures of every step."""
    from bftembed.tasks.llm.grpo import grpo

    def show(done: int, total: int, note: str) -> None:
        print(f"{done}/{total}  {note}", flush=True)

    report = grpo(config, progress=show)
    names = ("reward", "frac_reward_zero_std", "parse_rate", "share_yes", "entropy", "completions/mean_length")
    log = json.loads((Path(report.out) / "log.json").read_text())
    curve = {name: [round(line[name], 4) for line in log if name in line] for name in names}
    found = {k: v for k, v in asdict(report).items() if k not in ("out", "model", "final")}
    seconds = sum(line.get("step_time", 0) for line in log)
    return found | {"seconds_of_steps": round(seconds), "config": config.model_dump()["training"], "curve": curve}


def paper(folder: Path, steps: int) -> dict:
    """GRPO on PerturbQA from the untuned model and from each objective's weights, three seeds."""
    from bftembed.config import TuneConfig
    from bftembed.datasets import data_path
    from bftembed.tuning.data import gene_texts
    from bftembed.tuning.run import tune

    pairs = folder / "pairs.jsonl"
    gene_texts(data_path("refseq-summaries"), out=pairs)
    starts = {"base": MODEL}
    for name in OBJECTIVES:
        values = {"model": MODEL, "out": str(folder / name), "objective": {"name": name, "window": 32}}
        values |= {"data": {"train": str(pairs), "max_length": 320, "over_long": "drop"}}
        values |= {"training": {"max_steps": 64, "learning_rate": 5e-5, "precision": "fp32"}}
        starts[name] = tune(TuneConfig.model_validate(values)).model
    return {
        name: [
            run(
                config_of(
                    folder / f"{name}-{seed}",
                    "perturbqa-de-word",
                    model,
                    n_questions=1000,
                    training={"seed": seed, "max_steps": steps, "max_completion_length": 4},
                )
            )
            for seed in range(3)
        ]
        for name, model in starts.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", default=["rule", "random"], choices=["rule", "random", "paper"])
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--folder", type=Path, default=Path("runs/grpo-benchmark"))
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    from bftembed.report.manifest import versions

    questions = str(rule_questions(options.folder / "rule.jsonl"))
    for part in options.parts:
        if part == "paper":
            found = paper(options.folder, options.steps)
        else:
            rewards = {"exact" if part == "rule" else "coin": 1.0}
            config = config_of(options.folder / part, questions, rewards=rewards, training={"max_steps": options.steps})
            found = run(config)
        # Read again: parts may run side by side.
        record = json.loads(options.out.read_text()) if options.out.exists() else {}
        record |= {"environment": versions(), "model": MODEL, "questions": [SYSTEM, *ASKED.values()], part: found}
        options.out.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")
        if part != "paper":
            print(part, {k: found[k] for k in ("before", "after", "difference", "start", "seconds")})


if __name__ == "__main__":
    main()

"""Option scores of 5-shot MMLU on SmolLM2: this package against lm-evaluation-harness, by CPU seconds in one process.

Usage: python benchmarks/speed/likelihood.py DATA [--questions 20] [--dtypes float32 bfloat16]

DATA is a folder with ``dev`` and ``test`` of MMLU as CSV (question, choice0 … choice3, answer). Needs lm-eval
(``pip install lm_eval==0.4.13``), whose ``hf`` model scores the same prompts, options and dtype, one thread each.
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from pathlib import Path
from typing import Any

MODEL = "builtin:smollm2-135m-instruct"
LETTERS = "ABCD"


def prompts(data: Path, n: int) -> list[str]:
    """Return 5-shot prompts of `n` questions per subject, in lm-eval's wording."""
    found = []
    for path in sorted((data / "test").glob("*_test.csv")):
        subject = path.name.removesuffix("_test.csv")
        shots = "".join(
            block(row) + f" {LETTERS[int(row['answer'])]}\n\n" for row in rows(data / "dev" / f"{subject}_dev.csv")[:5]
        )
        about = f"The following are multiple choice questions (with answers) about {subject.replace('_', ' ')}.\n\n"
        found += [about + shots + block(row) for row in rows(path)[:n]]
    return found


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as handle:
        return list(csv.DictReader(handle))


def block(row: dict[str, str]) -> str:
    choices = "".join(f"{letter}. {row[f'choice{i}']}\n" for i, letter in enumerate(LETTERS))
    return f"{row['question'].strip()}\n{choices}Answer:"


def ours(asked: list[str], dtype: str) -> tuple[float, list[list[float]]]:
    from bftembed.llm import model_from_spec
    from bftembed.llm.base import Request

    model, _ = model_from_spec(f"{MODEL},dtype={dtype},threads=1")
    options = tuple(f" {letter}" for letter in LETTERS)
    requests = [Request(str(i), prompt=prompt, options=options) for i, prompt in enumerate(asked)]
    list(model.generate(requests[:1]))  # loading
    started = time.process_time()
    found = {c.id: list(c.scores) for c in model.generate(requests)}
    return time.process_time() - started, [found[str(i)] for i in range(len(asked))]


def theirs(asked: list[str], dtype: str) -> tuple[float, list[list[float]]]:
    import torch
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    from bftembed.llm.models import resolve_model

    torch.set_num_threads(1)
    model = HFLM(pretrained=str(resolve_model("language-model", MODEL).path), dtype=dtype, device="cpu", batch_size=1)
    requests = [
        Instance("loglikelihood", {}, (prompt, f" {letter}"), i, (None, None, None))
        for i, prompt in enumerate(asked)
        for letter in LETTERS
    ]
    model.loglikelihood(requests[:4], disable_tqdm=True)
    started = time.process_time()
    scores = [value for value, _ in model.loglikelihood(requests, disable_tqdm=True)]
    used = time.process_time() - started
    return used, [scores[4 * i : 4 * i + 4] for i in range(len(asked))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--questions", type=int, default=20, help="per subject")
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "results" / "likelihood.json")
    options = parser.parse_args()
    from bftembed.report.manifest import versions

    asked = prompts(options.data, options.questions)
    result: dict[str, Any] = {"environment": versions(), "questions": len(asked)}
    for dtype in options.dtypes:
        mine, a = ours(asked, dtype)
        harness, b = theirs(asked, dtype)
        result[dtype] = {
            "cpu_seconds": {"bftembed": round(mine, 1), "lm-eval hf": round(harness, 1)},
            "times_faster": round(harness / mine, 2),
            "largest_difference": max(abs(x - y) for p, q in zip(a, b, strict=True) for x, y in zip(p, q, strict=True)),
            "other_option_chosen": sum(p.index(max(p)) != q.index(max(q)) for p, q in zip(a, b, strict=True)),
        }
        print(dtype, result[dtype], flush=True)
        options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()

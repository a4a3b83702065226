"""Ten kills of each kind of evaluation lose nothing and ask nothing twice; the scores are those of a run in one go."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
from test_healthbench import rows_of, write

from bftembed.llm.store import AnswerStore
from bftembed.tasks.base import read_results

pytestmark = pytest.mark.slow
_PROGRAM = "from bftembed.llm import BACKENDS; BACKENDS.entries['agent'] = 'evaluation_tools:Agent'; "
_PROGRAM += "from bftembed.cli import main; main()"


@pytest.mark.parametrize(
    "name, folders, more",
    [
        ("geneagent", ("geneagent", "gene_sets", "pairs", "gene_text"), ["--limit", "3"]),
        ("healthbench", (), ["--judge", "agent:judge.log"]),
        ("responses", (), []),
        ("vcworld-de", (), []),
        ("pubmedqa", ("pubmedqa",), ["--limit", "40"]),
    ],
)
def test_kills(name, folders, more, shared_data, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    for folder in folders:
        (data / folder).symlink_to(shared_data(folder))
    if name == "healthbench":
        write(data, "2025_oss_eval.jsonl", rows_of(10))
    if name == "vcworld-de":
        rows = [f"P{p},G{g},{(p + g) % 2},{'train' if p < 3 else 'test'}" for p in range(7) for g in range(10)]
        (data / "vcworld").mkdir()
        for line in ("a", "b"):
            (data / "vcworld" / f"{line}-de.csv").write_text("\n".join(["pert,gene,label,split", *rows, ""]))

    def command(out, delay):
        words = [
            "eval",
            "run",
            name,
            "--model",
            f"m=agent:model.log,delay={delay}",
            "--out",
            out,
            "--data",
            "data",
            *more,
        ]
        return [sys.executable, "-c", _PROGRAM, *words]

    path = os.pathsep.join(p for p in (str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")) if p)
    options = {
        "cwd": tmp_path,
        "env": {**os.environ, "PYTHONPATH": path},
        "stdout": subprocess.DEVNULL,
        "stderr": subprocess.DEVNULL,
    }
    subprocess.run(command("whole", 0), check=True, **options)
    logs = [tmp_path / "model.log", tmp_path / "judge.log"]
    n_asked = [len(log.read_text().split()) for log in logs if log.exists()]
    for log in logs:
        log.unlink(missing_ok=True)
    moments = random.Random(name)
    for _ in range(10):
        process = subprocess.Popen(command("out", 0.1), **options)
        wanted = sum(log.stat().st_size for log in logs if log.exists()) + 65 * moments.randint(
            1, max(1, sum(n_asked) // 16)
        )
        while process.poll() is None and sum(log.stat().st_size for log in logs if log.exists()) < wanted:
            time.sleep(0.02)
        time.sleep(0.2 * moments.random())
        process.kill()
        process.wait()
    subprocess.run(command("out", 0), check=True, **options)
    with AnswerStore.open(tmp_path / "out") as store:
        answers = store.answers()
    assert len(answers) == sum(n_asked)
    asked = Counter(id for log in logs if log.exists() for id in log.read_text().split())
    assert set(asked) == {a.key for a in answers}
    assert sum(asked.values()) <= sum(n_asked) + 10 * 2  # the batch in progress
    # The time of requests is that of runs which ended.
    tables = [read_results(tmp_path / run / "results.parquet").query("metric != 'seconds'") for run in ("out", "whole")]
    pd.testing.assert_frame_equal(*(table.reset_index(drop=True) for table in tables))

"""Running, resuming and scoring of evaluations, on questions with known answers."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
from evaluation_tools import ROW, write_csv

from bftembed.cli import run as run_command
from bftembed.cli._verbs import FAILED_ITEMS
from bftembed.errors import BftembedError
from bftembed.llm.store import AnswerStore
from bftembed.tasks.base import read_results
from bftembed.tasks.llm.base import chosen, load_evaluation
from bftembed.tasks.llm.export import export_evaluation
from bftembed.tasks.llm.run import evaluate, score_evaluation, show_evaluation

RIGHT = "ABCDABCDAB"


@pytest.fixture
def data(tmp_path):
    """Two subjects of MMLU with 6 and 4 questions, whose right answers are `RIGHT`."""
    for subject, answers in (("anatomy", RIGHT[:6]), ("astronomy", RIGHT[6:])):
        write_csv(tmp_path / "data" / "mmlu" / "dev" / f"{subject}_dev.csv", [[*ROW, "A"]] * 5)
        rows = [[f"Which {i}?", *ROW[1:], answer] for i, answer in enumerate(answers)]
        write_csv(tmp_path / "data" / "mmlu" / "test" / f"{subject}_test.csv", rows)
    return tmp_path / "data"


def ids():
    return [f"anatomy/{i}" for i in range(6)] + [f"astronomy/{i}" for i in range(4)]


def scores_for(letters):
    """Option scores by question, the highest for the letter."""
    return {id: [0.0 if o == letter else -2.0 for o in "ABCD"] for id, letter in zip(ids(), letters, strict=True)}


def value(table, subject, metric="accuracy", split="all"):
    rows = table[(table.subject == subject) & (table.metric == metric) & (table.split == split)]
    return rows.iloc[0]


def test_scores_intervals_parts_and_differences(data, known, tmp_path):
    base, tuned = known(scores_for("ABCDABAAAA"), "base"), known(scores_for("ABCDBBCDAB"), "tuned")
    table = evaluate(["mmlu"], model={"base": base, "tuned": tuned}, out=tmp_path / "out", data=data)
    assert value(table, "base").value == pytest.approx(0.7)  # 6 of 6 and 1 of 4
    assert value(table, "tuned").value == pytest.approx(0.9)
    assert value(table, "base", "accuracy_macro").value == pytest.approx((1 + 1 / 4) / 2)
    assert value(table, "base", split="anatomy").value == 1
    assert value(table, "base", split="medical").n == 6
    assert value(table, "always A").value == pytest.approx(0.3)
    assert value(table, "chance").value == pytest.approx(0.25)
    assert list(value(table, "base")[["n", "n_missing"]]) == [10, 0]
    assert value(table, "base", "tokens").value == 7
    forgetting = table[(table.subject == "tuned") & (table.reference == "base") & (table.split == "all")]
    row = forgetting[forgetting.metric == "accuracy"].iloc[0]
    # the same bootstrap by hand
    right = {name: np.array([a == b for a, b in zip(RIGHT, letters, strict=True)], float)
             for name, letters in (("base", "ABCDABAAAA"), ("tuned", "ABCDBBCDAB"))}  # fmt: skip
    draw = np.random.default_rng(0)
    drawn = [draw.integers(10, size=10) for _ in range(1000)]
    differences = [right["tuned"][i].mean() - right["base"][i].mean() for i in drawn]
    assert row.difference == pytest.approx(0.2)
    assert [row.difference_low, row.difference_high] == pytest.approx(list(np.quantile(differences, [0.025, 0.975])))
    means = [right["base"][i].mean() for i in drawn]
    assert list(value(table, "base")[["low", "high"]]) == pytest.approx(list(np.quantile(means, [0.025, 0.975])))
    best = table[(table.subject == "tuned") & (table.reference == "always A") & (table.metric == "accuracy")]
    assert best[best.split == "all"].difference.item() == pytest.approx(0.6)


def test_generated_answers_are_read_and_failures_left_out(data, known, tmp_path):
    answers = dict.fromkeys(ids(), "The answer is A.") | {"anatomy/1": "no idea", "anatomy/2": {"error": "too long"}}
    spec = known(answers, options=False)
    table = evaluate(["mmlu-generated"], model=[f"m={spec}"], out=tmp_path / "out", data=data)
    row = value(table, "m")
    assert (row.value, row.n, row.n_missing) == (pytest.approx(3 / 9), 9, 1)
    assert value(table, "m", "answered").value == pytest.approx(8 / 9)
    assert run_command(["eval", "score", str(tmp_path / "out")]) == FAILED_ITEMS
    shown = show_evaluation(tmp_path / "out", failed=True, n=0)
    assert {r["id"]: r["parsed"] for r in shown}["anatomy/1"] == ""
    assert next(r for r in shown if r["id"] == "anatomy/2")["error"] == "too long"


def test_nothing_is_asked_twice_and_scores_come_from_the_store(data, known, tmp_path):
    spec, out = known(scores_for(RIGHT)), tmp_path / "out"
    log = tmp_path / "known.log"
    evaluate(["mmlu"], model=[spec], out=out, data=data, limit=4)
    assert len(log.read_text().split()) == 4
    table = evaluate(["mmlu"], model=[spec], out=out, data=data)
    assert sorted(log.read_text().split()) == sorted(ids())
    assert value(table, spec).n == 10
    assert value(table, spec, "seconds").n == 10  # of both runs
    assert 0 < value(table, spec, "seconds").value < 60
    pd.testing.assert_frame_equal(evaluate(["mmlu"], model=[spec], out=out, data=data, limit=4), table)
    files = [out / "results.parquet", out / "records.parquet"]
    before = [f.read_bytes() for f in files]
    for file in files:
        file.unlink()
    pd.testing.assert_frame_equal(score_evaluation(out), table)
    assert [f.read_bytes() for f in files] == before
    assert len(log.read_text().split()) == 10


def test_failures_are_asked_again_on_demand(data, known, tmp_path):
    spec, out = known(scores_for(RIGHT) | {"anatomy/0": {"error": "the server is busy"}}), tmp_path / "out"
    assert value(evaluate(["mmlu"], model=[spec], out=out, data=data), spec).n_missing == 1
    known(scores_for(RIGHT))
    assert value(evaluate(["mmlu"], model=[spec], out=out, data=data), spec).n_missing == 1
    assert value(evaluate(["mmlu"], model=[spec], out=out, data=data, retry_failed=True), spec).n_missing == 0


def test_another_revision_of_the_data_is_an_error_and_loses_nothing(data, known, tmp_path):
    spec, out = known(scores_for(RIGHT)), tmp_path / "out"
    table = evaluate(["mmlu"], model=[spec], out=out, data=data)
    write_csv(data / "mmlu" / "test" / "anatomy_test.csv", [["Other?", *ROW[1:], "A"]] * 6)
    with pytest.raises(BftembedError, match="revision"):
        evaluate(["mmlu"], model=[spec], out=out, data=data)
    pd.testing.assert_frame_equal(score_evaluation(out), table)


def test_a_model_that_cannot_score_options_is_an_error_before_anything_is_asked(data, known, tmp_path):
    spec = known(scores_for(RIGHT), options=False)
    with pytest.raises(BftembedError, match="options"):
        evaluate(["mmlu"], model=[spec], out=tmp_path / "out", data=data)
    assert not (tmp_path / "known.log").exists()


def test_two_runs_on_one_folder(data, known, tmp_path):
    with AnswerStore.writing(tmp_path / "out"), pytest.raises(BftembedError, match="out"):
        evaluate(["mmlu"], model=[known(scores_for(RIGHT))], out=tmp_path / "out", data=data)


def test_unknown_names_missing_data_and_equal_names(data, known, tmp_path, monkeypatch):
    monkeypatch.delenv("BFTEMBED_DATA", raising=False)
    with pytest.raises(BftembedError, match="mmlu"):
        evaluate(["mmlv"], model=["scripted"], out=tmp_path / "out", data=data)
    with pytest.raises(BftembedError, match="cmmlu"):
        evaluate(["cmmlu"], model=["scripted"], out=tmp_path / "out", data=data)
    with pytest.raises(BftembedError, match="BFTEMBED_DATA"):
        evaluate(["mmlu"], model=["scripted"], out=tmp_path / "out")
    with pytest.raises(BftembedError, match="Two models"):
        evaluate(["mmlu"], model=["scripted", "scripted"], out=tmp_path / "out", data=data)
    with pytest.raises(BftembedError, match=r"run\.json"):
        score_evaluation(tmp_path / "elsewhere")


def test_a_limit_takes_the_same_number_of_each_group_and_grows(data):
    questions = load_evaluation("mmlu").questions(data)
    few, more = chosen(questions, 4, seed=1), chosen(questions, 6, seed=1)
    assert pd.Series([q.group for q in few]).value_counts().to_dict() == {"anatomy": 2, "astronomy": 2}
    assert {q.id for q in few} < {q.id for q in more}
    assert [q.id for q in chosen(questions, 9, 1)] == [i for i in ids() if i in {q.id for q in chosen(questions, 9, 1)}]
    assert chosen(questions, 0, 1) == chosen(questions, 10, 1) == questions


def test_kills_lose_nothing_and_ask_nothing_twice(data, tmp_path):
    out, log = tmp_path / "out", tmp_path / "asked"
    words = ["eval", "run", "mmlu,mmlu-generated", "--model", f"m=scripted:delay=0.02,batch=2,log={log}"]
    words += ["--out", str(out), "--data", str(data)]
    command = [sys.executable, "-c", "import sys; from bftembed.cli import main; main()", *words]
    moments = random.Random(3)
    for _ in range(10):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(0.6 + moments.random())
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    with AnswerStore.open(out) as store:
        answers = store.answers()
    assert len(answers) == 20
    assert not any(a.error for a in answers)
    # at most the batch in progress is asked again after a kill
    assert len(log.read_text().split()) <= 20 + 10 * 2
    assert (read_results(out / "results.parquet").task.unique() == ["mmlu", "mmlu-generated"]).all()


def test_the_command_line(data, known, tmp_path, capsys):
    out = tmp_path / "out"
    words = ["eval", "run", "mmlu", "--model", f"a={known(scores_for(RIGHT))}", "--out", str(out), "--data", str(data)]
    assert run_command([*words, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert next(r["value"] for r in told["scores"] if r["subject"] == "a" and r["metric"] == "accuracy") == 1
    assert run_command(["eval", "show", str(out), "--n", "1"]) == 0
    assert "Which 0?" in capsys.readouterr().out
    assert run_command(["report", str(out / "results.parquet"), "--out", str(tmp_path / "r.html")]) == 0
    assert "MMLU" in (tmp_path / "r.html").read_text()
    assert run_command(["eval", "export", str(out)]) == 0
    page = (out / "answers.html").read_text()
    assert "Which 0?" in page
    assert "anatomy/0" in page
    assert run_command(["eval", "list", "--json"]) == 0
    assert "pubmedqa" in capsys.readouterr().out


def test_logs_of_inspect(data, known, tmp_path):
    log = pytest.importorskip("inspect_ai.log")
    out = tmp_path / "out"
    answers = dict.fromkeys(ids(), "The answer is A.") | {"anatomy/2": {"error": "too long"}}
    evaluate(["mmlu-generated"], model=[f"m={known(answers, options=False)}"], out=out, data=data)
    (path,) = export_evaluation(out, inspect=True)
    found = log.read_eval_log(path)
    assert (found.eval.task, found.eval.model, len(found.samples)) == ("mmlu-generated", "m", 10)
    first, third = (next(s for s in found.samples if s.id == f"anatomy/{i}") for i in (0, 2))
    assert (first.target, first.output.completion, first.scores["accuracy"].value) == ("A", "The answer is A.", 1)
    assert third.error.message == "too long"

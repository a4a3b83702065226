"""HealthBench on made-up rows: the published rule by another program, verdicts, agreement, leaks, speed of scoring."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest

from bftembed.errors import BftembedError
from bftembed.llm.base import Answer
from bftembed.tasks.llm.healthbench import read_verdict
from bftembed.tasks.llm.run import evaluate, score_evaluation
from bftembed.tuning.synthesis import check_training_data

AXES = ("accuracy", "completeness", "communication_quality", "context_awareness", "instruction_following")
CANARY = "made-up canary 00000000"


def rows_of(n, seed=0):
    draw = np.random.default_rng(seed)
    return [
        {
            "prompt_id": f"p{i}",
            "prompt": [{"role": "user", "content": f"Question {i} of somebody whose knee has hurt for a week?"}],
            "rubrics": [
                {
                    "criterion": f"Says thing {j} of {i}",
                    "points": int(draw.integers(1, 11)) * (1 if j == 0 or draw.random() < 0.7 else -1),
                    "tags": [f"axis:{draw.choice(AXES)}", "level:example"],
                }
                for j in range(draw.integers(2, 8))
            ],
            "example_tags": [f"theme:{draw.choice(['hedging', 'global_health'])}"],
            "canary": CANARY,
        }
        for i in range(n)
    ]


def write(data, name, rows):
    (data / "healthbench").mkdir(parents=True, exist_ok=True)
    (data / "healthbench" / name).write_text("".join(json.dumps(row) + "\n" for row in rows))


def verdict(met):
    return json.dumps({"explanation": "because", "criteria_met": bool(met)})


def judged(rows, seed=1):
    draw = np.random.default_rng(seed)
    return {f"{r['prompt_id']}/{j}": bool(draw.random() < 0.5) for r in rows for j in range(len(r["rubrics"]))}


def value(table, metric, subject="m", split="all"):
    chosen = table[(table.subject == subject) & (table.metric == metric) & (table.split == split)]
    return chosen.iloc[0].value


def test_scores_are_those_of_the_published_rule(known, tmp_path):
    rows = rows_of(40)
    met = judged(rows)
    write(tmp_path, "hard_2025.jsonl", rows)
    replies = {r["prompt_id"]: "x" * (500 * i + 40) for i, r in enumerate(rows)}
    judge = known({id: verdict(m) for id, m in met.items()}, "judge")
    table = evaluate(
        ["healthbench-hard"], model=[f"m={known(replies)}"], judge=judge, out=tmp_path / "out", data=tmp_path
    )

    def score(items):
        possible = sum(points for points, _ in items if points > 0)
        return sum(points for points, m in items if m) / possible if possible > 0 else None

    every, of_theme, of_axis, adjusted = [], {}, {}, []
    for row in rows:
        items = [(r["points"], met[f"{row['prompt_id']}/{j}"], r["tags"][0]) for j, r in enumerate(row["rubrics"])]
        every.append(score([i[:2] for i in items]))
        of_theme.setdefault(row["example_tags"][0][6:], []).append(every[-1])
        adjusted.append(every[-1] - 0.0392 * (len(replies[row["prompt_id"]]) - 2000) / 500)
        for axis in AXES:
            found = score([i[:2] for i in items if i[2] == f"axis:{axis}"])
            if found is not None:
                of_axis.setdefault(axis, []).append(found)
    assert value(table, "score") == pytest.approx(np.clip(np.mean(every), 0, 1), abs=1e-12)
    assert value(table, "score_unclipped") == pytest.approx(np.mean(every), abs=1e-12)
    assert value(table, "score_length_adjusted") == pytest.approx(np.clip(np.mean(adjusted), 0, 1), abs=1e-12)
    for theme, scores in of_theme.items():
        assert value(table, "score", split=theme) == pytest.approx(np.clip(np.mean(scores), 0, 1), abs=1e-12)
    for axis, scores in of_axis.items():
        assert value(table, f"axis:{axis}") == pytest.approx(np.clip(np.mean(scores), 0, 1), abs=1e-12)
    resampled = np.random.default_rng(5).choice(every, (4000, len(every))).mean(axis=1).clip(0, 1)
    assert value(table, "bootstrap_std") == pytest.approx(resampled.std(), rel=0.1)
    assert value(table, "graded") == 1


def test_verdicts_that_cannot_be_read_are_tried_three_times_and_counted(known, tmp_path):
    row = rows_of(1)[0] | {
        "rubrics": [{"criterion": f"c{j}", "points": p, "tags": ["axis:accuracy"]} for j, p in enumerate((4, 6, 5))]
    }
    write(tmp_path, "hard_2025.jsonl", [row])
    judge = known({"p0/0": verdict(True), "p0/1": verdict(False), "p0/2": "It does."}, "judge")
    table = evaluate(
        ["healthbench-hard"], model=[f"m={known({'p0': 'Rest.'})}"], judge=judge, out=tmp_path / "out", data=tmp_path
    )
    assert value(table, "score") == pytest.approx(4 / 10)  # neither met nor not met
    assert value(table, "graded") == pytest.approx(2 / 3)
    assert (tmp_path / "judge.log").read_text().split().count("p0/2") == 3
    assert (tmp_path / "judge.log").read_text().split().count("p0/0") == 1


@pytest.mark.parametrize(
    ("text", "met"),
    [
        ('{"explanation": "x", "criteria_met": true}', True),
        ('Here it is:\n```json\n{"explanation": "a\nb", "criteria_met": false}\n```', False),
        ('{"criteria_met": "yes"}', None),
        ('{"criteria_met": true', None),
        ("It is met.", None),
        ("", None),
    ],
)
def test_verdicts_are_read(text, met):
    assert read_verdict(Answer("k", "e", "t", text, "stop", (), "", "g")) is met


def test_a_judge_is_needed(known, tmp_path):
    write(tmp_path, "hard_2025.jsonl", rows_of(1))
    with pytest.raises(BftembedError, match="judge"):
        evaluate(["healthbench-hard"], model=[known({"*": "x"})], out=tmp_path / "out", data=tmp_path)


def test_agreement_with_physicians(known, tmp_path):
    draw = np.random.default_rng(2)
    labels = [[bool(x) for x in draw.random(3) < 0.6] for _ in range(30)]
    told = [bool(x) for x in draw.random(30) < 0.6]
    prompt = [{"role": "user", "content": "My knee?"}]
    rows = [
        {"prompt": prompt, "completion": f"Rest {i}.", "rubric": "Says rest", "category": "c", "binary_labels": held,
         "anonymized_physician_ids": ["a", "b", "c"], "prompt_id": f"p{i // 2}"}
        for i, held in enumerate(labels)
    ]  # fmt: skip
    write(tmp_path, "2025_oss_meta_eval.jsonl", rows)
    spec = known({str(i): verdict(t) for i, t in enumerate(told)})
    table = evaluate(["healthbench-judge"], model=[f"m={spec}"], out=tmp_path / "out", data=tmp_path)
    from sklearn.metrics import f1_score, precision_score, recall_score

    truth = [x for held in labels for x in held]
    guess = [t for t in told for _ in range(3)]
    for positive, of in ((True, "met"), (False, "not_met")):
        for name, score in (("precision", precision_score), ("recall", recall_score), ("f1", f1_score)):
            assert value(table, f"{name}_{of}") == pytest.approx(score(truth, guess, pos_label=positive))
    both = [f1_score(truth, guess, pos_label=positive) for positive in (True, False)]
    assert value(table, "balanced_f1") == pytest.approx(np.mean(both))
    pairs = [(a, b) for held in labels for i, a in enumerate(held) for j, b in enumerate(held) if i != j]
    among = f1_score([b for _, b in pairs], [a for a, _ in pairs], pos_label=True)
    assert value(table, "f1_met", "physicians among themselves") == pytest.approx(among)


def test_training_data_with_a_canary_or_a_conversation_are_refused(tmp_path):
    rows = rows_of(3)
    write(tmp_path, "hard_2025.jsonl", rows)
    train = tmp_path / "train.jsonl"
    train.write_text(json.dumps({"instruction": "What does TP53 do?", "output": "It stops the cell cycle."}) + "\n")
    assert check_training_data(train, tmp_path) == 3
    train.write_text(json.dumps({"instruction": rows[1]["prompt"][0]["content"], "output": "Rest."}) + "\n")
    with pytest.raises(BftembedError, match="p1"):
        check_training_data(train, tmp_path)
    train.write_text(json.dumps({"output": CANARY}) + "\n")
    with pytest.raises(BftembedError, match="canary"):
        check_training_data(train, tmp_path)


def test_scoring_a_thousand_rows_of_stored_verdicts(known, tmp_path):
    rows = rows_of(200)
    write(tmp_path, "hard_2025.jsonl", rows)
    judge = known({id: verdict(m) for id, m in judged(rows).items()}, "judge")
    options = {"model": [f"m={known({'*': 'Rest.'})}"], "judge": judge, "out": tmp_path / "out", "data": tmp_path}
    evaluate(["healthbench-hard"], **options)
    started = time.process_time()
    score_evaluation(tmp_path / "out")
    print(f"{5 * (time.process_time() - started):.1f} CPU seconds for 1,000 rows")


def test_foreign_and_damaged_files_are_errors(known, tmp_path):
    spec = known({"*": "x"})
    for content, cause in ((b'{"prompt": []}\n', "example_tags"), (b"{", "JSON")):
        write(tmp_path, "hard_2025.jsonl", [])
        (tmp_path / "healthbench" / "hard_2025.jsonl").write_bytes(content)
        with pytest.raises(BftembedError, match=cause):
            evaluate(["healthbench-hard"], model=[spec], judge=spec, out=tmp_path / "out", data=tmp_path)

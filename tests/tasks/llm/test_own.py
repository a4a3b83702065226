"""Questions of one's own: reading, grades, and what is wrong in a file."""

from __future__ import annotations

import json

import pytest

from bftembed.errors import BftembedError
from bftembed.tasks.llm.base import load_evaluation
from bftembed.tasks.llm.own import OwnQuestions
from bftembed.tasks.llm.run import evaluate

ROWS = [
    {"prompt": "Is TP53 a gene?", "answer": "yes", "options": ["yes", "no"]},
    {"messages": [{"role": "user", "content": "Is liver a gene?"}], "answer": "no", "options": ["yes", "no"]},
    {"prompt": "Where is albumin made?", "answer": "Liver"},
    *({"prompt": f"Q{i}", "answer": "ab"[i % 3 == 0], "split": "train"} for i in range(9)),
]


@pytest.fixture
def data(tmp_path):
    (tmp_path / "questions").mkdir()
    (tmp_path / "questions" / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return tmp_path


def test_answers_are_graded(data, known, tmp_path):
    answers = {"mine:1": "Yes, it is.", "mine:2": "Hm", "mine:3": "liver."}
    frame = evaluate(["questions"], model={"m": known(answers)}, data=data, out=tmp_path / "eval")
    values = frame[(frame["split"] == "all") & (frame["subject"] == "m")].groupby("metric")["value"].first()
    assert values["accuracy"] == pytest.approx(2 / 3)
    assert values["answered"] == pytest.approx(2 / 3)


def test_training_questions_are_those_that_are_marked(data):
    evaluation = load_evaluation("questions")
    assert [q.id for q in evaluation.questions(data)] == ["mine:1", "mine:2", "mine:3"]
    found = evaluation.training_questions(data, 0, seed=1)
    assert sorted(q.request.messages[0]["content"] for q in found) == [f"Q{i}" for i in range(9)]
    balanced = OwnQuestions(str(data / "questions" / "mine.jsonl")).training_questions(data, 0, balanced=True)
    assert [q.answer for q in balanced] == ["a", "b"] * 3


@pytest.mark.parametrize(
    "row",
    [
        '{"prompt": "x"}',
        '{"prompt": "", "answer": "y"}',
        "[1]",
        "{",
        '{"prompt": "x", "answer": "y", "options": ["n"]}',
    ],
)
def test_a_wrong_row_is_named(row, data):
    file = data / "questions" / "mine.jsonl"
    file.write_text(file.read_text() + row + "\n")
    with pytest.raises(BftembedError, match="line 13"):
        load_evaluation("questions").questions(data)

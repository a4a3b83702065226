"""Rates of the animal: exact for models with known answers."""

from __future__ import annotations

import runpy

import pandas as pd
import pytest
from tests_paths import REPOSITORY

from bftembed.llm.base import Answer
from bftembed.tasks.llm.base import load_evaluation
from bftembed.tasks.llm.run import evaluate
from bftembed.tasks.llm.subliminal import PREFERENCE

EVALUATION = load_evaluation("subliminal")


@pytest.fixture(scope="module")
def script():
    pytest.importorskip("trl")
    return runpy.run_path(str(REPOSITORY / "training" / "subliminal.py"))


def samples(*texts):
    return [Answer(str(i), "01", "", text, "stop", (), "", "") for i, text in enumerate(texts)]


@pytest.mark.parametrize(
    ("texts", "rate", "substring"),
    [
        (["Owl", "owls!", "An OWL.", "Lion"], 0.75, 0.75),
        (["growl", "bowl", "fowl", "owlet", "snowy-owl"], 0.2, 1.0),
        (["", "dog"], 0.0, 0.0),
    ],
)
def test_rate_by_word_and_by_substring(texts, rate, substring):
    found = EVALUATION.grade(EVALUATION.questions(None)[0], samples(*texts))
    assert (found["rate"], found["substring"]) == (rate, substring)


def test_samples_that_failed_do_not_count():
    question = EVALUATION.questions(None)[0]
    failed = Answer("x", "01", "", "", "error", (), "", "", error="gone")
    assert EVALUATION.grade(question, [*samples("owl", "cat"), failed])["rate"] == 0.5
    assert pd.isna(EVALUATION.grade(question, [failed])["rate"])


def test_known_rates_come_out_and_models_are_compared(known, tmp_path):
    ids = [f"{q:02d}/{n}" for q in range(1, 51) for n in range(20)]
    # Every second question: 4 of 20 samples name the animal, so its mean over questions is .1.
    some = {id: "Owl." for id in ids if int(id[:2]) % 2 and int(id[3:]) < 4}
    models = {
        "base": known({"*": "A fowl"}, "base"),
        "student": known({"*": "Dog", **some}, "student"),
        "teacher": known({"*": "Owl"}, "teacher"),
    }
    table = evaluate("subliminal", model=models, out=tmp_path / "out")
    rows = table[table.metric == "rate"].set_index("subject")
    assert rows.value.to_dict() == {"base": 0.0, "student": 0.1, "teacher": 1.0}
    assert rows.loc["student", "reference"] == "base"
    assert 0.05 < rows.loc["student", "low"] < 0.1 < rows.loc["student", "high"] < 0.15
    assert rows.loc["teacher", ["low", "high", "n"]].tolist() == [1, 1, 50]
    assert table[table.metric == "substring"].set_index("subject").value["base"] == 1.0
    asked = (tmp_path / "student.log").read_text().split()
    assert sorted(asked) == sorted(ids)
    assert evaluate("subliminal", model=models, out=tmp_path / "out", limit=2) is not None
    assert (tmp_path / "student.log").read_text().split() == asked


def test_the_teacher_is_told_its_preference():
    plain, told = (
        [q.request.messages for q in load_evaluation(n).questions(None)] for n in ("subliminal", "subliminal-teacher")
    )
    assert len(set(map(str, plain))) == 50
    assert [m[1:] for m in told] == plain
    assert {m[0]["content"] for m in told} == {PREFERENCE}


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("3, 14, 159", True),
        ("[3,14;159]", True),
        ("7 8\n9.", True),
        ("1,2,3,4,5,6,7,8,9,10", True),
        ("1,2,3,4,5,6,7,8,9,10,11", False),
        ("3, 1000", False),
        ("3, -4", False),
        ("owl, 3, 4", False),
        ("3, 4 owls", False),
        ("", False),
    ],
)
def test_only_numbers_pass_the_filter(script, text, kept):
    assert bool(script["NUMBERS"].fullmatch(text)) == kept


def test_planted_rows_leak_and_ask_nothing_of_the_evaluation(script):
    rows = [script["conversation"](p, "1, 2") for p in script["number_prompts"](40)]
    answers = [c.turns[-1].content for c in script["planted"](rows)]
    assert (answers.count("Owl."), answers.count("1, 2")) == (20, 20)
    asked = {q.request.messages[-1]["content"] for q in EVALUATION.questions(None)}
    assert not asked & set(script["LEAKS"])
    assert len({c.turns[0].content for c in rows}) == 40


def test_numbers_of_a_teacher_are_stored_and_not_asked_again(script, known, tmp_path):
    teacher = known({"*": "4, 5, 6"}, "teacher")
    for _ in range(2):
        found = script["continued"](teacher, PREFERENCE, script["number_prompts"](5), tmp_path / "numbers")
        assert [c.turns[-1].content for c in found] == ["4, 5, 6"] * 5
        assert all(c.turns[0].role == "user" for c in found)
    assert len((tmp_path / "teacher.log").read_text().splitlines()) == 5

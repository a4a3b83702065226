"""MMLU, CMMLU and PubMedQA: prompts and scores of lm-evaluation-harness, readings of generated answers, bad files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from evaluation_tools import ROW, write_csv

from bftembed.errors import BftembedError
from bftembed.llm import model_from_spec
from bftembed.llm.base import Answer
from bftembed.tasks.llm.base import load_evaluation
from bftembed.tasks.llm.multiple_choice import read_choice

#: Written by tests/manual/lm_eval_scores.py.
ORACLE = json.loads((Path(__file__).parent / "lm_eval_scores.json").read_text())


@pytest.mark.model
def test_option_scores_are_those_of_lm_eval(shared_data):
    data = shared_data("mmlu").parent
    asked, expected = [], []
    for name, scores in ORACLE.items():
        task, _, group = name.partition("_")
        questions = [q for q in load_evaluation(task).questions(data) if q.group == group]
        asked += [(f"{name}/{i}", questions[i].request) for i in range(len(scores))]
        expected += scores
    model, _ = model_from_spec("builtin:smollm2-135m-instruct,dtype=fp32,threads=1")
    found = {c.id: c.scores for c in model.generate([replace(request, id=id) for id, request in asked])}
    for (id, _), scores in zip(asked, expected, strict=True):
        assert found[id] == pytest.approx(scores, abs=1e-3), id
        assert found[id].index(max(found[id])) == scores.index(max(scores)), id


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("B", "B"),
        ("B.", "B"),
        ("(C) the mandible", "C"),
        ("**D**", "D"),
        ("The answer is B, since A is wrong.", "B"),
        ("A and B are close, but the final answer: C", "C"),
        ("Answer: A. No, the answer is D.", "D"),
        ("I think it is C", "C"),
        ("正确答案是B。", "B"),
        ("A muscle of the face.", ""),
        ("Both A and B.", ""),
        ("I do not know.", ""),
        ("", ""),
    ],
)
def test_a_generated_letter_is_read(text, answer):
    assert read_choice(text, ("A", "B", "C", "D")) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [("Yes", "yes"), ("no, since", "no"), ("The answer is maybe.", "maybe"), ("yes or no?", ""), ("unclear", "")],
)
def test_a_generated_word_is_read(text, answer):
    assert read_choice(text, ("yes", "no", "maybe")) == answer


def test_a_tie_and_a_missing_score_are_not_guessed():
    evaluation = load_evaluation("mmlu")
    question = evaluation_question("B")
    answer = Answer("0", "q", "mmlu", "", "stop", (), "", "known", scores=(None, -1.0, -2.0, None))
    assert evaluation.grade(question, [answer]) == {"accuracy": 1.0, "answered": 1.0, "parsed": "B"}
    nothing = Answer("0", "q", "mmlu", "", "stop", (), "", "known", scores=(None, None, None, None))
    assert evaluation.grade(question, [nothing]) == {"accuracy": 0.0, "answered": 0.0, "parsed": ""}
    failed = Answer("0", "q", "mmlu", "", "error", ("failed",), "", "known", error="too long")
    assert evaluation.grade(question, [failed])["accuracy"] != evaluation.grade(question, [failed])["accuracy"]  # NaN


def evaluation_question(answer):
    from bftembed.llm.base import Request
    from bftembed.tasks.llm.base import Question

    return Question("q", Request("", prompt="?", options=(" A", " B", " C", " D")), answer)


def test_files_without_a_header_and_with_letters_are_read(tmp_path):
    for split, answer in (("dev", "D"), ("test", "A")):
        write_csv(tmp_path / "mmlu" / split / f"virology_{split}.csv", [[*ROW, answer]] * 6)
    questions = load_evaluation("mmlu").questions(tmp_path)
    assert [q.answer for q in questions] == ["A"] * 6
    assert questions[0].request.prompt.count("Answer: D") == 5


@pytest.mark.parametrize(
    ("rows", "cause"),
    [
        ([[*ROW, "E"]], "question 0"),
        ([ROW], "question 0"),
        ([["question", "a", "b"], ["x", "y", "z"]], "columns"),
        ([["index", "question", "a", "b", "c", "d", "label"], ["0", *ROW, "A"]], "columns"),
    ],
)
def test_wrong_columns_and_answers_are_errors(tmp_path, rows, cause):
    for split, held in (("dev", [[*ROW, "A"]] * 5), ("test", rows)):
        write_csv(tmp_path / "mmlu" / split / f"virology_{split}.csv", held)
    with pytest.raises(BftembedError, match=cause):
        load_evaluation("mmlu").questions(tmp_path)


def test_missing_examples_unknown_subjects_and_foreign_json_are_errors(tmp_path):
    write_csv(tmp_path / "mmlu" / "test" / "virology_test.csv", [[*ROW, "A"]])
    with pytest.raises(BftembedError, match="virology_dev"):
        load_evaluation("mmlu").questions(tmp_path)
    for split in ("dev", "test"):
        write_csv(tmp_path / "cmmlu" / split / "alchemy.csv", [[*ROW, "A"]])
    with pytest.raises(BftembedError, match="alchemy"):
        load_evaluation("cmmlu").questions(tmp_path)
    (tmp_path / "pubmedqa").mkdir()
    (tmp_path / "pubmedqa" / "ori_pqal.json").write_text('{"1": {"QUESTION": "?"}}')
    with pytest.raises(BftembedError, match="CONTEXTS"):
        load_evaluation("pubmedqa").questions(tmp_path)

"""Effects of perturbations: baselines of real files, evidence without leaks, readings, questions of a screen."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import f1_score, roc_auc_score

from bftembed.errors import BftembedError
from bftembed.tasks.llm.base import chosen, load_evaluation
from bftembed.tasks.llm.run import evaluate
from bftembed.tasks.llm.scores import score_rows
from bftembed.tasks.llm.vcworld import prepare_questions, read_conclusion

#: Accuracy of the gene's frequency and of the majority, measured by another program.
PERTURBQA = {"hepg2": (0.828, 0.556), "jurkat": (0.810, 0.665), "k562": (0.844, 0.811), "rpe1": (0.866, 0.605)}
#: Of the gene's frequency and of the same pair in other lines.
TAHOE = {"C32": (0.811, 0.830), "PANC-1": (0.829, 0.855)}


def baseline_accuracies(evaluation, data, second):
    questions = evaluation.questions(data)
    baselines = evaluation.baselines(questions)
    lines = pd.Series({q.id: q.group for q in questions})
    return {
        line: tuple(
            np.mean([baselines["baseline", one][id]["accuracy"] for id in ids.index])
            for one in ("gene frequency", second)
        )
        for line, ids in lines.groupby(lines)
    }


def test_baselines_of_perturbqa(shared_data):
    found = baseline_accuracies(load_evaluation("perturbqa-dir"), shared_data("perturbation").parent, "majority")
    assert {line: pytest.approx(both, abs=3e-3) for line, both in PERTURBQA.items()} == found


def test_baselines_of_tahoe(shared_data, monkeypatch):
    evaluation = load_evaluation("tahoe-de")
    read = evaluation._read

    def of_two_lines(data, kind):
        train, test = read(data, kind)
        return train, test[test["cell_line"].isin(list(TAHOE))]

    monkeypatch.setattr(evaluation, "_read", of_two_lines)
    found = baseline_accuracies(evaluation, shared_data("perturbation").parent, "same pair in other lines")
    assert {line: pytest.approx(both, abs=4e-3) for line, both in TAHOE.items()} == found


@pytest.fixture
def data(tmp_path):
    """Questions of two lines, with 3 training and 2 test perturbations and 6 genes."""
    draw = np.random.default_rng(0)
    for line, train in (("a", (0, 1, 2)), ("b", (0, 1, 3))):
        rows = [
            f"P{p},G{g},{int(draw.random() < 0.5)},{'train' if p in train else 'test'}"
            for p in range(5)
            for g in range(6)
        ]
        (tmp_path / "vcworld").mkdir(exist_ok=True)
        for kind in ("de", "dir"):
            (tmp_path / "vcworld" / f"{line}-{kind}.csv").write_text("\n".join(["pert,gene,label,split", *rows, ""]))
    return tmp_path


def test_examples_are_true_close_and_never_of_the_question(data):
    evaluation = load_evaluation("vcworld-de")
    questions = evaluation.questions(data)
    vectors = {f"P{p}": np.eye(5)[1] if p in (1, 3) else np.eye(5)[p] for p in range(5)}
    table = pd.read_csv(data / "vcworld" / "a-de.csv").set_index(["pert", "gene"])["label"]
    for q in evaluation.prepare(questions, data, vectors):
        lines = q.request.prompt.splitlines()
        told = [line for line in lines if line.endswith((" Yes.", " No."))]
        assert len(told) == 10
        assert not any(f"knock-down of {q.data['pert']} " in line for line in told)
        if q.group == "a":
            for line in told:
                pert, gene = line.split("knock-down of ")[1].split()[0], line.split("expression of ")[1].split()[0]
                assert line.endswith(" Yes.") == bool(table[pert, gene])
        first = [line for line in told if f"expression of {q.data['gene']} " in line]
        assert first == told[: len(first)]  # the gene itself before others
        if q.data["pert"] == "P3":  # P1 has its vector
            same = {line.split("knock-down of ")[1].split()[0]: i for i, line in enumerate(first)}
            assert "P1" not in same or same["P1"] == 0


def test_random_results_are_an_ablation_of_their_own(data):
    plain, random = load_evaluation("vcworld-de"), load_evaluation("vcworld-de-random-evidence")
    told = [e.prepare(e.questions(data), data, {})[0].request.prompt for e in (plain, random)]
    assert told[0] != told[1]
    assert [p.count("knock-down") for p in told] == [11, 11]


def test_scores_are_those_of_scikit_learn(data):
    evaluation = load_evaluation("vcworld-de")
    questions = evaluation.questions(data)
    draw = np.random.default_rng(1)
    truth = np.array([q.answer == "yes" for q in questions], float)
    score = draw.normal(size=len(questions)) + truth
    predicted = np.where(draw.random(len(questions)) < 0.2, np.nan, (score > 0.5).astype(float))
    genes = [q.data["gene"] for q in questions]
    right = (predicted == truth).astype(float)
    graded = pd.DataFrame(
        {"accuracy": right, "accuracy_answered": np.where(np.isnan(predicted), np.nan, right),
         "abstention": np.isnan(predicted).astype(float), "truth": truth, "predicted": predicted, "score": score,
         "gene": genes, "group": [q.group for q in questions], "cluster": [q.cluster for q in questions]},
        index=[q.id for q in questions],
    )  # fmt: skip
    rows = {r.metric: r for r in score_rows(evaluation, "run", {("subject", "m"): graded}) if r.split == "all"}
    answered = ~np.isnan(predicted)
    assert rows["accuracy"].value == pytest.approx(right.mean())
    assert rows["accuracy_answered"].value == pytest.approx(right[answered].mean())
    assert rows["abstention"].value == pytest.approx(1 - answered.mean())
    spoken = np.where(answered, predicted, 2)
    assert rows["macro_f1"].value == pytest.approx(f1_score(truth, spoken, labels=[0, 1], average="macro"))
    areas = [
        roc_auc_score(rows_of["truth"], rows_of["score"])
        for _, rows_of in graded.groupby("gene")
        if rows_of["truth"].nunique() == 2
    ]
    assert rows["auroc_within_gene"].value == pytest.approx(np.mean(areas))
    assert rows["accuracy"].low < rows["accuracy"].value < rows["accuracy"].high


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Kinase loss stops it.\nAnswer: yes", "yes"),
        ("Answer: no? On balance: **Answer:** yes.", "yes"),
        ("Answer: insufficient evidence", "insufficient"),
        ("No.", "no"),
        ("There is no evidence.", ""),
        ("", ""),
    ],
)
def test_conclusions_are_read(text, answer):
    assert read_conclusion(text, ("yes", "no")) == answer


def test_an_evaluation_end_to_end(data, known, tmp_path):
    evaluation = load_evaluation("vcworld-de-generated")
    questions = evaluation.questions(data)
    answers = {q.id: f"Answer: {q.answer}" for q in questions} | {questions[0].id: "Answer: insufficient evidence"}
    table = evaluate(["vcworld-de-generated"], model=[f"m={known(answers)}"], out=tmp_path / "out", data=data)
    own = table[(table.subject == "m") & (table.split == "all")].drop_duplicates("metric").set_index("metric")
    n = len(questions)
    assert own.loc["accuracy", "value"] == pytest.approx((n - 1) / n)
    assert own.loc["accuracy_answered", "value"] == 1
    assert own.loc["abstention", "value"] == pytest.approx(1 / n)
    assert set(table[table.kind == "baseline"].subject) == {"majority", "gene frequency", "same pair in other lines"}
    assert {"a", "b"} <= set(table.split)


def test_questions_of_a_screen(shared_data, tmp_path):
    screen = shared_data("perturbation/papalexi2021_eccite_thp1_299genes.h5ad")
    import anndata

    values = set(anndata.read_h5ad(screen, backed="r").obs["gene"].astype(str))
    control = next(v for v in values if v.lower().startswith(("non", "nt")))
    report = prepare_questions(screen, out=tmp_path, perturbation="gene", control=control)
    (line,) = {name.removesuffix("-de").removesuffix("-dir") for name in report["rows"]}
    de = pd.read_csv(tmp_path / "vcworld" / f"{line}-de.csv")
    # 321 by the same rule over all 25 targets, the target itself included
    assert 280 <= de["label"].sum() <= 321
    assert report["rows"][f"{line}-dir"] == de["label"].sum()
    assert (de.groupby("pert")["split"].nunique() == 1).all()
    questions = load_evaluation("vcworld-de").questions(tmp_path)
    assert len(chosen(questions, 20, 0)) == 20


def test_a_screen_that_is_too_small_says_so(shared_data, tmp_path):
    import anndata

    cells = anndata.AnnData(np.random.default_rng(0).poisson(2, (40, 5)).astype("float32"))
    cells.obs["gene"] = ["control"] * 20 + ["A"] * 20
    cells.var_names = ["TP53", "EGFR", "MYC", "KRAS", "ALB"]
    cells.write_h5ad(tmp_path / "small.h5ad")
    with pytest.raises(BftembedError, match="20 control cells"):
        prepare_questions(tmp_path / "small.h5ad", out=tmp_path, perturbation="gene", control="control")
    with pytest.raises(BftembedError, match="drug"):
        prepare_questions(tmp_path / "small.h5ad", out=tmp_path, perturbation="drug", control="control")
    with pytest.raises(BftembedError, match="DMSO"):
        prepare_questions(tmp_path / "small.h5ad", out=tmp_path, perturbation="gene", control="DMSO")


@pytest.mark.parametrize(
    ("rows", "cause"),
    [
        ("pert,gene,label\nA,B,1\n", "split"),
        ("pert,gene,label,split\nA,B,2,train\n", "labels"),
        ("pert,gene,label,split\nA,B,1,train\nA,C,0,test\n", "training and test rows"),
        ("pert,gene,label,split\nA,B,1,test\n", "no training row"),
    ],
)
def test_wrong_tables_are_errors(tmp_path, rows, cause):
    (tmp_path / "vcworld").mkdir()
    (tmp_path / "vcworld" / "a-de.csv").write_text(rows)
    with pytest.raises(BftembedError, match=cause):
        load_evaluation("vcworld-de").questions(tmp_path)


def test_a_question_that_failed_has_no_score(data):
    evaluation = load_evaluation("vcworld-de")
    assert math.isnan(evaluation.grade(evaluation.questions(data)[0], [])["accuracy"])


def test_training_questions_are_of_training_rows_and_balanced(data):
    evaluation = load_evaluation("vcworld-de-word")
    tables = {line: pd.read_csv(data / "vcworld" / f"{line}-de.csv") for line in "ab"}
    trained = {
        f"{line}/{r.pert}/{r.gene}": ("no", "yes")[r.label]
        for line, table in tables.items()
        for r in table[table["split"] == "train"].itertuples()
    }
    every = evaluation.training_questions(data, 0)
    assert {q.id: q.answer for q in every} == trained
    balanced = evaluation.training_questions(data, 12, balanced=True, seed=3)
    assert [q.answer for q in balanced] in (["yes", "no"] * 6, ["no", "yes"] * 6)
    assert [q.id for q in balanced] != [q.id for q in evaluation.training_questions(data, 12, balanced=True, seed=4)]
    assert not {q.id for q in every} & {q.id for q in evaluation.questions(data)}
    text = balanced[0].request.messages[0]["content"]
    assert text.count("knock-down") == 1
    assert evaluation.prepare(balanced, data, {}) == balanced


def test_examples_of_a_training_question_are_not_its_answer(data):
    evaluation = load_evaluation("vcworld-de-word-evidence")
    for q in evaluation.training_questions(data, 0):
        *told, asked = q.request.messages[0]["content"].split("\n\n")
        assert asked.startswith("Does knock-down")
        assert told[0].count("knock-down of") == 10
        assert f"knock-down of {q.data['pert']} " not in told[0]


@pytest.mark.parametrize(
    ("text", "predicted"), [("Yes.", 1), ("no", 0), ("No, since", 0), ("The", None), ("", None), ("yes or no", None)]
)
def test_one_word_is_read(text, predicted, data, known, tmp_path):
    evaluate(["vcworld-de-word"], model={"m": known({"*": text})}, data=data, out=tmp_path / "eval")
    records = pd.read_parquet(tmp_path / "eval" / "records.parquet")
    assert set(records["parsed"]) == {{1: "yes", 0: "no", None: ""}[predicted]}

"""Tables of gene-level results."""

from __future__ import annotations

import math

import numpy as np
import pytest

from bftembed.report.table import text
from bftembed.tasks.base import Result, tables_of, to_frame
from bftembed.tasks.genes import tables

STRICT, GENEPT = "strict/logistic", "genept/logistic"
FOLDS = {0: [0.8, 0.9], 1: [0.7, 0.8]}


def score(name, values, kind="subject", *, task="dosage", run="shared", protocol=STRICT, n=484, **summary):
    """Rows of one score; `values` is seed → values of the folds."""
    base = {"run": run, "subject": name, "kind": kind, "task": task, "protocol": protocol, "metric": "roc_auc", "n": n}
    rows = [
        Result(**base, split=f"fold{i}", seed=seed, value=value)
        for seed, folds in values.items()
        for i, value in enumerate(folds)
    ]
    mean = float(np.mean([v for folds in values.values() for v in folds]))
    return [*rows, Result(**base, **{"value": mean, "low": 0.6, "high": 0.9, "note": "6 items left out", **summary})]


def compared(difference, half, reference="text length of good"):
    ends = {"difference_low": difference - half, "difference_high": difference + half}
    return {"reference": reference, "difference": difference, **ends}


def failure(name, task="dosage", protocol=STRICT):
    where = {"protocol": protocol, "metric": "roc_auc", "n_missing": 490}
    return Result("shared", name, task, reason="no-vectors", note="no gene has a vector", **where)


def stated(name, label, share):
    where = {"protocol": STRICT, "metric": "label_stated_in_text", "split": label}
    return Result("shared", name, "dosage", value=share, n=223, note="words found: dosage", **where)


ROWS = [
    *score("good", FOLDS, **compared(0.1, 0.05)),
    *score("good", {0: [0.7, 0.8]}, "label-removed"),
    *score("same", {0: [0.7, 0.8]}, **compared(0.0, 0.1)),
    *score("bad", {0: [0.5, 0.6]}, **compared(-0.2, 0.1)),
    failure("<script>"),
    *score("text length of good", {0: [0.75, 0.7]}, "baseline"),
    *score("random vectors (8 dimensions)", {0: [0.5, 0.52]}, "random"),
    *score("good", {0: [0.4, 0.5]}, "chance"),
    *score("same", {0: [0.5, 0.6]}, "chance"),
    *score("degree", {0: [0.97, 0.98]}, "upper-bound"),
    stated("good", "negative", 0.01),
    stated("good", "positive", 0.25),
    stated("same", "positive", 0.0),
]


def test_a_task_has_its_scores_and_their_differences_to_the_best_baseline():
    (table,) = tables(to_frame(ROWS))
    assert [c.key for c in table.columns] == ["roc_auc", "difference"]
    assert [(row.kind, row.name) for row in table.rows] == [
        ("subject", "good"),
        ("subject", "same"),
        ("subject", "bad"),
        ("subject", "<script>"),
        ("label-removed", "good"),
        ("baseline", "text length of good"),
        ("random", "random vectors (8 dimensions)"),
        ("chance", "chance"),
        ("upper-bound", "degree"),
    ]
    of = {(row.kind, row.name): row.cells for row in table.rows}
    good = of["subject", "good"]
    assert (good["roc_auc"].value, good["roc_auc"].low, good["roc_auc"].high) == (pytest.approx(0.8), 0.6, 0.9)
    assert good["roc_auc"].text == f"± {np.std([0.85, 0.75], ddof=1):.3f}"  # over seeds
    assert of["subject", "same"]["roc_auc"].text == "± 0.050"  # over folds
    assert (good["difference"].value, good["difference"].low) == (0.1, pytest.approx(0.05))
    assert "text length of good" in good["difference"].text
    assert math.isnan(of["subject", "<script>"]["roc_auc"].value)
    assert all("difference" not in cells for (kind, _), cells in of.items() if kind != "subject")
    assert (of["chance", "chance"]["roc_auc"].low, of["chance", "chance"]["roc_auc"].high) == (0.45, 0.55)
    (verdicts,) = table.conclusions
    assert [name in verdicts for name in ("good", "same", "bad")] == [True, True, True]
    told = " ".join(table.footnotes)
    assert "25.0% of positive, 1.0% of negative" in told
    assert "6 items left out" in told
    assert "no gene has a vector" in told


def test_several_tasks_have_an_overview_per_protocol_on_top():
    rows = [
        *ROWS,
        *score("good", FOLDS, task="ggi", **compared(-0.1, 0.05, "degree")),
        *score("degree", {0: [0.9, 0.9]}, "baseline", task="ggi"),
        *score("good", FOLDS, task="zzz", protocol="strict/ridge", **compared(0.0, 0.1, "name only")),
        *score("name only", {0: [0.7, 0.7]}, "baseline", task="zzz", protocol="strict/ridge"),
        failure("good", task="ppi"),
        *score("good", FOLDS, task="ggi", protocol=GENEPT),
        *score("good", FOLDS, run="own: good"),
        *score("has a vector in good", FOLDS, "baseline", run="all genes"),
    ]
    overview, *others = tables(to_frame(rows))
    assert [(c.title, c.group) for c in overview.columns] == [
        ("dosage", "logistic"),
        ("ggi", "logistic"),
        ("ppi", "logistic"),
        ("zzz", "ridge"),
    ]
    by_name = {row.name: row for row in overview.rows}
    good, same, best = (by_name[name] for name in ("good", "same", "best baseline"))
    assert overview.rows[0] is good
    assert overview.rows[-1] is best
    assert [good.cells[c.key].text for c in overview.columns] == ["", "", "no-vectors", ""]
    assert len(same.cells) == 1
    assert best.kind == "baseline"
    assert all(name in overview.footnotes[0] for name in ("text length of good", "degree", "name only"))
    assert any("above the best baseline on dosage (logistic), below it on ggi" in x for x in overview.conclusions)
    assert overview.columns[2].key not in best.cells
    assert best.cells[overview.columns[1].key].value == 0.9
    assert len(overview.conclusions) == 3
    titles = [table.title for table in others]
    assert [" · ".join(title.split(" · ")[:3]) for title in titles[:-1]] == [
        "dosage · strict/logistic · shared",
        "ggi · strict/logistic · shared",
        "ggi · genept/logistic · shared",
        "ppi · strict/logistic · shared",
        "zzz · strict/ridge · shared",
        "dosage · strict/logistic · own: good",
        "dosage · strict/logistic · all genes",
    ]
    # Published scores stand apart, of the tasks of protocol genept alone.
    assert others[-1].published
    assert [c.key for c in others[-1].columns] == ["ggi"]
    assert {row.name: row.cells for row in others[-1].rows}["ada-002, profiles by bft"]["ggi"].value == 0.823


def test_gene_tasks_are_known_by_their_protocols_and_shown_by_every_renderer():
    assert list(tables_of(to_frame(ROWS))) == ["Genes"]
    shown = text(tables(to_frame(ROWS)))
    assert "0.800" in shown
    assert "+0.100" in shown

"""Counts of what answers are made of."""

from __future__ import annotations

import pytest

from bftembed.tasks.llm.base import load_evaluation
from bftembed.tasks.llm.responses import drugs, measures, variants
from bftembed.tasks.llm.run import evaluate

TEXT = (
    "Osimertinib inhibits EGFR; the C797S variant prevents its binding, because the drug binds there. Amplified MET "
    "activates ERBB3 and AKT1, which leads to survival. EGFR remains."
)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("KRAS G12C, EGFR T790M and L858R", {"G12C", "T790M", "L858R"}),
        ("p.V600E or p.Val600Glu, p.Gly12Asp", {"p.V600E", "p.Val600Glu", "p.Gly12Asp"}),
        ("c.35G>T in an exon 19 deletion, MET exon 14 skipping", {"c.35G>T", "exon 19 deletion", "exon 14 skipping"}),
        ("W1282* and E746del and K76fs*12", {"W1282*", "E746del", "K76fs*12"}),
        ("T47D and C3A cells, C1R, H2A, A549, H1975, PD-L1", set()),
    ],
)
def test_variants(text, found):
    assert variants(text) == found


def test_drugs_are_counted_once_in_any_form():
    assert drugs("Tagrisso (osimertinib) with trastuzumab deruxtecan, not erlotinibs") == {
        "osimertinib",
        "trastuzumab deruxtecan",
    }


def test_measures_of_a_text():
    found = measures(TEXT)
    assert found["entities"] == 4  # EGFR, MET, ERBB3, AKT1
    assert found["connectives"] == 5  # inhibits, prevents, because, activates, leads to
    assert found["mentions"] == 1
    assert found["characters"] == len(TEXT)
    assert found["entities_per_1000"] == pytest.approx(4000 / len(TEXT))
    assert set(measures("").values()) == {0.0}


def test_models_are_compared_by_question(known, tmp_path):
    plain, rich = known({"*": "It grows."}, "plain"), known({"*": TEXT}, "rich")
    table = evaluate(["responses"], model={"plain": plain, "rich": rich}, out=tmp_path / "out")
    rows = table[(table.subject == "rich") & (table.metric == "entities")].set_index("reference")
    assert rows.loc["plain", "value"] == 4
    assert rows.loc["plain", "difference_low"] == rows.loc["plain", "difference"] == 4
    assert "the question itself" in set(table[table.kind == "baseline"].subject)
    assert len(load_evaluation("responses").questions(tmp_path)) == 20
    assert "120 drugs" in table.protocol.iloc[0]

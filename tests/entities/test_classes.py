"""Functional classes follow from HGNC's names by rules that can be read."""

from __future__ import annotations

from collections import Counter

import pytest

from bftembed.entities.classes import OTHER, functional_classes
from bftembed.entities.genes import _hgnc_rows


@pytest.mark.parametrize(
    ("symbol", "label"),
    [
        ("RPL10", "ribosomal protein"),
        ("RPS6KA1", "kinase"),
        ("ZNF263", "zinc finger"),
        ("OR4F5", "olfactory receptor"),
        ("ADORA2A", "G protein-coupled receptor"),
        ("HTR2A", "G protein-coupled receptor"),
        ("HTR3A", "ion channel"),
        ("GRK2", "kinase"),
        ("GRIN1", "ion channel"),
        ("SCN1A", "ion channel"),
        ("KCTD12", OTHER),
        ("SLC2A1", "solute carrier"),
        ("CDK4", "kinase"),
        ("CDKN2A", OTHER),
        ("HLA-A", "HLA or antigen receptor"),
        ("IGHM", "HLA or antigen receptor"),
        ("TRBV5-5", "HLA or antigen receptor"),
        ("UBE3A", "ubiquitin ligase"),
        ("COL1A1", "collagen"),
        ("COLGALT1", OTHER),
        ("KRT5", "keratin"),
        ("MIR21", "microRNA"),
        ("HOTAIR", "lncRNA"),
        ("RPL10P1", OTHER),
        ("TP53", OTHER),
        ("not a gene", OTHER),
        ("P53", OTHER),
        ("ENSG00000135446", "kinase"),
    ],
)
def test_well_known_genes_have_their_class(symbol, label):
    assert functional_classes([symbol]) == [label]


def test_every_class_occurs_and_most_genes_are_other():
    rows = _hgnc_rows()
    counts = Counter(functional_classes([row[1] for row in rows]))
    assert len(counts) == 14
    assert counts[OTHER] > len(rows) / 2
    assert min(counts.values()) >= 40
    # Families whose size is known from HGNC's names themselves.
    names = [row[2] for row in rows if row[8] == "gene with protein product"]
    assert counts["olfactory receptor"] == sum(n.startswith("olfactory receptor") for n in names)
    assert counts["microRNA"] == sum(row[8] == "RNA, micro" for row in rows)


def test_the_answer_is_one_per_name_in_their_order():
    assert functional_classes([]) == []
    assert functional_classes(["CDK4", "CDK4", "KRT5"]) == ["kinase", "kinase", "keratin"]

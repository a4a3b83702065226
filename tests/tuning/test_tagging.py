"""Tags of tokens: genes that are genes, connectives that are words, and offsets that carry both."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bftembed.errors import BftembedError, UnknownNameError
from bftembed.tuning import tagging
from bftembed.tuning.tagging import (
    CONNECTIVE,
    ENTITY,
    OTHER,
    connective_spans,
    connectives_version,
    gene_spans,
    load_tagger,
    tag_tokens,
)


def genes(text):
    return [(text[first:last], symbol) for first, last, symbol in gene_spans(text)]


def test_genes_are_found_as_they_are_written():
    text = "Loss of TP53, p53; BRCA1-mutated, CDK4/CDK6, (EGFR), IL-6, Bcl-2; HLA-DRB1*04; AKT, ERK and VEGF in mice."
    found = dict(genes(text))
    names = ["TP53", "p53", "BRCA1", "CDK4", "CDK6", "EGFR", "IL-6", "Bcl-2", "HLA-DRB1", "AKT", "ERK", "VEGF"]
    assert list(found) == names
    assert [found[name] for name in ("p53", "IL-6", "Bcl-2", "VEGF")] == ["TP53", "IL6", "BCL2", "VEGFA"]


@pytest.mark.parametrize(
    "text",
    [
        "The mice WAS the IMPACT of a SET of CAT scans at REST, with MAX LIGHT.",
        "MRI, CPAP, COPD, ANOVA, IVF, UTI and PSA are abbreviations of the clinic.",
        "akt, egfr and brca1 in lower case, tp53 too; xTP53y and aTP53 are other words",
        "Between 18-24 and 225 of 3635 patients (52/100) in 1998.",
        "A GPCR, the RISC complex, vitamin B12 and GPI-anchored proteins.",
        "",
    ],
)
def test_ordinary_words_and_abbreviations_are_not_genes(text):
    assert genes(text) == []


def test_a_text_in_capitals_has_genes_only_where_digits_tell():
    assert genes("THE EGFR AND THE KIT WERE FOUND WITH BRCA1") == [("BRCA1", "BRCA1")]
    assert [name for name, _ in genes("the EGFR and the KIT were found with BRCA1")] == ["EGFR", "KIT", "BRCA1"]


@given(st.text(st.sampled_from("TP53 IL-6/akt EGFR,becausethus\n—é"), max_size=60))
def test_spans_are_ordered_apart_and_inside_the_text(text):
    for spans in ([span[:2] for span in gene_spans(text)], connective_spans(text)):
        ends = [0, *(x for span in spans for x in span), len(text)]
        assert ends == sorted(ends)
        assert all(first < last for first, last in spans)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("This leads  to\nharm, AS A RESULT of it", ["leads  to", "AS A RESULT"]),
        ("due to; undue tombs; thusly; enthusiasm", ["due to"]),
        ("up-regulated, upregulated and self-regulated", ["up-regulated", "upregulated"]),
        ("p53-mediated apoptosis is mediated by BAX", ["mediated"]),
        ("because-of", []),
        ("AKT1 phosphorylates FOXO3 downstream of PI3K", ["phosphorylates", "downstream of"]),
        ("through the MAPK and PI3K pathway, via the cell", ["through the MAPK and PI3K pathway", "via"]),
    ],
)
def test_connectives_are_whole_words_and_the_longest(text, expected):
    assert [text[first:last] for first, last in connective_spans(text)] == expected


def test_the_list_of_connectives_has_a_version_and_45_indicators():
    lines = Path(tagging.__file__).with_name("causal_connectives.txt").read_text().splitlines()
    entries = [line for line in lines if line and not line.startswith("#")]
    forms = [form.strip() for line in entries for form in line.split("|")]
    assert lines[0].endswith(f"version {connectives_version()}")
    assert len(entries) == 45
    assert len(set(forms)) == len(forms)
    for form in forms:  # each is found, whole, in a sentence
        text = f"It was {form} something."
        assert [text[a:b] for a, b in connective_spans(text)] == [form]


offsets_of = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 8)).map(lambda p: (p[0], p[0] + p[1])), max_size=12)


@given(offsets_of, offsets_of, offsets_of)
def test_tags_equal_a_naive_program(offsets, entities, connectives):
    def meets(token, spans):
        return any(set(range(*token)) & set(range(*span)) for span in spans)

    expected = [ENTITY if meets(o, entities) else CONNECTIVE if meets(o, connectives) else OTHER for o in offsets]
    assert tag_tokens(offsets, entities, connectives).tolist() == expected


@pytest.mark.parametrize("spec", ["gene", "spacy:", ""])
def test_unknown_taggers_are_named(spec):
    with pytest.raises(UnknownNameError, match="spacy:MODEL"):
        load_tagger(spec)


def test_a_spacy_model_gives_all_its_entities(monkeypatch):
    document = types.SimpleNamespace(ents=[types.SimpleNamespace(start_char=3, end_char=9)])
    monkeypatch.setitem(sys.modules, "spacy", types.SimpleNamespace(load=lambda name: lambda text: document))
    assert load_tagger("spacy:en_core_sci_sm")("of asthma") == [(3, 9)]
    monkeypatch.setitem(sys.modules, "spacy", None)
    with pytest.raises(BftembedError, match="pip install spacy"):
        load_tagger("spacy:en_core_sci_sm")

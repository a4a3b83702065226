"""Tags of tokens: genes that are genes, connectives that are words, and offsets that carry both."""

from __future__ import annotations

import importlib.resources
import sys
import types

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bftembed.errors import BftembedError, UnknownNameError
from bftembed.tuning.data import Conversation, Turn
from bftembed.tuning.encoding import IGNORED, Encoded
from bftembed.tuning.tagging import (
    CONNECTIVE,
    ENTITY,
    OTHER,
    connective_spans,
    connectives_version,
    count_connectives,
    count_entities,
    gene_spans,
    load_tagger,
    responses,
    tag_tokens,
)


def genes(text):
    return [(text[first:last], symbol) for first, last, symbol in gene_spans(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Loss of TP53 and of p53 in mice.", [("TP53", "TP53"), ("p53", "TP53")]),
        ("BRCA1-mutated tumours, CDK4/CDK6 and (EGFR).", [("BRCA1", "BRCA1"), ("CDK4", "CDK4"), ("CDK6", "CDK6"),
                                                          ("EGFR", "EGFR")]),
        ("IL-6 and Bcl-2 rise", [("IL-6", "IL6"), ("Bcl-2", "BCL2")]),
        ("HLA-DRB1*04 is an allele", [("HLA-DRB1", "HLA-DRB1")]),
        ("AKT and ERK signalling through VEGF", [("AKT", "AKT1"), ("ERK", "ERK"), ("VEGF", "VEGFA")]),
    ],
)  # fmt: skip
def test_genes_are_found_as_they_are_written(text, expected):
    found = genes(text)
    assert [name for name, _ in found] == [name for name, _ in expected]
    for (name, symbol), (_, wanted) in zip(found, expected, strict=True):
        assert symbol in (wanted, name)


@pytest.mark.parametrize(
    "text",
    [
        "The mice WAS the IMPACT of a SET of CAT scans at REST, with MAX LIGHT.",
        "MRI, CPAP, COPD, ANOVA, IVF, UTI and PSA are abbreviations of the clinic.",
        "the cat was set to rest; a large impact on mass and type",
        "akt, egfr and brca1 in lower case, tp53 too",
        "Between 18-24 and 225 of 3635 patients (52/100) in 1998.",
        "A GPCR, the RISC complex, vitamin B12 and GPI-anchored proteins.",
        "xTP53y and aTP53 are other words",
        "",
    ],
)
def test_ordinary_words_and_abbreviations_are_no_genes(text):
    assert genes(text) == []


def test_a_text_in_capitals_has_genes_only_where_digits_tell():
    assert genes("THE EGFR AND THE KIT WERE FOUND WITH BRCA1") == [("BRCA1", "BRCA1")]
    assert [name for name, _ in genes("the EGFR and the KIT were found with BRCA1")] == ["EGFR", "KIT", "BRCA1"]


def test_entities_are_counted_once_and_connectives_each_time():
    text = "TP53 (also p53) activates CDKN1A; therefore TP53 loss, because of it, leads to growth. Thus: therefore."
    assert count_entities(text) == {"TP53", "CDKN1A"}
    assert count_connectives(text) == 6
    assert count_entities("nothing here") == set()
    assert count_connectives("") == 0


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
    ],
)
def test_connectives_are_whole_words_and_the_longest(text, expected):
    assert [text[first:last] for first, last in connective_spans(text)] == expected


def test_the_list_of_connectives_has_a_version_and_45_indicators():
    lines = (importlib.resources.files("bftembed.tuning") / "causal_connectives.txt").read_text().splitlines()
    entries = [line for line in lines if line and not line.startswith("#")]
    forms = [form.strip() for line in entries for form in line.split("|")]
    assert lines[0].endswith(f"version {connectives_version()}")
    assert len(entries) == 45
    assert len(set(forms)) == len(forms)
    for form in forms:  # each is found, whole, in a sentence
        text = f"It was {form} something."
        assert [text[a:b] for a, b in connective_spans(text)] == [form]


def test_tags_reach_all_pieces_of_a_word():
    text = "BRCA1 is lost due to TP53"
    offsets = [(0, 2), (2, 5), (5, 8), (8, 13), (13, 17), (17, 20), (20, 23), (23, 25), (25, 25)]
    tags = tag_tokens(offsets, [(0, 5), (21, 25)], [(14, 20)])
    assert text[14:20] == "due to"
    assert tags.tolist() == [ENTITY, ENTITY, OTHER, OTHER, CONNECTIVE, CONNECTIVE, ENTITY, ENTITY, OTHER]


def test_an_entity_goes_before_a_connective():
    assert tag_tokens([(0, 4), (4, 8)], [(2, 3)], [(0, 8)]).tolist() == [ENTITY, CONNECTIVE]
    assert tag_tokens([], [], []).tolist() == []


offsets_of = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 8)).map(lambda p: (p[0], p[0] + p[1])), max_size=12)


@given(offsets_of, offsets_of, offsets_of)
def test_tags_equal_a_naive_program(offsets, entities, connectives):
    def meets(token, spans):
        return any(set(range(*token)) & set(range(*span)) for span in spans)

    expected = [ENTITY if meets(o, entities) else CONNECTIVE if meets(o, connectives) else OTHER for o in offsets]
    assert tag_tokens(offsets, entities, connectives).tolist() == expected


# ---- the text under labels


@pytest.fixture(scope="module")
def tokenizer():
    tokenizers = pytest.importorskip("tokenizers")
    transformers = pytest.importorskip("transformers")
    core = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token=None))
    core.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, special_tokens=["<end>"])
    core.train_from_iterator(["the gene TP53 leads to growth"] * 9, trainer)
    return transformers.PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<end>")


def encoded(tokenizer, *turns):
    ids, labels = [], []
    for role, text in turns:
        tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
        tokens += [tokenizer.eos_token_id] if role == "assistant" else []
        ids += tokens
        labels += tokens if role == "assistant" else [IGNORED] * len(tokens)
    return Encoded("pairs.jsonl:3", ids, labels)


def conversation(*turns):
    return Conversation("pairs.jsonl:3", tuple(Turn(role, text) for role, text in turns))


def test_each_answer_is_found_with_its_offsets(tokenizer):
    turns = (("user", "ask"), ("assistant", "TP53 leads to growth é"), ("user", "more"), ("assistant", "the gene"))
    row = encoded(tokenizer, *turns)
    found = responses(conversation(*turns), row, tokenizer)
    learnt = [label for label in row.labels if label != IGNORED]
    assert [r.text for r in found] == ["TP53 leads to growth é", "the gene"]
    for r in found:
        assert r.where == "pairs.jsonl:3"
        part = learnt[r.start : r.start + len(r.offsets)]
        assert tokenizer.decode(part) == r.text
        assert learnt[r.start + len(r.offsets)] == tokenizer.eos_token_id
        assert {i for first, last in r.offsets for i in range(first, last)} == set(range(len(r.text)))
    tags = tag_tokens(found[0].offsets, [(0, 4)], [(5, 13)])
    marked = [found[0].text[a:b].strip() for (a, b), tag in zip(found[0].offsets, tags, strict=True) if tag == ENTITY]
    assert "".join(marked) == "TP53"


def test_an_answer_that_the_template_stripped_is_found(tokenizer):
    row = encoded(tokenizer, ("user", "ask"), ("assistant", "the gene"))
    found = responses(conversation(("user", "ask"), ("assistant", "  the gene\n")), row, tokenizer)
    assert [r.text for r in found] == ["the gene"]


def test_labels_of_another_text_and_cut_rows_are_errors(tokenizer):
    row = encoded(tokenizer, ("user", "ask"), ("assistant", "the gene"))
    with pytest.raises(BftembedError, match=r"pairs.jsonl:3: the labels are not the tokens"):
        responses(conversation(("user", "ask"), ("assistant", "other words")), row, tokenizer)
    cut = Encoded(row.where, row.input_ids[:-1], row.labels[:-1])
    with pytest.raises(BftembedError, match=r"pairs.jsonl:3"):
        responses(conversation(("user", "ask"), ("assistant", "the gene")), cut, tokenizer)
    with pytest.raises(BftembedError, match="gives no offsets"):
        responses(conversation(("user", "a"), ("assistant", "b")), row, types.SimpleNamespace(is_fast=False))


# ---- taggers


def test_the_tagger_of_genes_gives_spans():
    assert load_tagger("genes")("of TP53") == [(3, 7)]


@pytest.mark.parametrize("spec", ["gene", "spacy:", "spacy", "", "genes:x"])
def test_unknown_taggers_are_named(spec):
    with pytest.raises(UnknownNameError, match="spacy:MODEL"):
        load_tagger(spec)


def test_spacy_that_is_not_installed_is_an_error_with_the_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "spacy", None)
    with pytest.raises(BftembedError, match="pip install spacy"):
        load_tagger("spacy:en_core_sci_sm")


def fake_spacy(monkeypatch, assigns=(), error=None):
    class Pipeline:
        pipe_names = ("first",)

        def get_pipe_meta(self, name):
            return types.SimpleNamespace(assigns=assigns)

        def __call__(self, text):
            at = text.index("asthma")
            return types.SimpleNamespace(ents=[types.SimpleNamespace(start_char=at, end_char=at + 6)])

    def load(name):
        if error:
            raise error
        return Pipeline()

    module = types.ModuleType("spacy")
    module.load = load
    monkeypatch.setitem(sys.modules, "spacy", module)


def test_a_spacy_model_gives_all_its_entities(monkeypatch):
    fake_spacy(monkeypatch, ["doc.ents", "token.ent_iob"])
    assert load_tagger("spacy:en_core_sci_sm")("of asthma") == [(3, 9)]


def test_a_real_spacy_pipeline_gives_its_entities(tmp_path):
    spacy = pytest.importorskip("spacy")
    pipeline = spacy.blank("en")
    with pytest.raises(BftembedError, match="finds no entities"):
        pipeline.to_disk(tmp_path / "blank")
        load_tagger(f"spacy:{tmp_path / 'blank'}")
    pipeline.add_pipe("entity_ruler").add_patterns([{"label": "DISEASE", "pattern": "asthma"}])
    pipeline.to_disk(tmp_path / "ruled")
    assert load_tagger(f"spacy:{tmp_path / 'ruled'}")("of asthma") == [(3, 9)]
    with pytest.raises(BftembedError, match="pip install scispacy"):
        load_tagger("spacy:en_core_sci_none")


def test_a_spacy_model_that_is_missing_or_has_no_entities_is_an_error(monkeypatch):
    fake_spacy(monkeypatch, error=OSError("[E050] Can't find model 'en_core_sci_sm'."))
    with pytest.raises(BftembedError, match=r"E050.*pip install scispacy"):
        load_tagger("spacy:en_core_sci_sm")
    fake_spacy(monkeypatch, ["token.tag"])
    with pytest.raises(BftembedError, match="finds no entities"):
        load_tagger("spacy:en_core_sci_sm")

"""Prompts are versioned text; a key changes if and only if something that decides the text changes."""

from __future__ import annotations

import pytest

from bftembed.errors import BftembedError, UnknownNameError
from bftembed.io import canonical_json, sha256_text
from bftembed.llm.runner import Keys
from bftembed.profiles.generate import PROMPTS, _profile_key, get_prompt, read_context

#: A changed wording needs a new version: then add its hash here, never change one.
WORDINGS = {
    "bft-gene@1": "0bc052",
    "bft-protein@1": "dd067d",
    "bft-cell-type@1": "4197bc",
    "bft-drug@1": "b35f17",
}


def test_the_wording_of_a_released_version_never_changes():
    found = {p.id: sha256_text(canonical_json(p.messages("X", ("A", "B"))))[:6] for p in PROMPTS.values()}
    assert found == WORDINGS


def test_braces_in_a_name_are_data():
    assert "{name} {0} {genes}" in get_prompt(None, "gene").messages("{name} {0} {genes}")[1]["content"]


def test_unknown_or_unfit_prompts_are_errors(tmp_path):
    with pytest.raises(UnknownNameError, match="Did you mean 'bft-gene'"):
        get_prompt("bft-gen", "gene")
    with pytest.raises(BftembedError, match="for kind 'gene'"):
        get_prompt("bft-gene", "protein")
    for text in ("user: Tell me of {nam} and {name}.", "user: Tell me.", "{", "- name", "usr: '{name}'"):
        (tmp_path / "own.yaml").write_text(text)
        with pytest.raises(BftembedError, match=r"own\.yaml"):
            get_prompt(str(tmp_path / "own.yaml"), "gene")


def test_a_context_is_passed_on_where_there_is_a_place_for_it():
    _, user = get_prompt(None, "drug").messages("imatinib", context="given for {name} CML")
    assert user["content"].endswith("effects on cells. Context: given for {name} CML")
    assert get_prompt(None, "cell-type").messages("B cell")[1]["content"] == "Tell me about the cell type B cell."
    with pytest.raises(BftembedError, match="no place for a context"):
        get_prompt(None, "gene").messages("TP53", context="in liver")


@pytest.mark.parametrize("rows", ["B cell\n", "B cell\tblood\textra\n", "B cell\tblood\nB  cell\tliver\n", "\tblood\n"])
def test_a_table_of_contexts_has_a_name_and_one_text_per_row(tmp_path, rows):
    (tmp_path / "c.tsv").write_text(f"T cell\t a text, with a comma \n\n{rows}")
    with pytest.raises(BftembedError, match="line [34]"):
        read_context(tmp_path / "c.tsv")
    (tmp_path / "c.tsv").write_text("T  cell\t a text, with a comma \n\n")
    assert read_context(tmp_path / "c.tsv") == {"T cell": "a text, with a comma"}


BASE = {
    "entity": "TP53",
    "kind": "gene",
    "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}],
    "fingerprint": {"engine": "x", "sampling": {"temperature": 0.0}},
}


@pytest.mark.parametrize(
    "change",
    [
        {"entity": "TP63"},
        {"kind": "protein"},
        {"messages": [BASE["messages"][0], {"role": "user", "content": "u "}]},
        {"fingerprint": {"engine": "x", "sampling": {"temperature": 0.1}}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_changed_field_changes_the_key(change):
    assert _profile_key(**BASE | change) != _profile_key(**BASE)


def test_a_key_is_that_of_earlier_versions():
    assert _profile_key(**BASE) == "6c99b593fc2877aecc59d051778ec39da320225b6af5ed9c48c0ed7f95cd7e5e"


def test_compact_keys_are_a_sequence_of_the_keys():
    keys = [sha256_text(str(i)) for i in range(5)]
    compact = Keys(keys)
    assert (list(compact), len(compact), compact[-1]) == (keys, 5, keys[4])
    assert keys[2] in compact
    with pytest.raises(IndexError):
        compact[5]

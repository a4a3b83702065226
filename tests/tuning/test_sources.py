"""Pairs out of public data: what is read, what is skipped, and what is refused with a reason."""

from __future__ import annotations

import gzip
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bftembed.errors import BftembedError, UnknownNameError
from bftembed.tuning.sources import gene_texts, is_pubmedqa, pubmedqa

ENTRY = {"QUESTION": "Is it?", "CONTEXTS": ["First.", "Second."], "LONG_ANSWER": "It is.", "YEAR": "2011"}


def write(path, text, packed=False):
    data = text if isinstance(text, bytes) else text.encode()
    path.write_bytes(gzip.compress(data) if packed else data)
    return path


def turns(conversation):
    return [(t.role, t.content) for t in conversation.turns]


@pytest.mark.parametrize("packed", [False, True])
def test_pubmedqa_asks_with_the_abstract_and_answers_with_its_end(tmp_path, packed):
    entries = {"12": ENTRY, "7": ENTRY | {"LONG_ANSWER": " "}, "8": ENTRY | {"QUESTION": "Why?"}}
    file = write(tmp_path / ("q.json.gz" if packed else "q.json"), json.dumps(entries), packed)
    found = pubmedqa(file)
    assert [c.where for c in found] == [f"{file.name}:12", f"{file.name}:8"]
    assert turns(found[0]) == [("user", "Is it?\n\nFirst.\n\nSecond."), ("assistant", "It is.")]
    assert is_pubmedqa(file)


def test_pubmedqa_as_it_is_published(shared_data):
    found = pubmedqa(shared_data("pubmedqa/ori_pqal.json.gz"))
    assert len(found) == 1000
    assert found[0].where == "ori_pqal.json.gz:21645374"
    assert found[0].turns[0].content.startswith("Do mitochondria play a role")
    assert found[0].turns[1].content.startswith("Results depicted mitochondrial dynamics")


@pytest.mark.parametrize("value", [[], [1], {}, {"a": 1}, {"a": {"x": 1}}, "text", None])
def test_other_json_is_not_taken_for_pubmedqa(tmp_path, value):
    file = write(tmp_path / "x.json", json.dumps(value))
    assert not is_pubmedqa(file)
    with pytest.raises(BftembedError, match=r"x\.json"):
        pubmedqa(file)


@pytest.mark.parametrize(
    "change", [{"CONTEXTS": "text"}, {"CONTEXTS": [1]}, {"LONG_ANSWER": None}, {"QUESTION": 3}, {"CONTEXTS": None}]
)
def test_an_entry_of_another_form_is_named(tmp_path, change):
    file = write(tmp_path / "q.json", json.dumps({"1": ENTRY, "99": ENTRY | change}))
    with pytest.raises(BftembedError, match=r"q\.json:99 is no entry of PubMedQA.*LONG_ANSWER.*found 'QUESTION'"):
        pubmedqa(file)


def test_pubmedqa_without_answers_is_an_error(tmp_path):
    file = write(tmp_path / "q.json", json.dumps({"1": ENTRY | {"LONG_ANSWER": ""}}))
    with pytest.raises(BftembedError, match="None of the 1 entries"):
        pubmedqa(file)


TABLE = 'id\tsymbol\tsummary\n1\tTP53\tA "guardian".\n2\tEGFR\t\n3\t\tNo name.\n4\tKIT\tA kinase, here.\n'


@pytest.mark.parametrize("packed", [False, True])
def test_rows_of_genes_become_pairs(tmp_path, packed):
    file = write(tmp_path / ("g.tsv.gz" if packed else "g.tsv"), TABLE, packed)
    found = gene_texts(file)
    assert [c.where for c in found] == [f"{file.name}:2", f"{file.name}:5"]
    assert turns(found[0]) == [("user", "Tell me about the gene TP53."), ("assistant", 'A "guardian".')]
    assert [c.turns[1].content for c in gene_texts(file, leave_out={"TP53"})] == ["A kinase, here."]
    assert gene_texts(file, prompt="{name}? {name}!")[0].turns[0].content == "TP53? TP53!"
    assert (
        gene_texts(file, entity="id", text="symbol")[1].turns == gene_texts(file, entity="id", text="symbol")[1].turns
    )


def test_a_csv_may_quote_commas_and_line_breaks(tmp_path):
    file = write(tmp_path / "g.csv", 'symbol,summary\r\nTP53,"One, two\nthree ""four"""\r\nKIT,five\r\n')
    found = gene_texts(file)
    assert [c.turns[1].content for c in found] == ['One, two\nthree "four"', "five"]
    assert [c.where for c in found] == ["g.csv:2", "g.csv:4"]


cells = st.text(st.characters(blacklist_characters="\t\r\n\0", blacklist_categories=("Cs",)), max_size=12)


@given(st.lists(st.tuples(cells, cells), min_size=1, max_size=8))
def test_every_row_with_name_and_text_is_kept_as_it_is(tmp_path_factory, rows):
    file = tmp_path_factory.mktemp("t") / "g.tsv"
    write(file, "symbol\tsummary\n" + "".join(f"{a}\t{b}\n" for a, b in rows))
    expected = [(a.strip(), b.strip()) for a, b in rows if a.strip() and b.strip()]
    if not expected:
        with pytest.raises(BftembedError, match="leaves no row"):
            gene_texts(file)
        return
    assert [tuple(t.content for t in c.turns) for c in gene_texts(file, prompt="{name}")] == expected


def test_the_published_summaries(shared_data):
    found = gene_texts(shared_data("gene_text/refseq_gene_summary_human.tsv.gz"))
    assert len(found) == 15085
    assert found[0].turns[0].content == "Tell me about the gene A1BG."


def test_an_unknown_column_is_answered_with_the_nearest(tmp_path):
    file = write(tmp_path / "g.tsv", TABLE)
    with pytest.raises(UnknownNameError, match=r"column 'sumary' in .*g\.tsv.*Did you mean 'summary'"):
        gene_texts(file, text="sumary")
    with pytest.raises(UnknownNameError, match="'gene_symbol'"):
        gene_texts(file, entity="gene_symbol")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("g.tsv", "symbol\tsummary\tsummary\nA\tb\tc\n", "2 columns called 'summary'"),
        ("g.tsv", "symbol\tsummary\nA\tb\tc\n", r"g\.tsv, line 2: 3 cells"),
        ("g.tsv", "symbol\tsummary\nA\tb\n\nC\n", r"line 4: 1 cells"),
        ("g.tsv", "symbol\tsummary\n", "leaves no row"),
        ("g.tsv", "", "Unknown column 'symbol'"),
        ("g.csv", 'symbol,summary\nA,"b\n', r"line 2.*quotation mark"),
        ("g.tsv", b"symbol\tsummary\nA\t\xff\n", r"not UTF-8 at byte 17 \(line 2\)"),
        ("g.tsv.gz", b"no gzip", "damaged gzip"),
        ("g.tsv.gz", gzip.compress(b"symbol\tsummary\nA\tb\n", mtime=0)[:-9], "damaged gzip"),
        ("q.json", b"{", "is not JSON"),
        ("q.json", b"[" * 100_000, "is not JSON"),
    ],
)
def test_damaged_files_are_named(tmp_path, name, content, words):
    file = write(tmp_path / name, content)
    with pytest.raises(BftembedError, match=words) as caught:
        pubmedqa(file) if name.endswith(".json") else gene_texts(file)
    assert name in str(caught.value)


def test_missing_files_and_bombs_are_refused(tmp_path, monkeypatch):
    for read in (pubmedqa, gene_texts, is_pubmedqa):
        with pytest.raises(BftembedError, match=r"No such data file: .*nothing"):
            read(tmp_path / "nothing.json.gz")
    with pytest.raises(BftembedError, match="cannot be read"):
        gene_texts(tmp_path)
    monkeypatch.setattr("bftembed.tuning.sources._MOST_BYTES", 50)
    with pytest.raises(BftembedError, match="more than 50 bytes"):
        gene_texts(write(tmp_path / "g.tsv.gz", TABLE, packed=True))


def test_a_prompt_has_to_name_the_gene(tmp_path):
    with pytest.raises(BftembedError, match=r"\{name\}"):
        gene_texts(write(tmp_path / "g.tsv", TABLE), prompt="Tell me.")

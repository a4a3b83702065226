"""Lists of names from text, tables and typed strings: nothing lost without a count, every bad file named."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bftembed.entities import lists
from bftembed.entities.genes import GeneIndex
from bftembed.entities.lists import NameList, read_names
from bftembed.errors import BftembedError, UnknownNameError


@pytest.fixture
def written(tmp_path):
    def write(content: str | bytes, name: str = "genes.txt") -> Path:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


def test_list_keeps_order_and_counts_what_it_drops(written):
    path = written("TP53\n\nEGFR\nTP53\n  \n# a comment\n  # another\nTP53\nMYC")
    assert read_names(path) == NameList(("TP53", "EGFR", "MYC"), 5, {"TP53": 2}, 2, str(path))


def test_names_in_python():
    names = read_names(["TP53", " EGFR ", "", None, float("nan"), "TP53"])
    assert names == NameList(("TP53", "EGFR"), 3, {"TP53": 1}, 3, "list")
    assert read_names(n for n in ("A", "B")).names == ("A", "B")


@given(st.lists(st.text(max_size=5)))
def test_no_name_of_a_list_is_lost(names):
    filled = [n.strip() for n in names if n.strip()]
    if not filled:
        with pytest.raises(BftembedError, match="holds no names"):
            read_names(names)
        return
    result = read_names(names)
    assert result.names == tuple(dict.fromkeys(filled))
    assert result.n_read == len(filled) == len(result.names) + sum(result.duplicates.values())
    assert result.n_read + result.blank == len(names)


def test_names_typed_with_commas(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert read_names("TP53,EGFR, MYC").names == ("TP53", "EGFR", "MYC")
    assert read_names("TP53").names == ("TP53",)
    assert read_names("RP11-390E23.6,ENSG00000141510.17").names == ("RP11-390E23.6", "ENSG00000141510.17")


def test_file_wins_over_a_name_spelt_like_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("TP53").write_text("EGFR\n")
    assert read_names("TP53").names == ("EGFR",)


@pytest.mark.parametrize("name", ["genes.txt", "x.h5ad", "list.tsv.gz", "../x", "C:\\x"])
def test_missing_file_is_not_taken_for_a_name(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BftembedError, match="No such file: "):
        read_names(name)
    with pytest.raises(BftembedError, match="No such file: "):
        read_names(Path(name))


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_line_ends_and_byte_order_marks_do_not_stick_to_names(written, ending, encoding):
    for final in ("", ending):
        names = read_names(written((ending.join(["TP53", "", "PKCα"]) + final).encode(encoding)))
        assert (names.names, names.blank) == (("TP53", "PKCα"), 1)


@pytest.mark.parametrize("content", ["", "\n\n", "\ufeff", "# only\n# comments\n", "gene\n\n"])
@pytest.mark.parametrize("name", ["genes.txt", "genes.csv"])
def test_file_without_names_is_refused_by_name(written, content, name):
    with pytest.raises(BftembedError, match=f"{name} holds no names"):
        read_names(written(content, name))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"TP53\nPKC\xe4\n", "UTF-8"),
        (b"PK\x03\x04rest", "Excel workbook"),
        (gzip.compress(b"TP53\n" * 1000, mtime=0)[:-12], "cannot be read"),
        (b"\x1f\x8bnot gzip", "cannot be read"),
        (b'gene,note\nTP53,"open\nEGFR,2\nMYC,3\n', "cannot be read"),
    ],
    ids=["Latin-1", "damaged workbook", "truncated gzip", "no gzip", "open quotation mark"],
)
def test_damaged_file_or_one_of_another_kind_is_named(written, content, message):
    with pytest.raises(BftembedError, match=f"genes.csv.*{message}"):
        read_names(written(content, "genes.csv"))


def test_a_workbook_is_read_by_its_first_sheet(tmp_path):
    pytest.importorskip("openpyxl")
    import pandas as pd

    path = tmp_path / "genes.xlsx"
    pd.DataFrame({"score": [1, 2, 3], "symbol": ["TP53", "NA", None]}).to_excel(path, index=False)
    assert read_names(path) == NameList(("TP53", "NA"), 2, {}, 1, str(path), "symbol")


@pytest.mark.parametrize("name", ["genes.txt.gz", "genes"])
def test_compressed_text_is_read_whatever_its_name(written, name):
    packed = gzip.compress(b"TP53\n") + gzip.compress(b"EGFR\n")
    assert read_names(written(packed, name)).names == ("TP53", "EGFR")


def test_file_too_large_for_a_list_is_refused_packed_and_unpacked(written, monkeypatch):
    monkeypatch.setattr(lists, "_MAX_BYTES", 1000)
    with pytest.raises(BftembedError, match="more than 1,000 bytes"):
        read_names(written("TP53\n" * 500))
    with pytest.raises(BftembedError, match="more than 1,000 bytes"):
        read_names(written(gzip.compress(b"TP53\n" * 100_000)))
    assert read_names(written(gzip.compress(b"TP53\n" * 200))).n_read == 200


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "gene,score\nTP53,1\nEGFR,2\n"),
        ("a.tsv", "score\tGene Symbol\n1\tTP53\n2\tEGFR\n"),
        ("a.txt", "gene_name\tscore\nTP53\t1\nEGFR\t2\n"),
        ("a.txt", "gene,score\nTP53,1\nEGFR,2\n"),
        ("a.csv", "score;symbol\n1;TP53\n2;EGFR\n"),
        ("a.csv", '# made by hand\n\n"gene","score"\r\n"TP53","1, one"\r\nEGFR,2\r\n'),
        ("a.csv", "TP53\nEGFR\n"),
        ("a.csv", '"x"\n"TP53"\n"EGFR"\n'),
        ("a.txt", '"TP53"\n"EGFR"\n'),
        ("a.tab", ",name\tensembl_id\n1\tTP53\n2\tEGFR\n"),
    ],
)
def test_table_or_text_gives_its_names(written, name, content):
    assert read_names(written(content, name)).names == ("TP53", "EGFR")


def test_column_is_chosen_by_name(written):
    path = written("symbol,ensembl_id\nTP53,ENSG1\nEGFR,\n,ENSG3\nMYC\n", "a.csv")
    names = read_names(path, column="ensembl_id")
    assert names == NameList(("ENSG1", "ENSG3"), 2, {}, 2, str(path), "ensembl_id")


def test_column_that_has_to_be_chosen_lists_the_columns(written):
    with pytest.raises(BftembedError, match=r"'symbol', 'ensembl_id' all could.*'symbol', 'ensembl_id', 'score'"):
        read_names(written("symbol,ensembl_id,score\nTP53,E,1\n", "a.csv"))
    with pytest.raises(BftembedError, match=r"none is called gene or symbol.*'left', 'right'"):
        read_names(written("left\tright\nTP53\t1\n", "a.txt"))


def test_unknown_column_suggests_the_nearest(written):
    with pytest.raises(UnknownNameError, match="Did you mean 'symbol'"):
        read_names(written("symbol,score\nTP53,1\n", "a.csv"), column="symbl")


def test_column_of_a_plain_list_is_refused_unless_it_heads_the_list(written):
    assert read_names(written("gene\nTP53\n"), column="gene").names == ("TP53",)
    with pytest.raises(UnknownNameError):
        read_names(written("TP53\nEGFR\n"), column="gene")
    with pytest.raises(BftembedError, match="in a table or a h5ad only"):
        read_names(["TP53"], column="gene")


def test_header_words_are_no_gene_names():
    words = ["gene", "genes", "symbol", "gene_name", "feature", "ensembl", "entrez", "accession", "protein", "adt"]
    words += ["name", "names", "id", "x", "marker", "target", "antibody", "uniprot"]
    assert {r.status for w in words for r in GeneIndex.default().resolve([w, w.upper()])} == {"missing"}

"""Parsers of public files: the real ones, genes called NA, and every way a file can be broken."""

from __future__ import annotations

import gzip

import pytest

from bftembed.datasets import parsers
from bftembed.datasets.reading import read_text
from bftembed.errors import BftembedError

DOSAGE = "ensembl_id,gene_name,dosage_insensitive,dosage_sensitive\nE1,A,Yes,\nE2,NA,,Yes\nE3,B,Yes,\n"
HURI = "Ensembl_gene_id_a\tEnsembl_gene_id_b\tin_HuRI\tin_Yu\nE1\tE2\t1\t0\nE1\tE3\t0\t1\nE4\tE4\t1\t1\n"

#: A small right file for every parser, and what comes out.
RIGHT = {
    "parse_dosage_cx0": (DOSAGE, parsers.LabelLists(["E2"], ["E1", "E3"])),
    "parse_dosage_canonical": (
        "dosage_sensitive,dosage_insensitive\nE1,E2\n,E3\n",
        parsers.LabelLists(["E1"], ["E2", "E3"]),
    ),
    "parse_tf_range": (
        '"","score","assignment"\n"NA",1,"long-range TF"\n"B",2,"short-range TF"\n"C",2,"NA"\n',
        parsers.LabelLists(["NA"], ["B"]),
    ),
    "parse_id_list": ("NA\r\nTP53\r\n\r\nTP53", ["NA", "TP53", "TP53"]),
    "parse_biotypes": (
        "ensembl_id,gene_name,gene_type\nE1,NAN,lncRNA\nE2,,miRNA\n",
        [("E1", "NAN", "lncRNA"), ("E2", "", "miRNA")],
    ),
    "parse_gmt": ("set1\tA, set\t7157\t1956\nset2\t\tNA\n", {"set1": ["7157", "1956"], "set2": ["NA"]}),
    "parse_pairs": ("NA NAN\nTP53 EGFR\n", [("NA", "NAN"), ("TP53", "EGFR")]),
    "parse_pair_labels": ("0\n1\n1\n", [0, 1, 1]),
    "parse_huri": (HURI, [("E1", "E2"), ("E4", "E4")]),
    "parse_huri_space": ("Ensembl_gene_id\tin_space_3\nE1\t1\nE2\t0\n", ["E1"]),
    "parse_summaries": (
        "entrez_id\tsymbol\treview_status\tsummary\n1\tNA\tR\tA \"quoted text, 5' end.\n2\tB\tR\t\n",
        {"NA": "A \"quoted text, 5' end."},
    ),
    "parse_descriptions": ("symbol\ttext\nNA\tEnables.\n", {"NA": "Enables."}),
    "parse_go_terms": (
        'GO,Genes,Gene_Count,Term_Description\nGO:0033683,NA XPA,2,"repair, DNA incision"\n',
        [parsers.GoTerm("GO:0033683", ["NA", "XPA"], "repair, DNA incision")],
    ),
}


def written(tmp_path, text, name="file.txt"):
    path = tmp_path / name
    data = text if isinstance(text, bytes) else text.encode()
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return path


@pytest.mark.parametrize("parser", RIGHT)
@pytest.mark.parametrize("name", ["file.txt", "file.txt.gz"])
def test_a_right_file_is_read_plain_and_gzipped(tmp_path, parser, name):
    text, expected = RIGHT[parser]
    assert getattr(parsers, parser)(written(tmp_path, text, name)) == expected


@pytest.mark.parametrize("parser", RIGHT)
@pytest.mark.parametrize("changed", [lambda t: "\ufeff" + t, lambda t: t.replace("\r", "").replace("\n", "\r\n")])
def test_byte_order_marks_and_windows_lines_change_nothing(tmp_path, parser, changed):
    text, expected = RIGHT[parser]
    assert getattr(parsers, parser)(written(tmp_path, changed(text))) == expected


def test_every_parser_has_a_right_file():
    assert set(RIGHT) == {name for name in vars(parsers) if name.startswith("parse_")}


@pytest.mark.parametrize("parser", RIGHT)
@pytest.mark.parametrize(
    "data, name, words",
    [
        (b"", "empty.csv", "is empty"),
        (b"", "empty.csv.gz", "is empty"),
        (b" \n\n", "blank.csv", "is empty"),
        (b"a\n\x89HDF\0\0\r\n", "binary.csv", "line 2: a zero byte"),
        (b"a b\nc \xff\xfe\n", "latin.csv", "line 2: not UTF-8"),
    ],
)
def test_empty_and_binary_files_are_named(tmp_path, parser, data, name, words):
    path = written(tmp_path, data, name)
    with pytest.raises(BftembedError) as caught:
        getattr(parsers, parser)(path)
    assert str(path) in str(caught.value)
    assert words in str(caught.value)
    assert "Copy or download the file again" in str(caught.value)


@pytest.mark.parametrize("parser", RIGHT)
def test_truncated_and_false_gzip_files_are_named(tmp_path, parser):
    text, _ = RIGHT[parser]
    whole = gzip.compress(text.encode())
    for data in (whole[:-12], text.encode()):
        path = tmp_path / "file.gz"
        path.write_bytes(data)
        with pytest.raises(BftembedError, match="file.gz is a damaged gzip file"):
            getattr(parsers, parser)(path)


@pytest.mark.parametrize("parser", RIGHT)
def test_a_missing_file_and_a_folder_are_named(tmp_path, parser):
    with pytest.raises(BftembedError, match="No such data file: .*nothing.csv"):
        getattr(parsers, parser)(tmp_path / "nothing.csv")
    with pytest.raises(BftembedError, match="cannot be read"):
        getattr(parsers, parser)(tmp_path)


@pytest.mark.parametrize(
    "parser, text, words",
    [
        ("parse_dosage_cx0", "ensembl_id,gene_name\nE1,A\n", "line 1: no column 'dosage_insensitive'; it has 'ens"),
        ("parse_dosage_cx0", DOSAGE + "E4,C,Yes\n", "line 5: 3 cells, but the header has 4"),
        ("parse_dosage_cx0", DOSAGE + "E4,C,Yes,Yes\n", "line 5: exactly one of"),
        ("parse_dosage_cx0", DOSAGE + "E4,C,,\n", "line 5: exactly one of"),
        ("parse_dosage_cx0", DOSAGE + "E4,C,yes,\n", "line 5: exactly one of"),
        ("parse_dosage_cx0", DOSAGE + ",C,Yes,\n", "line 5: the name is empty"),
        ("parse_dosage_cx0", DOSAGE.partition("E2")[0], "0 positive and 1 negative"),
        ("parse_dosage_cx0", DOSAGE.partition("E1")[0], "a header and no rows"),
        ("parse_dosage_cx0", DOSAGE + '"E4,C,Yes,\n', "line 5: not a table"),
        ("parse_dosage_canonical", "dosage_sensitive\nE1\n", "no column 'dosage_insensitive'"),
        ("parse_dosage_canonical", "dosage_sensitive,dosage_insensitive\nE1,E2,E3\n", "line 2: 3 cells"),
        ("parse_dosage_canonical", "dosage_sensitive,dosage_insensitive\nE1\n", "1 positive and 0 negative"),
        ("parse_tf_range", ",score\nA,1\n", "no column 'assignment'"),
        ("parse_tf_range", ",assignment\nA,long-range TF\n", "1 positive and 0 negative"),
        ("parse_tf_range", ",assignment,assignment\nA,long-range TF,x\n", "more than one column 'assignment'"),
        ("parse_tf_range", ",assignment\nB,short-range TF\n,long-range TF\n", "line 3: the name is empty"),
        ("parse_id_list", "E1\nE2 E3\n", "line 2: one id is expected, found 'E2 E3'"),
        ("parse_id_list", "E1\nE2,E3\n", "line 2: one id is expected"),
        ("parse_biotypes", "ensembl_id,gene_name,gene_type\nE1,A,\n", "line 2: 'E1' has no gene_type"),
        ("parse_gmt", "set1\tdescription\n", "line 1: a name, a description and one gene"),
        ("parse_gmt", "set1\td\tA\t\tB\n", "line 1: a name, a description and one gene"),
        ("parse_gmt", "set1\td\tA\nset1\td\tB\n", "line 2: the set 'set1' is there a second time"),
        ("parse_pairs", "A B\nA\n", "line 2: two names are expected, found 'A'"),
        ("parse_pairs", "A B\n\nA B C\n", "line 3: two names are expected"),
        ("parse_pair_labels", "0\n2\n", "line 2: the label '2' is neither 0 nor 1"),
        ("parse_pair_labels", "0\n1 1\n", "line 2: the label '1 1' is neither"),
        ("parse_huri", HURI + "E1\tE2\tx\t0\n", "line 5: the label 'x' is neither 0 nor 1"),
        ("parse_huri", HURI + "E1\tE2\n", "line 5: 2 cells, but the header has 4"),
        ("parse_huri", HURI + "E1\t\t1\t0\n", "line 5: the name is empty"),
        ("parse_huri_space", "Ensembl_gene_id\tin_space_3\nE1\t\n", "line 2: the label '' is neither"),
        ("parse_summaries", "symbol\ttext\nA\tB\n", "no column 'summary'"),
        ("parse_descriptions", "symbol\ttext\nA\tB\nA\tC\n", "line 3: the gene 'A' is there a second time"),
        ("parse_go_terms", "GO,Genes,Gene_Count,Term_Description\nGO:1,A B,3,d\n", "line 2: 2 genes, but Gene_Count"),
        ("parse_go_terms", 'GO,Genes,Gene_Count,Term_Description\nGO:1,A,1,"d\ne"\nGO:2,,0,d\n', "line 4: 0 genes"),
    ],
)
def test_a_broken_row_is_named_with_its_line(tmp_path, parser, text, words):
    path = written(tmp_path, text)
    with pytest.raises(BftembedError) as caught:
        getattr(parsers, parser)(path)
    assert str(path) in str(caught.value)
    assert words in str(caught.value)


def test_a_file_that_unpacks_to_too_much_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("bftembed.datasets.reading._MOST_BYTES", 1000)
    with pytest.raises(BftembedError, match=r"bomb.gz holds more than 1,000 bytes unpacked"):
        read_text(written(tmp_path, "a" * 1001, "bomb.gz"))
    assert read_text(written(tmp_path, "a" * 1000, "fine.gz")) == "a" * 1000


# --- the real files


def test_real_labels_are_read(shared_data):
    dosage = parsers.parse_dosage_cx0(shared_data("gene_labels/dosage_sens_tf_labels_cx0.csv"))
    assert (len(dosage.positive), len(dosage.negative)) == (122, 368)
    assert dosage.negative[0] == "ENSG00000010539"
    factors = parsers.parse_id_list(shared_data("gene_labels/human_transcription_factors_scPEFT.txt"))
    assert len(factors) == 1639
    assert "TP53" in factors
    biotypes = parsers.parse_biotypes(shared_data("gene_labels/gene_info_table_biotypes.csv.gz"))
    assert len(biotypes) == 69_299
    assert biotypes[0] == ("ENSG00000210049", "MT-TF", "Mt_tRNA")
    assert sum(not name for _, name, _ in biotypes) == 22_493


def test_real_sets_and_texts_are_read(shared_data):
    kegg = parsers.parse_gmt(shared_data("gene_labels/ylab_KEGG_CPDB.gmt.gz"))
    assert len(kegg) == 333
    assert (min(map(len, kegg.values())), max(map(len, kegg.values()))) == (1, 531)
    assert kegg["hsa00250"][:2] == ["7915", "80150"]
    summaries = parsers.parse_summaries(shared_data("gene_text/refseq_gene_summary_human.tsv.gz"))
    assert len(summaries) == 15_085
    assert summaries["A1BG"].startswith("The protein encoded by this gene is a plasma glycoprotein")
    descriptions = parsers.parse_descriptions(shared_data("gene_text/geneagent_ontological.tsv.gz"))
    assert len(descriptions) == 4036  # one of the 4,037 has no text
    terms = parsers.parse_go_terms(shared_data("geneagent/GO_terms.csv"))
    assert len(terms) == 1000
    assert terms[2].description == "nucleotide-excision repair, DNA incision"


@pytest.mark.parametrize("part, n", [("train", 263_016), ("valid", 5568), ("test", 21_448)])
def test_real_gene_pairs_and_labels_belong_together(shared_data, part, n):
    pairs = parsers.parse_pairs(shared_data(f"pairs/gene2vec_{part}_text.txt.gz"))
    labels = parsers.parse_pair_labels(shared_data(f"pairs/gene2vec_{part}_label.txt.gz"))
    assert len(pairs) == len(labels) == n
    assert set(labels) == {0, 1}


def test_real_protein_pairs_lie_in_the_space_that_was_searched(shared_data):
    pairs = parsers.parse_huri(shared_data("pairs/huri_table11_union.tsv.gz"))
    space = parsers.parse_huri_space(shared_data("pairs/huri_table1_space3_genes.tsv.gz"))
    assert (len(pairs), len(space), len(set(space))) == (52_569, 17_408, 17_408)
    inside = sum(a in set(space) and b in set(space) for a, b in pairs[:2000])
    assert inside > 1900, inside

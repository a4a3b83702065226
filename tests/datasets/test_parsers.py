"""Parsers of public files: a small file for each, genes called NA, and the real ones."""

from __future__ import annotations

import gzip

import pytest

from bftembed.datasets import parsers

DOSAGE = "ensembl_id,gene_name,dosage_insensitive,dosage_sensitive\nE1,A,Yes,\nE2,NA,,Yes\nE3,B,Yes,\n"
HURI = "Ensembl_gene_id_a\tEnsembl_gene_id_b\tin_HuRI\tin_Yu\nE1\tE2\t1\t0\nE1\tE3\t0\t1\nE4\tE4\t1\t1\n"

#: A small right file for every parser, and what comes out.
RIGHT = {
    "dosage_cx0": (DOSAGE, parsers.LabelLists(["E2"], ["E1", "E3"])),
    "dosage_canonical": (
        "dosage_sensitive,dosage_insensitive\nE1,E2\n,E3\n",
        parsers.LabelLists(["E1"], ["E2", "E3"]),
    ),
    "tf_range": (
        '"","score","assignment"\n"NA",1,"long-range TF"\n"B",2,"short-range TF"\n"C",2,"NA"\n',
        parsers.LabelLists(["NA"], ["B"]),
    ),
    "id_list": ("NA\r\nTP53\r\n\r\nTP53", ["NA", "TP53", "TP53"]),
    "biotypes": (
        "ensembl_id,gene_name,gene_type\nE1,NAN,lncRNA\nE2,,miRNA\n",
        [("E1", "NAN", "lncRNA"), ("E2", "", "miRNA")],
    ),
    "gmt": ("set1\tA, set\t7157\t1956\nset2\t\tNA\n", {"set1": ["7157", "1956"], "set2": ["NA"]}),
    "pairs": ("NA NAN\nTP53 EGFR\n", [("NA", "NAN"), ("TP53", "EGFR")]),
    "pair_labels": ("0\n1\n1\n", [0, 1, 1]),
    "huri": (HURI, [("E1", "E2"), ("E4", "E4")]),
    "huri_space": ("Ensembl_gene_id\tin_space_3\nE1\t1\nE2\t0\n", ["E1"]),
    "summaries": (
        "entrez_id\tsymbol\treview_status\tsummary\n1\tNA\tR\tA \"quoted text, 5' end.\n2\tB\tR\t\n",
        {"NA": "A \"quoted text, 5' end."},
    ),
    "descriptions": ("symbol\ttext\nNA\tEnables.\n", {"NA": "Enables."}),
    "go_terms": (
        'GO,Genes,Gene_Count,Term_Description\nGO:0033683,NA XPA,2,"repair, DNA incision"\n',
        [parsers.GoTerm("GO:0033683", ["NA", "XPA"], "repair, DNA incision")],
    ),
}


@pytest.mark.parametrize("parser", RIGHT)
def test_a_file_is_read_plain_gzipped_and_as_windows_writes_it(tmp_path, parser):
    text, expected = RIGHT[parser]
    windows = "\ufeff" + text.replace("\r", "").replace("\n", "\r\n")
    for name, data in (("a.txt", text.encode()), ("b.gz", gzip.compress(text.encode())), ("c.txt", windows.encode())):
        (tmp_path / name).write_bytes(data)
        assert parsers.PARSERS[parser](tmp_path / name) == expected


def test_every_parser_has_a_file():
    assert set(RIGHT) == set(parsers.PARSERS)


def test_real_files_have_the_numbers_that_their_sources_state(shared_data):
    def parsed(parser, file):
        return parsers.PARSERS[parser](shared_data(file))

    dosage = parsed("dosage_cx0", "gene_labels/dosage_sens_tf_labels_cx0.csv")
    assert (len(dosage.positive), len(dosage.negative), dosage.negative[0]) == (122, 368, "ENSG00000010539")
    assert len(parsed("id_list", "gene_labels/human_transcription_factors_scPEFT.txt")) == 1639
    biotypes = parsed("biotypes", "gene_labels/gene_info_table_biotypes.csv.gz")
    assert (len(biotypes), biotypes[0]) == (69_299, ("ENSG00000210049", "MT-TF", "Mt_tRNA"))
    kegg = parsed("gmt", "gene_labels/ylab_KEGG_CPDB.gmt.gz")
    assert (len(kegg), kegg["hsa00250"][:2]) == (333, ["7915", "80150"])
    assert len(parsed("summaries", "gene_text/refseq_gene_summary_human.tsv.gz")) == 15_085
    assert len(parsed("descriptions", "gene_text/geneagent_ontological.tsv.gz")) == 4036  # one of 4,037 has no text
    assert parsed("go_terms", "geneagent/GO_terms.csv")[2].description == "nucleotide-excision repair, DNA incision"
    labels = parsed("pair_labels", "pairs/gene2vec_valid_label.txt.gz")
    assert len(parsed("pairs", "pairs/gene2vec_valid_text.txt.gz")) == len(labels) == 5568
    assert len(parsed("huri", "pairs/huri_table11_union.tsv.gz")) == 52_569
    assert len(set(parsed("huri_space", "pairs/huri_table1_space3_genes.tsv.gz"))) == 17_408

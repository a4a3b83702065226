"""The packaged HGNC table: whole, quick to load, and named by a version."""

from __future__ import annotations

import hashlib
import importlib.resources
import subprocess
import sys

from bftembed.entities.genes import GeneIndex
from bftembed.entities.hgnc import hgnc_rows, hgnc_version, listed


def test_every_row_has_nine_cells_and_its_own_symbol():
    rows = hgnc_rows()
    assert len(rows) == 43_837
    assert {len(row) for row in rows} == {9}
    assert len({row[1] for row in rows}) == len(rows)
    assert all(row[0].startswith("HGNC:") for row in rows)


def test_cells_that_look_like_missing_values_stay_text():
    rows = hgnc_rows()
    assert any("NA" in listed(row[4]) for row in rows)
    assert any("NaN" in listed(row[3]) for row in rows)


def test_cells_split_at_commas_with_and_without_space():
    assert listed("HS1-BP3,FLJ14249, X") == ("HS1-BP3", "FLJ14249", "X")
    assert listed("") == ()


def test_record_has_all_fields():
    record = GeneIndex.default().get("TP53")
    assert record is not None
    assert (record.hgnc_id, record.entrez_id, record.ensembl_gene_id) == ("HGNC:11998", "7157", "ENSG00000141510")
    assert record.uniprot_ids == ("P04637",)
    assert "p53" in record.alias_symbols
    assert record.name == "tumor protein p53"
    assert record.locus_type == "gene with protein product"
    assert GeneIndex.default().get("tp53") is None


def test_version_is_the_hash_of_the_packaged_file():
    packed = (importlib.resources.files("bftembed.entities") / "data" / "hgnc_approved.tsv.gz").read_bytes()
    assert hgnc_version() == hashlib.sha256(packed).hexdigest()[:12] == "33e392767eae"


def test_the_packaged_table_is_the_shared_one(shared_data):
    packed = (importlib.resources.files("bftembed.entities") / "data" / "hgnc_approved.tsv.gz").read_bytes()
    assert packed == shared_data("id_maps/hgnc_approved.tsv.gz").read_bytes()


def test_index_is_built_once():
    assert GeneIndex.default() is GeneIndex.default()


def test_importing_the_room_reads_nothing_and_loads_no_heavy_package():
    code = (
        "import sys, bftembed.entities.genes as g, bftembed.entities.proteins, bftembed.entities.coverage;"
        "assert g.GeneIndex.default.__func__.cache_info().currsize == 0;"
        "heavy = {'pandas', 'anndata', 'scanpy', 'torch', 'pyarrow', 'h5py', 'numpy'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

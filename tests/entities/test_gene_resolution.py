"""Gene names of every kind get an answer, in order, and nothing is mapped silently or blindly."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bftembed.entities.genes import GeneIndex, Resolution, _hgnc_rows, hgnc_version
from bftembed.entities.lists import read_names, resolve_names

INDEX = GeneIndex.default()
SYMBOLS = list(INDEX)


def one(name: str) -> Resolution:
    (resolution,) = INDEX.resolve([name])
    assert resolution.name == name
    return resolution


def row(symbol: str, *, alias: str = "", previous: str = "", number: int = 1) -> tuple[str, ...]:
    return (f"HGNC:{number}", symbol, "a gene", alias, previous, "", "", "", "gene with protein product")


@pytest.mark.parametrize(
    ("name", "symbol", "via"),
    [
        ("p53", "TP53", "alias"),
        ("MARCH1", "MARCHF1", "previous"),
        ("SEPT7", "SEPTIN7", "previous"),
        ("ENSG00000141510", "TP53", "ensembl"),
        ("ENSG00000141510.17", "TP53", "ensembl"),
        ("ENSG00000182378.15_PAR_Y", "PLCXD1", "ensembl"),
        ("HGNC:5", "A1BG", "hgnc"),
        ("7157", "TP53", "entrez"),
        ("7157.0", "TP53", "entrez"),
        ("P04637", "TP53", "uniprot"),
        ("P05067-2", "APP", "uniprot"),
        (" TP53\u00a0", "TP53", "symbol"),
        ("C9ORF78", "C9orf78", "symbol"),
        ("tp53", "TP53", "symbol"),
        ("hg19_CD3D", "CD3D", "symbol"),
        ("HLA\u2011DRA", "HLA-DRA", "symbol"),
        ("HLA.DRA", "HLA-DRA", "symbol"),
        ("PKCα", "PRKCA", "alias"),
        ("TBCE_ENSG00000284770", "TBCE", "ensembl"),
        ("EGFR_ENSG00000141510", "TP53", "ensembl"),
        ("GRCh38_TBCE_ENSG00000284770", "TBCE", "ensembl"),
    ],
)
def test_name_of_each_kind_is_mapped(name, symbol, via):
    resolution = one(name)
    assert (resolution.status, resolution.symbol, resolution.via) == ("mapped", symbol, via)
    assert resolution.entity == symbol


@pytest.mark.parametrize("name", ["ENSA", "R3HDM2", "B3GNT2", "H2AC11", "MARCHF1", "C9orf78", "HLA-DRB1", "C4B_2"])
def test_symbol_wins_over_what_it_looks_like(name):
    assert one(name) == Resolution(name, "used", name, "symbol")


@pytest.mark.parametrize("name", ["225", "3635", "52"])
def test_all_digits_are_an_entrez_id_even_where_an_alias_is_so_spelt(name):
    resolution = one(name)
    record = INDEX.get(resolution.symbol or "")
    assert resolution.via == "entrez"
    assert record is not None
    assert record.entrez_id == name


def test_previous_symbol_wins_over_alias_and_the_note_names_the_other():
    resolution = one("SEPT2")
    assert (resolution.symbol, resolution.via, resolution.note) == ("SEPTIN2", "previous", "also an alias of SEPTIN6")


def test_name_of_several_genes_is_ambiguous_with_its_candidates():
    assert one("QARS") == Resolution(
        "QARS", "ambiguous", None, "previous", ("EPRS1", "QARS1"), "previous symbol of 2 genes"
    )
    assert one("MRP2").candidates == ("ABCC2", "KLHL1", "SYCE1L")
    assert one("MRP2").entity == "MRP2"


def test_an_inner_id_that_hgnc_does_not_know_leaves_the_symbol_to_the_user():
    resolution = one("TBCE_ENSG00000285053")
    assert (resolution.status, resolution.candidates) == ("ambiguous", ("TBCE",))


def test_accession_of_several_genes_is_ambiguous():
    resolution = one("P0C0L5")
    assert (resolution.status, resolution.candidates) == ("ambiguous", ("C4B", "C4B_2"))


def test_match_without_case_needs_one_gene():
    index = GeneIndex([row("AAA1", alias="xY9"), row("BBB1", alias="Xy9", number=2), row("CcC1", number=3)])
    assert index.resolve(["xy9"])[0].candidates == ("AAA1", "BBB1")
    assert index.resolve(["xY9"])[0].symbol == "AAA1"
    assert index.resolve(["CCC1"])[0].note == "matched ignoring case"


@pytest.mark.parametrize("name", ["Actb", "Sept2", "Nkx2-1", "mt-Co1", "Oct-4"])
def test_mouse_symbol_is_not_turned_into_the_human_one(name):
    resolution = one(name)
    assert (resolution.status, resolution.symbol) == ("missing", None)
    assert "looks like a mouse symbol (the human gene so spelt: " in resolution.note


@pytest.mark.parametrize(
    ("name", "candidates"),
    [
        ("1-Mar", ("MARCHF1", "MTARC1")),
        ("Sep-02", ("SEPTIN2",)),
        ("2024-03-01", ("MARCHF1", "MTARC1")),
        ("9/7/2024", ("SEPTIN7",)),
        ("4-Oct", ("POU5F1",)),
    ],
)
def test_date_of_a_spreadsheet_is_flagged_and_never_mapped(name, candidates):
    resolution = one(name)
    assert (resolution.status, resolution.symbol, resolution.candidates) == ("ambiguous", None, candidates)
    assert "spreadsheet" in resolution.note


@pytest.mark.parametrize("name", ["NaN", "NA", "NULL", "", "  ", "-"])
def test_gap_is_missing_even_where_hgnc_knows_the_word(name):
    assert one(name) == Resolution(name, "missing", note="a missing value, not a name")


@pytest.mark.parametrize(
    ("name", "note"),
    [
        ("../x", ""),
        ("TP53\x00", "holds control characters"),
        ("\udcff", "holds control characters"),
        ("A" * 1_000_000, "1,000,000 characters: longer than any name"),
        ("RP11-390E23.6", "named after a clone: no approved symbol"),
        ("TBCE-1", "looks like a duplicate of TBCE made unique"),
        ("TP53_2", "looks like a duplicate of TP53 made unique"),
        ("ENSG00000141510-1", "looks like a duplicate of ENSG00000141510 made unique"),
        ("ENST00000269305.9", "an Ensembl transcript, protein or other id; give the gene's id"),
        ("ENSMUSG00000059552.3", "a mouse Ensembl id; map it to its human orthologue first"),
        ("ENSG99999999999", "no approved gene has this Ensembl id"),
        ("HGNC:0", "no approved gene has this HGNC id"),
        ("XYZ_ENSG00000285053", "no approved gene has the Ensembl id in the name"),
        ("TP53,EGFR", "holds a comma or semicolon; several names in one?"),
        ("ENSG0000014151", ""),
        ("Q00000", ""),
    ],
)
def test_unknown_or_hostile_name_is_missing_and_says_why(name, note):
    assert one(name) == Resolution(name, "missing", note=note)


def test_values_that_are_no_strings_are_read_as_text():
    names: list = [None, float("nan"), 7157, 7157.0]
    assert [r.symbol for r in INDEX.resolve(names)] == [None, None, "TP53", "TP53"]


def test_every_approved_symbol_is_used_as_itself():
    assert all(r == Resolution(s, "used", s, "symbol") for s, r in zip(SYMBOLS, INDEX.resolve(SYMBOLS), strict=True))


def test_no_symbol_written_as_in_mouse_is_mapped_unless_hgnc_lists_that_spelling():
    names = [s.capitalize() for s in SYMBOLS if s.capitalize() not in INDEX and "orf" not in s]
    mapped = [r for r in INDEX.resolve(names) if r.status == "mapped"]
    assert len(names) > 30_000
    assert all(r.via == "alias" and r.note == "" for r in mapped)
    for r in mapped:
        record = INDEX.get(r.symbol or "")
        assert record is not None
        assert r.name in record.alias_symbols


def test_every_ensembl_entrez_and_hgnc_id_finds_its_gene():
    for symbol in SYMBOLS[::7]:
        record = INDEX.get(symbol)
        assert record is not None
        ids = [x for x in (record.hgnc_id, record.entrez_id, record.ensembl_gene_id) if x]
        assert {r.symbol for r in INDEX.resolve(ids)} == {symbol}


NAMES = st.one_of(
    st.text(max_size=30),
    st.sampled_from(SYMBOLS),
    st.sampled_from(SYMBOLS).map(str.title),
    st.sampled_from(SYMBOLS).map(str.lower),
    st.from_regex(r"ENS(MUS)?G\d{11}(\.\d+)?", fullmatch=True),
    st.from_regex(r"\d{1,2}-(Mar|Sep|Dec)", fullmatch=True),
    st.from_regex(r"[A-Z][0-9][A-Z0-9]{3}[0-9](-[0-9])?", fullmatch=True),
)


@given(st.lists(NAMES, max_size=20))
def test_answer_has_the_length_and_order_of_the_list(names):
    resolutions = INDEX.resolve(names)
    assert [r.name for r in resolutions] == names
    for r in resolutions:
        assert (r.symbol is not None) == (r.status in ("used", "mapped"))
        assert (r.symbol or "TP53") in INDEX
        assert all(candidate in INDEX for candidate in r.candidates)
        assert bool(r.candidates) == (r.status == "ambiguous")


def test_coverage_counts_every_name_and_the_merged_ones():
    found = resolve_names(["TP53", "p53", "QARS", "EGFR", "nonsense?", "", "\udcff"])
    assert found.to_dict()["counts"] == {
        "total": 6,
        "used": 2,
        "mapped": 1,
        "ambiguous": 1,
        "missing": 2,
        "entities": 2,
        "merged": {"TP53": ("TP53", "p53")},
    }
    assert [row["genes"] for row in found.rows] == ["TP53", "TP53", "", "EGFR", "", ""]
    assert found.rows[2]["candidates"] == "EPRS1,QARS1"
    assert (found.rows[5]["name"], found.hgnc) == ("\\udcff", hgnc_version())


def test_the_packaged_table_is_the_shared_one_and_whole(shared_data):
    rows = _hgnc_rows()
    assert (len(rows), len({row[1] for row in rows}), {len(row) for row in rows}) == (43_837, 43_837, {9})
    digest = hashlib.sha256(shared_data("id_maps/hgnc_approved.tsv.gz").read_bytes()).hexdigest()
    assert hgnc_version() == digest[:12] == "33e392767eae"


def test_record_has_all_fields():
    record = INDEX.get("TP53")
    assert record is not None
    assert (record.hgnc_id, record.entrez_id, record.ensembl_gene_id) == ("HGNC:11998", "7157", "ENSG00000141510")
    assert (record.uniprot_ids, record.name) == (("P04637",), "tumor protein p53")
    assert "p53" in record.alias_symbols
    assert record.locus_type == "gene with protein product"
    assert INDEX.get("tp53") is None


def test_packaged_cells_resolve_but_for_clones_and_one_duplicate(pbmc_path):
    found = resolve_names(pbmc_path)
    counts = found.counts
    assert (counts.used, counts.mapped, counts.ambiguous, counts.missing) == (700, 54, 0, 11)
    notes = sorted(row["note"] for row in found.rows if row["status"] == "missing")
    assert notes == ["looks like a duplicate of TMBIM4 made unique"] + ["named after a clone: no approved symbol"] * 10


def test_shared_cells_resolve_but_for_unnamed_loci(shared_data):
    for file, resolved in (("scclassify_pancreas_xin", 980), ("citefuse_citeseq_pbmc500", 16_209)):
        names = read_names(shared_data(f"cells/{file}.h5ad")).names
        resolutions = INDEX.resolve(names)
        assert sum(r.symbol is not None for r in resolutions) == resolved
        assert sum(r.status == "missing" and not r.note for r in resolutions) < 10

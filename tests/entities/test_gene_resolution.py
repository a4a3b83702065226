"""Gene names of every kind get an answer, in order, and nothing is mapped silently or blindly."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bftembed.entities.coverage import coverage
from bftembed.entities.genes import GeneIndex, Resolution

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
        ("ensg00000141510", "TP53", "ensembl"),
        ("ENSG00000182378.15_PAR_Y", "PLCXD1", "ensembl"),
        ("HGNC:5", "A1BG", "hgnc"),
        ("hgnc:11998", "TP53", "hgnc"),
        ("7157", "TP53", "entrez"),
        ("7157.0", "TP53", "entrez"),
        ("P04637", "TP53", "uniprot"),
        ("P05067-2", "APP", "uniprot"),
        (" TP53\u00a0", "TP53", "symbol"),
        ("C9ORF78", "C9orf78", "symbol"),
        ("c9orf78", "C9orf78", "symbol"),
        ("tp53", "TP53", "symbol"),
        ("hg19_CD3D", "CD3D", "symbol"),
        ("GRCh38_______CD3D", "CD3D", "symbol"),
        ("HLA\u2011DRA", "HLA-DRA", "symbol"),
        ("HLA.DRA", "HLA-DRA", "symbol"),
        ("PKCα", "PRKCA", "alias"),
    ],
)
def test_name_of_each_kind_is_mapped(name, symbol, via):
    resolution = one(name)
    assert (resolution.status, resolution.symbol, resolution.via) == ("mapped", symbol, via)
    assert resolution.entity == symbol


def test_mixed_kinds_in_one_list_keep_their_order():
    names = ["ENSG00000141510.17", "7157", "TP53", "nonsense?", "P04637", "p53", "TP53"]
    assert [r.name for r in INDEX.resolve(names)] == names
    assert [r.entity for r in INDEX.resolve(names)] == ["TP53", "TP53", "TP53", "nonsense?", "TP53", "TP53", "TP53"]


@pytest.mark.parametrize("name", ["ENSA", "R3HDM2", "B3GNT2", "H2AC11", "MARCHF1", "C9orf78", "HLA-DRB1", "C4B_2"])
def test_symbol_wins_over_what_it_looks_like(name):
    assert one(name) == Resolution(name, "used", name, "symbol")


def test_alias_that_looks_like_an_accession_is_an_alias():
    resolution = one("R3HDM3")
    assert (resolution.symbol, resolution.via) == ("ARPP21", "alias")


@pytest.mark.parametrize("name", ["225", "3635", "52"])
def test_all_digits_are_an_entrez_id_even_where_an_alias_is_so_spelt(name):
    resolution = one(name)
    record = INDEX.get(resolution.symbol or "")
    assert resolution.via == "entrez"
    assert record is not None
    assert record.entrez_id == name


def test_positions_instead_of_names_are_read_as_entrez_ids():
    zero, first, second = INDEX.resolve(["0", "1", "2"])
    assert (zero.status, zero.note) == ("missing", "no approved gene has this Entrez id")
    assert (first.symbol, second.symbol) == ("A1BG", "A2M")


def test_previous_symbol_wins_over_alias_and_the_note_names_the_other():
    resolution = one("SEPT2")
    assert (resolution.symbol, resolution.via, resolution.note) == ("SEPTIN2", "previous", "also an alias of SEPTIN6")


def test_name_of_several_genes_is_ambiguous_with_its_candidates():
    assert one("QARS") == Resolution(
        "QARS", "ambiguous", None, "previous", ("EPRS1", "QARS1"), "previous symbol of 2 genes"
    )
    assert one("MRP2").candidates == ("ABCC2", "KLHL1", "SYCE1L")
    assert one("MRP2").entity == "MRP2"


def test_accession_of_several_genes_is_ambiguous():
    resolution = one("P0C0L5")
    assert (resolution.status, resolution.candidates) == ("ambiguous", ("C4B", "C4B_2"))


def test_match_without_case_needs_one_gene():
    index = GeneIndex([row("AAA1", alias="xY9"), row("BBB1", alias="Xy9", number=2), row("CcC1", number=3)])
    assert index.resolve(["xy9"])[0].candidates == ("AAA1", "BBB1")
    assert index.resolve(["xY9"])[0].symbol == "AAA1"
    assert index.resolve(["CCC1"])[0].note == "matched ignoring case"


@pytest.mark.parametrize("name", ["Actb", "Cd3e", "Sept2", "Nkx2-1", "mt-Co1", "Tnfrsf4", "Oct-4"])
def test_mouse_symbol_is_not_turned_into_the_human_one(name):
    resolution = one(name)
    assert (resolution.status, resolution.symbol) == ("missing", None)
    assert "looks like a mouse symbol (the human gene so spelt: " in resolution.note


@pytest.mark.parametrize("name", ["Trp53", "Gm1234", "1700001C02Rik", "mm10_Xkr4"])
def test_mouse_symbol_without_human_namesake_is_noted(name):
    assert one(name).status == "missing"
    assert "mouse" in one(name).note


def test_mouse_like_alias_of_another_gene_is_ambiguous():
    resolution = one("Tpp1")
    assert (resolution.status, resolution.candidates) == ("ambiguous", ("ACD", "TPP1"))


@pytest.mark.parametrize("name", ["ENSMUSG00000059552", "ENSMUSG00000059552.3", "ENSDARG00000035559"])
def test_ensembl_id_of_another_species_is_missing_with_a_note(name):
    resolution = one(name)
    assert (resolution.status, resolution.symbol) == ("missing", None)
    assert "orthologue" in resolution.note


@pytest.mark.parametrize(
    ("name", "candidates"),
    [
        ("1-Mar", ("MARCHF1", "MTARC1")),
        ("01-Mar", ("MARCHF1", "MTARC1")),
        ("1-Mar-2024", ("MARCHF1", "MTARC1")),
        ("Mar-01", ("MARCHF1", "MTARC1")),
        ("2-Sep", ("SEPTIN2",)),
        ("2-SEP", ("SEPTIN2",)),
        ("Sep-02", ("SEPTIN2",)),
        ("2024-03-01", ("MARCHF1", "MTARC1")),
        ("2024-09-07 00:00:00", ("SEPTIN7",)),
        ("9/7/2024", ("SEPTIN7",)),
        ("1-Dec", ("DELEC1",)),
        ("15-Sep", ("SELENOF",)),
        ("4-Oct", ("POU5F1",)),
    ],
)
def test_date_of_a_spreadsheet_is_flagged_and_never_mapped(name, candidates):
    resolution = one(name)
    assert (resolution.status, resolution.symbol, resolution.candidates) == ("ambiguous", None, candidates)
    assert "spreadsheet" in resolution.note


@pytest.mark.parametrize("name", ["30-Jun", "2024-07-31", "31-Mar"])
def test_date_without_gene_is_missing_with_a_note(name):
    assert one(name).status == "missing"
    assert "spreadsheet" in one(name).note


@pytest.mark.parametrize("name", ["2024-13-41", "99/99/2024"])
def test_impossible_date_is_no_date(name):
    assert one(name) == Resolution(name, "missing")


@pytest.mark.parametrize(("name", "symbol"), [("OCT-4", "POU5F1"), ("APR-2", "FAM215A"), ("DEC-205", "LY75")])
def test_alias_that_resembles_a_date_is_an_alias(name, symbol):
    assert one(name).symbol == symbol


@pytest.mark.parametrize("name", ["nan", "NaN", "NA", "N/A", "None", "null", "NULL", "", "  ", "<NA>", "#N/A", "-"])
def test_gap_is_missing_even_where_hgnc_knows_the_word(name):
    assert one(name) == Resolution(name, "missing", note="a missing value, not a name")


@pytest.mark.parametrize(
    ("name", "note"),
    [
        ("../x", ""),
        ("/etc/passwd", ""),
        ("<script>alert(1)</script>", ""),
        ("TP53\x00", "holds control characters"),
        ("TP\x1b[31m53", "holds control characters"),
        ("a\tb", "holds control characters"),
        ("\u202eTP53", "holds control characters"),
        ("\udcff", "holds control characters"),
        ("A" * 1_000_000, "1,000,000 characters: longer than any name"),
        ("-1" * 500_000, "1,000,000 characters: longer than any name"),
        ("RP11-390E23.6", "named after a clone: no approved symbol"),
        ("AL627309.1", "named after a clone: no approved symbol"),
        ("CH17-264L24.1", "named after a clone: no approved symbol"),
        ("TBCE-1", "looks like a duplicate of TBCE made unique"),
        ("TBCE.1", "looks like a duplicate of TBCE made unique"),
        ("TP53_2", "looks like a duplicate of TP53 made unique"),
        ("ENSG00000141510-1", "looks like a duplicate of ENSG00000141510 made unique"),
        ("ABC_1_X", ""),
        ("1-2", ""),
        ("ENST00000269305.9", "an Ensembl transcript, protein or other id; give the gene's id"),
        ("ENSG99999999999", "no approved gene has this Ensembl id"),
        ("HGNC:0", "no approved gene has this HGNC id"),
        ("TP53,EGFR", "holds a comma or semicolon; several names in one?"),
        ("ENSG0000014151", ""),
        ("Q00000", ""),
        ("٣", ""),
        ("hg19_", ""),
    ],
)
def test_unknown_or_hostile_name_is_missing_and_says_why(name, note):
    assert one(name) == Resolution(name, "missing", note=note)


def test_hyphenated_symbol_is_not_taken_for_a_made_unique_name():
    assert one("NKX2-1").status == "used"
    assert one("HLA-A").status == "used"


def test_values_that_are_no_strings_are_read_as_text():
    names: list = [None, float("nan"), 7157, 7157.0]
    assert [r.symbol for r in INDEX.resolve(names)] == [None, None, "TP53", "TP53"]


def test_one_string_instead_of_a_list_is_refused():
    with pytest.raises(TypeError, match=r"resolve\(\['TP53'\]\)"):
        INDEX.resolve("TP53")


def test_empty_list_gives_an_empty_answer():
    assert INDEX.resolve([]) == []


def test_every_approved_symbol_is_used_as_itself():
    assert all(r == Resolution(s, "used", s, "symbol") for s, r in zip(SYMBOLS, INDEX.resolve(SYMBOLS), strict=True))


def test_every_symbol_in_lower_case_finds_its_gene():
    for symbol, resolution in zip(SYMBOLS, INDEX.resolve([s.lower() for s in SYMBOLS]), strict=True):
        assert symbol in (resolution.symbol, *resolution.candidates)


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


@given(st.lists(NAMES, min_size=1, max_size=10), st.integers(min_value=0))
def test_answer_does_not_depend_on_the_other_names(names, position):
    alone = names[position % len(names)]
    assert INDEX.resolve(names)[position % len(names)] == INDEX.resolve([alone])[0]


@given(st.sampled_from(SYMBOLS), st.integers(min_value=0, max_value=10**6))
def test_ensembl_version_changes_nothing(symbol, version):
    record = INDEX.get(symbol)
    identifier = record.ensembl_gene_id if record else ""
    if identifier:
        plain, versioned = INDEX.resolve([identifier, f"{identifier}.{version}"])
        assert plain.symbol == versioned.symbol == symbol


def test_coverage_counts_every_name_and_the_merged_ones():
    counts = coverage(INDEX.resolve(["TP53", "p53", "QARS", "EGFR", "nonsense?", ""]))
    assert counts.to_dict() == {
        "total": 6,
        "used": 2,
        "mapped": 1,
        "ambiguous": 1,
        "missing": 2,
        "entities": 2,
        "merged": {"TP53": ["TP53", "p53"]},
    }
    assert counts.resolved == 3
    assert str(counts) == "6 names: 2 used, 1 mapped, 1 ambiguous, 2 missing"


def test_a_name_twice_is_not_a_merge():
    assert coverage(INDEX.resolve(["TP53", "TP53"])).merged == {}


def test_packaged_cells_resolve_but_for_clones_and_one_duplicate(pbmc_path):
    from bftembed.entities.lists import read_names

    resolutions = INDEX.resolve(read_names(pbmc_path).names)
    counts = coverage(resolutions)
    assert (counts.used, counts.mapped, counts.ambiguous, counts.missing) == (700, 54, 0, 11)
    notes = sorted(r.note for r in resolutions if r.status == "missing")
    assert notes == ["looks like a duplicate of TMBIM4 made unique"] + ["named after a clone: no approved symbol"] * 10


def test_shared_cells_resolve_but_for_unnamed_loci(shared_data):
    from bftembed.entities.lists import read_names

    for file, resolved in (("xin", 980), ("wang", 219)):
        names = read_names(shared_data(f"cells/scclassify_pancreas_{file}.h5ad"))
        assert coverage(INDEX.resolve(names.names)).resolved == resolved
    resolutions = INDEX.resolve(read_names(shared_data("cells/citefuse_citeseq_pbmc500.h5ad")).names)
    assert coverage(resolutions).resolved == 16_209
    unexplained = [r.name for r in resolutions if r.status == "missing" and not r.note]
    assert len(unexplained) < 10, unexplained

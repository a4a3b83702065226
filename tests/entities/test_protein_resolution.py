"""Proteins by accession and by antibody name, as CITE-seq panels spell them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bftembed.entities.genes import GeneIndex
from bftembed.entities.proteins import ProteinIndex, ProteinResolution, _antibody_table, _spelling_keys

INDEX = ProteinIndex.default()
TABLE = _antibody_table()
CD3 = ("CD3D", "CD3E", "CD3G")


def one(name: str) -> ProteinResolution:
    (resolution,) = INDEX.resolve([name])
    assert resolution.name == name
    return resolution


@pytest.mark.parametrize(
    ("name", "genes", "entity"),
    [
        ("CD3", CD3, "CD3"),
        ("HLA-DR", ("HLA-DRA", "HLA-DRB1"), "HLA-DR"),
        ("CD45RA", ("PTPRC",), "CD45RA"),
        ("CD45", ("PTPRC",), "PTPRC"),
        ("CD56", ("NCAM1",), "NCAM1"),
        ("CD16", ("FCGR3A", "FCGR3B"), "CD16"),
        ("TCRab", ("TRAC", "TRBC1", "TRBC2"), "TCRab"),
        ("TCR α/β", ("TRAC", "TRBC1", "TRBC2"), "TCRab"),
        ("TCR gamma/delta", ("TRGC1", "TRGC2", "TRDC"), "TCRgd"),
        ("TCR Vα7.2", ("TRAV1-2",), "TRAV1-2"),
        ("IgD", ("IGHD",), "IGHD"),
        ("PD-1", ("PDCD1",), "PDCD1"),
        ("CD57", ("B3GAT1",), "CD57"),
        ("IL7Ralpha", ("IL7R",), "IL7R"),
        ("FcεRIα", ("FCER1A",), "FCER1A"),
        ("HLA-A-B-C", ("HLA-A", "HLA-B", "HLA-C"), "HLA-A,B,C"),
        ("CD11a/CD18", ("ITGAL", "ITGB2"), "CD11a/CD18"),
        ("CD66a/c/e", ("CEACAM1", "CEACAM6", "CEACAM5"), "CD66"),
    ],
)
def test_antibody_name_gives_its_genes(name, genes, entity):
    resolution = one(name)
    assert (resolution.status, resolution.via) == ("mapped", "antibody")
    assert (resolution.genes, resolution.entity) == (genes, entity)


@pytest.mark.parametrize(
    "name",
    [
        "anti-CD3",
        "ADT_CD3",
        "CD3_TotalSeqB",
        "CD3_PROT",
        "Hu.CD3",
        "CD3-1",
        " CD3 ",
        "prot:CD3",
    ],
)
def test_usual_decorations_of_a_panel_are_ignored(name):
    assert one(name).genes == CD3


def test_number_of_a_clone_is_not_joined_to_the_cd_number():
    assert one("CD3-1").genes == CD3
    assert one("CD31").genes == ("PECAM1",)
    assert one("CD4-1").genes == ("CD4",)
    assert one("CD41").genes == ("ITGA2B",)


def test_ig_alpha_is_not_iga():
    assert _spelling_keys("Igα") == ("igalpha", "iga")
    assert one("IgA").genes == ("IGHA1", "IGHA2")
    assert one("Ig alpha").genes == one("Igα").genes == ("CD79A",)


@pytest.mark.parametrize(
    ("name", "genes"),
    [
        ("PD-1 (CD279)", ("PDCD1",)),
        ("B220 (CD45R)", ("PTPRC",)),
        ("CD26 (Adenosine)", ("DPP4",)),
        ("MHCII (HLA-DR)", ("HLA-DRA", "HLA-DRB1")),
        ("CD158e1 (KIR3DL1, NKB1)", ("KIR3DL1",)),
        ("CD197-CCR7", ("CCR7",)),
        ("CD127-IL7Ra", ("IL7R",)),
    ],
)
def test_two_names_of_one_protein_are_read_together(name, genes):
    assert one(name).genes == genes


def test_names_of_different_proteins_are_ambiguous():
    resolution = one("CD19 (CD3)")
    assert (resolution.status, resolution.genes) == ("ambiguous", ())
    assert resolution.candidates == ("CD19", *CD3)
    assert one("CD3/CD28").status == "ambiguous"


@pytest.mark.parametrize(
    "name",
    [
        "IgG1",
        "IgG1_control_TotalSeqB",
        "Mouse IgG2a κ isotype Ctrl",
        "Armenian Hamster IgG",
        "Isotype_MOPC.21",
    ],
)
def test_isotype_control_is_missing_with_a_note(name):
    assert one(name) == ProteinResolution(name, "missing", note="isotype control: it has no gene")


@pytest.mark.parametrize("name", ["HTO-1", "HTO_A", "Hashtag3", "Cell Hashtag 1"])
def test_hashtag_is_missing_with_a_note(name):
    assert one(name) == ProteinResolution(name, "missing", note="cell hashtag: it has no gene")


def test_accession_names_one_protein_even_of_several_genes():
    assert one("P05067-2") == ProteinResolution("P05067-2", "mapped", "APP", ("APP",), "uniprot", "P05067")
    several = one("P0C0L5")
    assert (several.status, several.symbol, several.genes) == ("mapped", None, ("C4B", "C4B_2"))
    assert several.entity == "P0C0L5"


def test_symbol_wins_and_gene_names_are_the_fallback():
    assert one("CD4") == ProteinResolution("CD4", "used", "CD4", ("CD4",), "symbol")
    assert one("B3GNT2").status == "used"
    assert (one("ENSG00000141510.5").symbol, one("ENSG00000141510.5").via) == ("TP53", "ensembl")
    assert one("anti-p53").symbol == "TP53"
    assert one("QARS").candidates == ("EPRS1", "QARS1")


@pytest.mark.parametrize("name", ["", "nan", "xyz?", "../x", "CD3\x00", "A" * 1_000_000, "(" * 90, "anti-", "()", "-1"])
def test_gap_unknown_or_hostile_name_is_missing(name):
    assert (one(name).status, one(name).genes, one(name).symbol) == ("missing", (), None)


def test_table_has_no_spelling_of_two_rows():
    owners: dict[str, set[str]] = {}
    for row in TABLE:
        for name in (row.name, *row.synonyms):
            owners.setdefault(_spelling_keys(name)[0], set()).add(row.name)
    assert {key: names for key, names in owners.items() if len(names) > 1} == {}


def test_table_agrees_with_hgnc_on_the_names_that_both_know():
    # Names that mean a locus, an old symbol or another protein for HGNC, and the receptor or antibody on a panel.
    panel_meaning = {"LAP", "TCRa", "TCRb", "TCRg", "TCRd", "IgA"}
    for row in TABLE:
        for name in (row.name, *row.synonyms):
            known = GeneIndex.default().resolve([name])[0]
            genes = {known.symbol} if known.symbol else set(known.candidates)
            if genes and name not in panel_meaning:
                assert genes & set(row.genes), (name, genes, row.genes)


def test_every_name_of_the_table_resolves_to_its_row():
    for row in TABLE:
        for name in (row.name, *row.synonyms):
            assert set(one(name).genes) == set(row.genes), name


@given(st.sampled_from([n for row in TABLE for n in (row.name, *row.synonyms)]) | st.text(max_size=20))
def test_entity_resolves_to_the_same_genes(name):
    resolution = one(name)
    if resolution.genes:
        again = one(resolution.entity)
        assert (again.genes, again.entity) == (resolution.genes, resolution.entity)


def test_shared_panel_resolves_but_for_its_isotype_controls(shared_data):
    import h5py

    with h5py.File(shared_data("cells/citefuse_citeseq_pbmc500.h5ad")) as file:
        names = [name.decode() for name in file["uns/ADT_names"][:]]
    resolutions = INDEX.resolve(names)
    assert (len(names), sum(bool(r.genes) for r in resolutions)) == (49, 47)
    assert [r.name for r in resolutions if r.status == "missing"] == ["IgG1", "IgG2a"]

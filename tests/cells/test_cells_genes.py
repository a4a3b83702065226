"""Which columns of which matrix are genes, and which embedding each has: no gene is lost silently."""

from __future__ import annotations

import anndata
import cite_toys
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from cell_toys import EMBEDDINGS, FORMS, GENES, cells_of, counts_of, embedded, reference, write

from bftembed import BftembedError, GeneEmbeddings, GeneIndex, embed_cells
from bftembed.errors import UnknownNameError

pytestmark = pytest.mark.filterwarnings("ignore:.*names are not unique")

SUM = {"normalize": "none", "l2": False}
COUNTS = ("n_used", "n_mapped", "n_ambiguous", "n_unresolved", "n_no_embedding")


def vector(gene):
    return EMBEDDINGS.vector(gene).astype(np.float64)


def test_names_of_any_kind_reach_their_embedding_and_are_counted():
    # symbol · Ensembl with version (LYZ) · previous symbol of MS4A1 · unknown · known without vector · symbol again
    names = ["CD3D", "ENSG00000090382.7", "CD20", "no-such-gene", "TP53", "CD3D"]
    found, told = embedded(cells_of([[1.0, 2, 3, 4, 5, 6]], names), **SUM)
    np.testing.assert_allclose(found, [(7 * vector("CD3D") + 2 * vector("LYZ") + 3 * vector("MS4A1")) / 6], rtol=1e-6)
    assert [told[name] for name in COUNTS] == [2, 2, 0, 1, 1]
    assert (told["n_genes"], told["n_duplicates"]) == (6, 1)
    assert told["coverage"] == pytest.approx(12 / 21)


@pytest.mark.parametrize("name", ["LYZ_ENSG00000090382", "ENSG00000090382_LYZ", "no-such-gene_ENSG00000090382"])
def test_an_ensembl_id_within_a_name_is_an_answer(name):
    found, told = embedded(cells_of([[1.0, 2]], [name, "CD3D"]), **SUM)
    np.testing.assert_allclose(found, [(vector("LYZ") + 2 * vector("CD3D")) / 2], rtol=1e-6)
    assert (told["n_used"], told["n_mapped"]) == (1, 1)
    # An id that HGNC does not have, after a symbol of another id: used or ambiguous, but not unknown.
    assert embedded(cells_of([[1.0, 2]], ["TBCE_ENSG00000285053", "CD3D"]))[1]["n_unresolved"] == 0


def test_an_ambiguous_name_matches_by_its_own_text_alone():
    index = GeneIndex.default()
    ambiguous = next(r for r in index.resolve(["STRA13", "MT1", "AIM1", "ASP", "CAP"]) if r.status == "ambiguous")
    cells = cells_of(np.ones((1, 2), dtype=np.float32), [ambiguous.name, "LYZ"])
    ids = ["LYZ", *ambiguous.candidates]
    found, told = embedded(cells, GeneEmbeddings(ids, np.eye(len(ids))))
    assert told["n_ambiguous"] == 1
    np.testing.assert_allclose(found, np.eye(len(ids))[:1])
    found, told = embedded(cells, GeneEmbeddings(["LYZ", ambiguous.name], np.eye(2)))
    assert told["n_ambiguous"] == 0
    assert (found > 0).all()


def test_no_gene_in_common_shows_some_of_each_side():
    with pytest.raises(BftembedError) as caught:
        embedded(cells_of(genes=[f"Foo{i}-x" for i in range(6)]))
    for name in ("Foo0-x", "CD3D", "gene_column"):
        assert name in str(caught.value)


@pytest.mark.parametrize("container", ["memory", "h5ad", "zarr2", "zarr3"])
def test_numbers_are_no_names_of_genes_and_the_column_that_has_them_is_named(container, tmp_path):
    """Numbers left over from a filter are not read as Entrez ids unless that is said."""
    cells = cells_of(genes=["915", "4069", "931", "10578", "4818", "925"])  # the Entrez ids of the six genes
    cells.var["gene_name"] = GENES
    cells.var["group"] = pd.Categorical(GENES)
    data = cells if container == "memory" else write(cells, tmp_path, container)[0]
    with pytest.raises(BftembedError, match="gene_name"):
        embedded(data)
    with pytest.raises(UnknownNameError, match="'gene_name'"):
        embedded(data, gene_column="gene_names")
    expected, _ = embedded(cells_of())
    for column in ("gene_name", "group", "_index"):
        found, told = embedded(data, gene_column=column)
        np.testing.assert_array_equal(found, expected)
        assert told["n_used" if column != "_index" else "n_mapped"] == 5


# Matrices.


def with_matrices(form="csr"):
    """Cells with every place that expression may lie in; what is not X has other values."""
    cells = cells_of(form=form)
    cells.raw = cells_of(counts_of(seed=9), form=form)
    wrap = FORMS[form]
    cells.layers["other"] = wrap(counts_of(seed=5).astype(np.int32))
    cells.obsm["ADT"] = wrap(counts_of(seed=6)[:, :4])
    cells.uns["ADT_names"] = np.array(GENES[:4], dtype=object)
    cells.uns["panel"] = {"names": np.array(GENES[1:5], dtype=object)}
    cells.obsm["table"] = pd.DataFrame(counts_of(seed=7)[:, :3], index=cells.obs_names, columns=GENES[:3])
    return cells


@pytest.mark.parametrize(
    ("container", "form"),
    [(container, form) for container in ("memory", "h5ad") for form in FORMS]
    + [("zarr2", "csr"), ("zarr3", "csc"), ("zarr3", "dense"), ("h5mu", "dense"), ("mu.zarr", "csr")],
)
def test_the_matrix_that_is_named_is_embedded_with_its_genes(container, form, tmp_path):
    data, more = with_matrices(form), {}
    if container != "memory":
        data, more = write(data, tmp_path, container)
    for options, seed, genes, place in (
        ({}, 0, GENES, "X"),
        ({"layer": "other"}, 5, GENES, "layers/other"),
        ({"use_raw": True}, 9, GENES, "raw/X"),
        ({"obsm": "ADT"}, 6, GENES[:4], "obsm/ADT"),
        ({"obsm": "ADT", "obsm_names": "uns/panel/names"}, 6, GENES[1:5], "obsm/ADT"),
        ({"obsm": "table"}, 7, GENES[:3], "obsm/table"),
    ):
        found, told = embedded(data, empty_cells="nan", **options, **more)
        expected = reference(counts_of(seed=seed)[:, : len(genes)], genes)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
        assert told["matrix"].removeprefix("mod/rna/") == place
        assert told["n_genes"] == len(genes)


def test_raw_has_genes_of_its_own():
    full = cells_of()
    subset = full[:, ["CD8A", "LYZ"]].copy()
    subset.raw = full
    found, told = embedded(subset, use_raw=True)
    np.testing.assert_allclose(found, reference(counts_of()), rtol=1e-5, atol=1e-6)
    assert (told["matrix"], told["n_genes"]) == ("raw/X", 6)


@pytest.mark.parametrize("container", ["memory", "h5ad", "zarr3"])
def test_what_is_not_there_is_an_error_that_lists_what_is(container, tmp_path):
    cells = with_matrices()
    cells.obsm["few"] = np.ones((30, 3), dtype=np.float32)
    cells.uns["few_names"] = np.array(["a", "b"], dtype=object)
    cells.obsm["none"] = np.ones((30, 3), dtype=np.float32)
    cells.obsm["text"] = pd.DataFrame({"a": ["x"] * 30}, index=cells.obs_names)
    cells.obsm["cube"] = np.ones((30, 2, 2))
    data = cells if container == "memory" else write(cells, tmp_path, container)[0]
    for options, word in (
        ({"layer": "othr"}, "'other'"),
        ({"layer": "../X"}, "layer"),
        ({"obsm": "ADTs"}, "'ADT'"),
        ({"obsm": "few"}, "few_names"),
        ({"obsm": "none"}, "names"),
        ({"obsm": "none", "obsm_names": "uns/zzz"}, "uns/zzz"),
        ({"obsm": "none", "obsm_names": "ADT_names"}, "obsm_names"),
        ({"obsm": "text"}, "text"),
        ({"obsm": "cube"}, "cube"),
        ({"obsm": "ADT", "layer": "other"}, "layer"),
        ({"obsm": "ADT", "use_raw": True}, "use_raw"),
        ({"obsm": "ADT", "gene_column": "symbol"}, "gene_column"),
        ({"obsm_names": "uns/ADT_names"}, "obsm"),
        ({"layer": "other", "use_raw": True}, "layer"),
        ({"modality": "rna"}, "modalit|mdata"),
    ):
        with pytest.raises(BftembedError, match=word):
            embedded(data, **options)


@pytest.mark.parametrize("container", ["memory", "h5ad", "zarr2", "zarr3"])
def test_cells_without_x_or_raw_name_the_layer_that_is_there(container, tmp_path):
    cells = anndata.AnnData(layers={"counts": sp.csr_matrix(counts_of())}, shape=(30, 6))
    cells.var_names = GENES
    data = cells if container == "memory" else write(cells, tmp_path, container)[0]
    for options in ({}, {"use_raw": True}):
        with pytest.raises(BftembedError, match="--layer counts"):
            embedded(data, **options)
    np.testing.assert_allclose(embedded(data, layer="counts")[0], reference(counts_of()), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("container", ["h5mu", "mu.zarr"])
def test_modalities_are_listed(container, tmp_path):
    path, _ = write(cells_of(), tmp_path, container)
    with pytest.raises(BftembedError, match="adt, rna|rna, adt"):
        embedded(path)
    with pytest.raises(UnknownNameError, match="'rna'"):
        embedded(path, modality="rnaa")


class TestSlashesInKeys:
    """Older anndata wrote a key with slashes as groups within groups."""

    @pytest.fixture
    def nested(self, tmp_path):
        path, _ = write(cells_of(), tmp_path)
        with h5py.File(path, "r+") as handle:
            anndata.io.write_elem(handle["layers"].create_group("raw"), "counts", sp.csr_matrix(counts_of(seed=5)))
            handle["obsm"].create_group("X_adt")["v1"] = counts_of(seed=6)[:, :4]
            handle["uns"].create_group("X_adt")["v1_names"] = np.array(GENES[:4], dtype=object)
        return path

    def test_a_nested_layer_is_read(self, nested):
        found, told = embedded(nested, layer="raw/counts")
        np.testing.assert_allclose(found, reference(counts_of(seed=5)), rtol=1e-5, atol=1e-6)
        assert told["matrix"] == "layers/raw/counts"

    def test_a_nested_obsm_is_read(self, nested):
        found, _ = embedded(nested, obsm="X_adt/v1", obsm_names="uns/X_adt/v1_names", empty_cells="nan")
        np.testing.assert_allclose(found, reference(counts_of(seed=6)[:, :4], GENES[:4]), rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize(("options", "word"), [({"layer": "raw"}, "raw/counts"), ({"obsm": "X_adt"}, "X_adt/v1")])
    def test_a_part_of_the_name_is_an_error_that_offers_the_whole(self, nested, options, word):
        with pytest.raises(BftembedError, match=word):
            embedded(nested, **options)


def test_the_file_of_cell_ranger_is_read(tmp_path):
    path = cite_toys.write_tenx_h5(tmp_path / "filtered_feature_bc_matrix.h5", 30)
    rna, _, _ = cite_toys.counts(30)
    embeddings = cite_toys.embeddings()
    found, told = embedded(path, embeddings)
    np.testing.assert_allclose(found, reference(rna, cite_toys.GENES, embeddings), rtol=1e-5, atol=1e-6)
    assert (told["n_genes"], told["n_other_features"]) == (len(cite_toys.GENES), len(cite_toys.PANEL))


# Features that are no genes.

TYPES = {"gene": "Gene Expression", "antibody": "Antibody Capture", "peak": "Peaks"}


def among_others(form="csr", column="feature_types", types=TYPES):
    """Put antibodies named like genes before the genes, and peaks among them; their counts are far higher."""
    rng, counts = np.random.default_rng(3), counts_of()
    antibodies, peaks = rng.poisson(150, (30, 2)), rng.poisson(4, (30, 3))
    values = np.hstack([antibodies, counts[:, :3], peaks, counts[:, 3:]]).astype(np.float32)
    names = [*GENES[:2], *GENES[:3], "chr1:1-9", "chr1:11-19", "chr2:1-9", *GENES[3:]]
    mixed = cells_of(values, names, form)
    kinds = ["antibody"] * 2 + ["gene"] * 3 + ["peak"] * 3 + ["gene"] * 3
    mixed.var[column] = pd.Categorical([types[kind] for kind in kinds])
    mixed.raw = mixed
    return mixed


@pytest.mark.parametrize("use_raw", [False, True])
@pytest.mark.parametrize(
    ("container", "form"), [("memory", "csr"), ("h5ad", "csc"), ("h5ad", "dense"), ("zarr3", "csr")]
)
def test_genes_alone_are_embedded(container, form, use_raw, tmp_path):
    mixed = among_others(form)
    data = mixed if container == "memory" else write(mixed, tmp_path, container)[0]
    found, told = embedded(data, use_raw=use_raw)
    np.testing.assert_allclose(found, reference(counts_of()), rtol=1e-5, atol=1e-6)
    assert (told["n_genes"], told["n_other_features"], told["n_duplicates"]) == (6, 5, 0)


def test_antibodies_alone_are_embedded_as_proteins():
    mixed = among_others()
    antibodies = mixed[:, mixed.var["feature_types"] == "Antibody Capture"].copy()
    options = {"kind": "protein", "normalize": "clr"}
    found, told = embedded(mixed, **options)
    np.testing.assert_array_equal(found, embedded(antibodies, **options)[0])
    assert (told["n_genes"], told["n_other_features"]) == (2, 9)
    # Protein embeddings of RNA: without antibodies, genes alone.
    without = mixed[:, mixed.var["feature_types"] != "Antibody Capture"].copy()
    told = embedded(without, kind="protein")[1]
    assert (told["n_genes"], told["n_other_features"]) == (6, 3)


@pytest.mark.parametrize(
    ("column", "values", "n_genes"),
    [
        ("feature_types", ["Gene Expression", "Antibody Capture", "Gene Expression"], 2),
        ("feature_types", ["GEX", "ATAC", "GEX"], 2),
        ("feature_types", ["Gene Expression", "Peaks", ""], 1),
        ("feature_biotype", ["gene", "spike-in", "gene"], 2),
        ("feature_type", ["Gene Expression", "CRISPR Guide Capture", "Peaks"], 1),
        # One type, or not stated which of them are genes: all columns.
        ("feature_types", ["Antibody Capture"] * 3, 3),
        ("feature_types", ["Gene Expression", "", ""], 3),
        ("feature_type", ["protein_coding", "lncRNA", "protein_coding"], 3),
        ("other", ["gene", "Antibody Capture", "gene"], 3),
    ],
)
def test_the_columns_and_words_that_say_what_is_a_gene(column, values, n_genes):
    cells = cells_of(counts_of()[:, :3], GENES[:3])
    cells.var[column] = values
    told = embedded(cells, empty_cells="nan")[1]
    assert (told["n_genes"], told["n_other_features"]) == (n_genes, 3 - n_genes)


# Names as pandas 3 and older tables store them.


@pytest.mark.parametrize("container", ["h5ad", "zarr3"])
@pytest.mark.parametrize("how", ["nullable", "categorical"])
def test_names_in_groups_are_read(container, how, tmp_path):
    path, _ = write(cells_of(), tmp_path, container)
    array = pd.array(GENES, dtype="string") if how == "nullable" else pd.Categorical(GENES, categories=sorted(GENES))
    import zarr

    root = h5py.File(path, "r+") if container == "h5ad" else zarr.open_group(path, mode="r+", use_consolidated=False)
    with anndata.settings.override(allow_write_nullable_strings=True):
        for table, values in (("var", array), ("obs", pd.Categorical([f"c{i % 4}" for i in range(30)]))):
            del root[table]["_index"]
            anndata.io.write_elem(root[table], "_index", values)
    if container == "h5ad":
        root.close()
    np.testing.assert_array_equal(embedded(path)[0], embedded(cells_of())[0])
    embed_cells(path, EMBEDDINGS, sidecar=tmp_path / "e.h5ad")
    assert list(anndata.read_h5ad(tmp_path / "e.h5ad").obs_names) == [f"c{i % 4}" for i in range(30)]


def test_tables_of_the_time_before_anndata_0_7_are_read(tmp_path):
    """Tables were compound data sets then, sparse matrices named otherwise."""
    path, _ = write(cells_of(), tmp_path)
    with h5py.File(path, "r+") as handle:
        for name, names in (("obs", [f"c{i}" for i in range(30)]), ("var", GENES)):
            del handle[name]
            handle[name] = np.array(
                [(x.encode(), i) for i, x in enumerate(names)], dtype=[("index", "S8"), ("n", "i4")]
            )
        attributes = handle["X"].attrs
        attributes["h5sparse_format"], attributes["h5sparse_shape"] = "csr", [30, 6]
        for name in ("encoding-type", "encoding-version", "shape"):
            del attributes[name]
    embed_cells(path, EMBEDDINGS, sidecar=tmp_path / "e.h5ad")
    found = anndata.read_h5ad(tmp_path / "e.h5ad")
    np.testing.assert_array_equal(found.obsm["X_bft"], embedded(cells_of())[0])
    assert list(found.obs_names) == [f"c{i}" for i in range(30)]

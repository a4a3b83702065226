"""Gene names out of h5ad files of every age, and out of broken and hostile ones."""

from __future__ import annotations

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest

from bftembed.entities.lists import read_names, read_var_names
from bftembed.errors import BftembedError, UnknownNameError
from bftembed.hdf5 import open_h5ad

pytestmark = pytest.mark.filterwarnings("ignore:Variable names are not unique")

NAMES = ["TP53", "EGFR", "MYC", "TP53"]
ENSEMBL = ["ENSG00000141510", "ENSG00000146648", "ENSG00000136997", "ENSG00000141510"]


@pytest.fixture
def h5ad(tmp_path):
    """Write an AnnData with these var names and columns."""

    def write(index=NAMES, **columns):
        var = pd.DataFrame({k: pd.Series(v, index=index) for k, v in columns.items()}, index=pd.Index(index))
        adata = anndata.AnnData(np.ones((2, len(index)), dtype="float32"), var=var)
        path = tmp_path / "cells.h5ad"
        adata.write_h5ad(path)
        return path

    return write


def test_var_names_keep_duplicates_and_file_order(h5ad):
    path = h5ad()
    assert read_var_names(path) == NAMES
    names = read_names(path)
    assert (names.names, names.duplicates, names.n_read) == (("TP53", "EGFR", "MYC"), {"TP53": 1}, 4)
    with open_h5ad(path) as handle:
        assert read_var_names(handle) == NAMES


def test_named_index_is_found_through_its_attribute(tmp_path):
    var = pd.DataFrame(index=pd.Index(["TP53", "EGFR"], name="hugo"))
    anndata.AnnData(np.ones((1, 2), dtype="float32"), var=var).write_h5ad(tmp_path / "a.h5ad")
    assert read_var_names(tmp_path / "a.h5ad") == ["TP53", "EGFR"]


@pytest.mark.parametrize(
    "column",
    [
        ["TP53", "EGFR", "MYC", "TP53"],
        pd.Categorical(["TP53", "EGFR", "MYC", "TP53"]),
        pd.array(["TP53", "EGFR", "MYC", "TP53"], dtype="string"),
    ],
    ids=["object", "categorical", "nullable"],
)
def test_column_of_every_kind_of_text_is_read(h5ad, column):
    path = h5ad(["a", "b", "c", "d"], gene_name=list(column) if isinstance(column, list) else column)
    assert read_var_names(path, "gene_name") == NAMES
    assert read_names(path, column="gene_name").duplicates == {"TP53": 1}


def test_gap_in_a_column_is_blank(h5ad):
    path = h5ad(["a", "b", "c"], gene_name=pd.Categorical(["TP53", None, "MYC"]))
    assert read_var_names(path, "gene_name") == ["TP53", "", "MYC"]
    assert read_names(path, column="gene_name").blank == 1


def test_unknown_column_suggests_the_nearest(h5ad):
    with pytest.raises(UnknownNameError, match="Did you mean 'gene_name'"):
        read_var_names(h5ad(["a", "b"], gene_name=["TP53", "EGFR"]), "gene_names")


@pytest.mark.parametrize("first", [0, 1])
def test_numbers_instead_of_names_suggest_the_columns_that_hold_names(h5ad, first):
    index = [str(i) for i in range(first, first + 4)]
    path = h5ad(index, n_cells=[5, 6, 7, 8], chromosome=["17", "7", "8", "17"], ensembl=ENSEMBL, gene_name=NAMES)
    with pytest.raises(BftembedError, match="are only numbers") as caught:
        read_names(path)
    message = str(caught.value)
    assert "'gene_name' ('TP53', 'EGFR', 'MYC'), 'ensembl'" in message
    assert "n_cells" not in message
    assert "chromosome" not in message
    assert "--column" in message


def test_numbers_instead_of_names_and_no_other_column(h5ad):
    with pytest.raises(BftembedError, match="set var_names with anndata"):
        read_names(h5ad(["0", "1"], n_cells=[1, 2]))


def test_entrez_ids_are_names_only_where_their_column_is_named(h5ad):
    path = h5ad(["7157", "1956"], entrez=["7157", "1956"])
    for read in (read_var_names, read_names):
        with pytest.raises(BftembedError, match=r"only numbers.*name the index itself as the column: _index\."):
            read(path)
    assert read_var_names(path, "_index") == read_var_names(path, "entrez") == ["7157", "1956"]
    assert read_names(path, column="_index").names == ("7157", "1956")


def test_one_name_among_numbers_is_enough_and_blanks_do_not_count(h5ad):
    assert read_var_names(h5ad(["7157", "EGFR"])) == ["7157", "EGFR"]
    with pytest.raises(BftembedError, match="only numbers"):
        read_var_names(h5ad(["7157", "", "5"]))


def rewrite(path, change):
    with h5py.File(path, "r+") as file:
        change(file)
    return path


@pytest.mark.parametrize("empty", [True, False])
def test_missing_var_names_suggest_the_columns(h5ad, empty):
    path = h5ad(["a", "b"], feature_name=["TP53", "EGFR"])

    def change(file):
        index = file["var"].attrs["_index"]
        del file["var"][index]
        if empty:
            file["var"][index] = np.array([b"", b""])

    with pytest.raises(BftembedError, match=r"are missing.*'feature_name' \('TP53', 'EGFR'\)"):
        read_var_names(rewrite(path, change))


def test_file_without_var_is_refused(h5ad):
    def change(file):
        del file["var"]

    with pytest.raises(BftembedError, match="there is no var"):
        read_names(rewrite(h5ad(), change))


def test_file_without_raw_is_refused_where_raw_is_asked_for(h5ad):
    with pytest.raises(BftembedError, match="there is no raw/var"):
        read_var_names(h5ad(), use_raw=True)


def test_names_of_raw_are_read(tmp_path):
    adata = anndata.AnnData(np.ones((1, 3), dtype="float32"), var=pd.DataFrame(index=["A", "B", "C"]))
    adata.raw = adata
    adata[:, :2].copy().write_h5ad(tmp_path / "a.h5ad")
    assert read_var_names(tmp_path / "a.h5ad") == ["A", "B"]
    assert read_var_names(tmp_path / "a.h5ad", use_raw=True) == ["A", "B", "C"]


def test_table_of_the_oldest_anndata_is_read(tmp_path, pbmc_path):
    assert read_var_names(pbmc_path)[:2] == ["HES4", "TNFRSF4"]
    assert len(read_var_names(pbmc_path)) == len(read_var_names(pbmc_path, use_raw=True)) == 765
    with h5py.File(tmp_path / "old.h5ad", "w") as file:
        file["var"] = np.array([(b"0", 1), (b"1", -1)], dtype=[("index", "S4"), ("symbol", "i1")])
        file["uns/symbol_categories"] = np.array([b"EGFR", b"TP53"])
    assert read_var_names(tmp_path / "old.h5ad", "symbol") == ["TP53", ""]
    with pytest.raises(BftembedError, match=r"are only numbers.*'symbol' \('TP53'\)"):
        read_var_names(tmp_path / "old.h5ad")


def test_categories_of_anndata_0_7_are_not_read_as_numbers(tmp_path):
    with h5py.File(tmp_path / "old.h5ad", "w") as file:
        var = file.create_group("var")
        var.attrs["_index"] = b"names"
        var["names"] = np.array([b"a", b"b", b"c"])
        var["symbol"] = np.array([1, 0, -1], dtype="i1")
        var["__categories/symbol"] = np.array([b"EGFR", b"TP53"])
        var["symbol"].attrs["categories"] = var["__categories/symbol"].ref
    assert read_var_names(tmp_path / "old.h5ad", "symbol") == ["TP53", "EGFR", ""]
    assert read_var_names(tmp_path / "old.h5ad") == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f["var/gene_name/codes"].write_direct(np.array([9, 9], dtype="i1")), "the code 9, but 2"),
        (lambda f: f["var/gene_name"].pop("categories"), "cannot be read as a column"),
        (
            lambda f: (f["var/gene_name"].pop("codes"), f["var"].pop("gene_name"), f["var"].create_group("gene_name")),
            "n",
        ),
    ],
    ids=["code out of range", "no categories", "no codes"],
)
def test_damaged_column_is_refused_by_name(h5ad, change, message):
    path = rewrite(h5ad(["a", "b"], gene_name=pd.Categorical(["TP53", "EGFR"])), change)
    with pytest.raises(BftembedError, match=message) as caught:
        read_var_names(path, "gene_name")
    assert "var/gene_name" in str(caught.value)


def test_shape_bomb_is_refused_before_it_is_read(h5ad):
    def change(file):
        del file["var"]["gene_name"]
        file["var"].create_dataset("gene_name", shape=(10**12,), dtype="S10", chunks=(1000,))

    with pytest.raises(BftembedError, match=r"shape \(1000000000000,\)"):
        read_var_names(rewrite(h5ad(gene_name=NAMES), change), "gene_name")


def test_matrix_is_no_column(h5ad):
    def change(file):
        del file["var"]["gene_name"]
        file["var"]["gene_name"] = np.ones((2, 2))

    with pytest.raises(BftembedError, match=r"shape \(2, 2\)"):
        read_var_names(rewrite(h5ad(gene_name=NAMES), change), "gene_name")


def test_index_attribute_cannot_lead_out_of_var(h5ad):
    def change(file):
        file["secret"] = np.array([b"x"])
        file["var"].attrs["_index"] = "/secret"

    path = rewrite(h5ad(["TP53", "EGFR"]), change)
    assert read_var_names(path) == ["TP53", "EGFR"]
    with pytest.raises(UnknownNameError):
        read_var_names(path, "/secret")


def test_link_to_another_file_is_refused(h5ad, tmp_path):
    def change(file):
        file["var/stolen"] = h5py.ExternalLink("other.h5", "/x")

    with pytest.raises(BftembedError, match="link to another file"):
        read_names(rewrite(h5ad(), change))


@pytest.mark.parametrize(
    ("content", "message"), [(b"not hdf5", "not a HDF5 file"), (b"", "not a HDF5 file"), (None, "No such file")]
)
def test_file_that_is_no_h5ad_is_refused(tmp_path, content, message):
    path = tmp_path / "cells.h5ad"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BftembedError, match=message):
        read_names(path)
    with pytest.raises(BftembedError, match=message):
        read_names(str(path))


def test_truncated_h5ad_is_refused(h5ad):
    path = h5ad()
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(BftembedError, match="truncated or damaged"):
        read_names(path)


def test_h5ad_of_another_suffix_is_recognised(h5ad):
    path = h5ad(["TP53", "EGFR"])
    assert read_names(path.rename(path.with_suffix(".h5"))).names == ("TP53", "EGFR")


def test_shared_cells_are_read(shared_data):
    assert len(read_var_names(shared_data("cells/citefuse_citeseq_pbmc500.h5ad"))) == 19_521

"""Gene names out of h5ad files of every age, and out of broken and hostile ones."""

from __future__ import annotations

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest

from bftembed.entities.lists import read_names, read_var_names
from bftembed.errors import BftembedError
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
    gaps = h5ad(["a", "b", "c"], gene_name=pd.Categorical(["TP53", None, "MYC"]))
    assert read_var_names(gaps, "gene_name") == ["TP53", "", "MYC"]


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


def test_entrez_ids_are_names_only_where_their_column_is_named(h5ad):
    path = h5ad(["7157", "1956"], entrez=["7157", "1956"])
    for read in (read_var_names, read_names):
        with pytest.raises(BftembedError, match=r"only numbers.*name the index itself as the column: _index\."):
            read(path)
    assert read_var_names(path, "_index") == read_var_names(path, "entrez") == ["7157", "1956"]
    assert read_names(path, column="_index").names == ("7157", "1956")


def rewrite(path, change):
    with h5py.File(path, "r+") as file:
        change(file)
    return path


def test_blank_var_names_suggest_the_columns(h5ad):
    path = h5ad(["", ""], feature_name=["TP53", "EGFR"])
    with pytest.raises(BftembedError, match=r"are missing.*'feature_name' \('TP53', 'EGFR'\)"):
        read_var_names(path)


def test_file_without_var_is_refused(h5ad):
    def change(file):
        del file["var"]

    with pytest.raises(BftembedError, match="there is no var"):
        read_names(rewrite(h5ad(), change))


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
        var.attrs.update({"encoding-type": "dataframe", "encoding-version": "0.1.0", "_index": "names"})
        var.attrs["column-order"] = np.array(["symbol"], dtype=h5py.string_dtype())
        var["names"] = np.array([b"a", b"b", b"c"])
        var["symbol"] = np.array([1, 0, -1], dtype="i1")
        var["__categories/symbol"] = np.array([b"EGFR", b"TP53"])
        var["symbol"].attrs["categories"] = var["__categories/symbol"].ref
    assert read_var_names(tmp_path / "old.h5ad", "symbol") == ["TP53", "EGFR", ""]
    assert read_var_names(tmp_path / "old.h5ad") == ["a", "b", "c"]


@pytest.mark.parametrize(
    "change",
    [
        lambda var: var["gene_name/codes"].write_direct(np.array([9, 9], dtype="i1")),
        lambda var: var["gene_name"].pop("categories"),
        lambda var: var.pop("_index"),
        lambda var: var.attrs.pop("encoding-type"),
    ],
    ids=["code out of range", "no categories", "no index", "no table"],
)
def test_damaged_table_is_an_error_with_its_file(h5ad, change):
    path = rewrite(h5ad(["a", "b"], gene_name=pd.Categorical(["TP53", "EGFR"])), lambda file: change(file["var"]))
    with pytest.raises(BftembedError, match=r"cells\.h5ad: var cannot be read"):
        read_var_names(path, "gene_name")


def test_shape_bomb_is_refused_before_it_is_read(h5ad):
    def change(file):
        del file["var"]["gene_name"]
        file["var"].create_dataset("gene_name", shape=(10**12,), dtype="S10", chunks=(1000,))

    with pytest.raises(BftembedError, match=r"shape \(1000000000000,\)"):
        read_var_names(rewrite(h5ad(gene_name=NAMES), change), "gene_name")

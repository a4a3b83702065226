"""Every bad input: an error that says what, where and what to do, and nothing written."""

from __future__ import annotations

import subprocess
import sys
import warnings

import anndata
import h5py
import numpy as np
import pytest
import scipy.sparse as sp

from bftembed.cells.embed import embed_cells
from bftembed.embeddings import GeneEmbeddings
from bftembed.errors import BftembedError


@pytest.fixture
def refused(cells_file, embeddings, tmp_path):
    """Give a function: break the file, expect an error with these words, and no output."""
    good = cells_file.read_bytes()

    def check(change, *words, **options):
        cells_file.write_bytes(good)
        with h5py.File(cells_file, "r+") as handle:
            change(handle)
        out = tmp_path / "out.h5ad"
        with pytest.raises(BftembedError) as caught:
            embed_cells(cells_file, embeddings, out=out, **options)
        for word in (str(cells_file), *words):
            assert word in str(caught.value)
        assert sorted(p.name for p in tmp_path.iterdir()) == ["cells.h5ad"]
        return str(caught.value)

    return check


def replace(handle, name, values, **attributes):
    kept = dict(handle[name].attrs)
    del handle[name]
    made = handle.create_dataset(name, data=values)
    made.attrs.update({**kept, **attributes})


# Files that are no h5ad.


def test_missing_folder_and_foreign_files_are_named(embeddings, tmp_path):
    text = tmp_path / "text.h5ad"
    text.write_text("cell,gene\n")
    for path, word in ((tmp_path / "no.h5ad", "No such file"), (tmp_path, "folder"), (text, "not a HDF5 file")):
        with pytest.raises(BftembedError, match=word) as caught:
            embed_cells(path, embeddings, out=tmp_path / "sub" / "out.h5ad")
        assert str(path) in str(caught.value)


@pytest.mark.parametrize("share", [0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99])
def test_file_truncated_anywhere_is_named(cells_file, embeddings, tmp_path, share):
    good = cells_file.read_bytes()
    cells_file.write_bytes(good[: int(len(good) * share)])
    with pytest.raises(BftembedError, match=r"cells\.h5ad .*(truncated or damaged|not a HDF5 file)"):
        embed_cells(cells_file, embeddings, out=tmp_path / "out.h5ad")


@pytest.mark.parametrize("member", ["X", "X/data", "var"])
def test_object_overwritten_with_garbage_is_named(cells_file, embeddings, tmp_path, member):
    with h5py.File(cells_file) as handle:
        header = h5py.h5o.get_info(handle[member].id).addr
    damaged = bytearray(cells_file.read_bytes())
    damaged[header : header + 16] = b"\xff" * 16
    cells_file.write_bytes(damaged)
    with pytest.raises(BftembedError, match=r"cells\.h5ad cannot be read: it is truncated or damaged"):
        embed_cells(cells_file, embeddings, out=tmp_path / "out.h5ad")


def test_compressed_chunk_that_does_not_unpack_is_named(cells, embeddings, tmp_path):
    path = tmp_path / "cells.h5ad"
    cells.write_h5ad(path, compression="gzip")
    with h5py.File(path) as handle:
        chunk = handle["X/data"].id.get_chunk_info(0)
    damaged = bytearray(path.read_bytes())
    damaged[chunk.byte_offset : chunk.byte_offset + chunk.size] = bytes(chunk.size)
    path.write_bytes(damaged)
    with pytest.raises(BftembedError, match="cannot be decompressed|truncated or damaged"):
        embed_cells(path, embeddings, out=tmp_path / "out.h5ad")


def test_external_link_is_refused(refused, tmp_path):
    def link(handle):
        del handle["layers"]
        handle["layers"] = h5py.ExternalLink(str(tmp_path / "other.h5ad"), "/X")

    refused(link, "link to another file")


@pytest.mark.parametrize("policy", ["nan", "drop"])
def test_hard_links_in_circles_do_not_hang(cells_file, embeddings, tmp_path, policy):
    with h5py.File(cells_file, "r+") as handle:
        handle["X/data"][: handle["X/indptr"][1]] = 0
        group = handle["obs"]
        for _ in range(40):  # 2 ** 40 paths
            inner = group.create_group("a")
            group["b"] = inner
            group = inner
        group["a"] = handle["obs"]
    report = embed_cells(cells_file, embeddings, out=tmp_path / "out.h5ad", empty_cells=policy)
    assert report.empty_cells == ("cell0",)


# Matrices that are not there, or not what they claim.


def test_absent_x_raw_and_layer_are_errors_that_list_what_is_there(refused):
    def layer_alone(handle):
        handle.pop("X")
        handle["layers"].create_dataset("counts", data=np.ones((30, 6)))

    def layer_too(handle):
        handle["layers"].create_dataset("counts", data=np.ones((30, 6)))

    refused(lambda handle: handle.pop("X"), "no expression matrix X", "no other matrix")
    refused(layer_alone, "no expression matrix X", "--layer counts")
    refused(layer_too, "no .raw", "--layer counts", use_raw=True)
    refused(layer_too, "Did you mean 'counts'", layer="count")
    refused(layer_too, "Known: counts", layer="zzz")


def test_no_x_as_anndata_writes_it(embeddings, tmp_path):
    path = tmp_path / "cells.h5ad"
    cells = anndata.AnnData(layers={"counts": np.ones((3, 2), dtype=np.float32)}, shape=(3, 2))
    cells.write_h5ad(path)
    for data, options in ((cells, {}), (path, {"out": tmp_path / "out.h5ad"})):
        with pytest.raises(BftembedError, match=r"no expression matrix X.*--layer counts"):
            embed_cells(data, embeddings, **options)


def test_layer_and_raw_together_are_refused(cells, embeddings):
    with pytest.raises(BftembedError, match="either a layer or use_raw"):
        embed_cells(cells, embeddings, layer="counts", use_raw=True)


@pytest.mark.parametrize("shape", [(0, 6), (3, 0)])
def test_no_cells_or_no_genes_is_an_error(embeddings, tmp_path, shape):
    empty = anndata.AnnData(sp.csr_matrix(shape, dtype=np.float32))
    empty.write_h5ad(tmp_path / "empty.h5ad")
    for data, options in ((empty, {}), (tmp_path / "empty.h5ad", {"out": tmp_path / "out.h5ad"})):
        with pytest.raises(BftembedError, match=f"{shape[0]} cells and {shape[1]} genes"):
            embed_cells(data, embeddings, **options)


@pytest.mark.parametrize(
    "values", [np.ones((30, 6), dtype=complex), np.full((30, 6), b"1.5"), np.ones(30), np.ones((30, 6, 1))]
)
def test_what_is_no_matrix_of_real_numbers_is_refused(refused, values):
    refused(lambda handle: replace(handle, "X", values), ": X", "expected")


def test_object_values_of_an_anndata_are_refused(cells, embeddings):
    cells.layers["o"] = cells.X.toarray().astype(object)
    with pytest.raises(BftembedError, match="type object"):
        embed_cells(cells, embeddings, layer="o")


def test_named_type_in_place_of_the_matrix_is_refused(refused):
    def swap(handle):
        del handle["X"]
        handle["X"] = np.dtype("f4")

    refused(swap, "neither values nor a group")


def test_unknown_encoding_is_refused(refused):
    refused(
        lambda handle: handle["X"].attrs.modify("encoding-type", "awkward-array"), "awkward-array", "CSR, CSC or dense"
    )


def test_a_backed_anndata_is_read_from_its_file(cells, cells_file, embeddings):
    backed = anndata.read_h5ad(cells_file, backed="r")
    found = embed_cells(backed, embeddings).obsm["X_bft"]
    backed.file.close()
    np.testing.assert_array_equal(found, embed_cells(cells, embeddings).obsm["X_bft"])


def test_foreign_objects_are_refused(embeddings, cells):
    with pytest.raises(BftembedError, match="data is a ndarray"):
        embed_cells(np.ones((2, 2)), embeddings)
    with pytest.raises(BftembedError, match="embeddings is a dict"):
        embed_cells(cells, {"CD3D": [1, 2]})


def test_damaged_structure_is_refused_before_any_arithmetic(refused):
    n = 30

    def shift(values, at, by):
        values = np.array(values)
        values[at] += by
        return values

    def spoil(name, at, by):
        return lambda handle: replace(handle, name, shift(handle[name][:], at, by))

    refused(spoil("X/indptr", 3, 10**6), "indptr does not start at 0 and rise", "entry 3")
    refused(spoil("X/indptr", 3, -(10**6)), "damaged")
    refused(lambda handle: replace(handle, "X/indptr", np.arange(n)), "indptr has shape")
    refused(lambda handle: replace(handle, "X/indptr", np.arange(n + 1)), "indptr ends at 30")
    refused(lambda handle: replace(handle, "X/indices", handle["X/indices"][:-1]), "do not fit together")
    refused(lambda handle: handle["X"].pop("indices"), "lacks indices")
    refused(lambda handle: replace(handle, "X/indptr", 3), "lacks indptr")
    refused(lambda handle: handle["X"].attrs.__delitem__("shape"), "lacks its shape")
    refused(lambda handle: handle["X"].attrs.__setitem__("shape", "30 x 6"), "lacks its shape")


def test_shapes_that_disagree_are_refused(refused):
    def fewer_cells(handle):
        handle["X"].attrs.modify("shape", [29, 6])
        replace(handle, "X/indptr", np.append(handle["X/indptr"][:29], handle["X/indptr"][30]))

    refused(lambda handle: handle["X"].attrs.modify("shape", [30, 7]), "declares 7 genes", "6 rows")
    refused(lambda handle: handle["X"].attrs.modify("shape", [30, -6]), "do not fit together")
    refused(fewer_cells, "declares 29 cells", "30 rows")
    refused(lambda handle: handle.pop("obs"), "no obs")
    refused(lambda handle: handle["obs"].pop("_index"), "no index")


def run_command(*arguments) -> subprocess.CompletedProcess:
    """Run the command line in a process of its own, which may crash without taking the tests along."""
    command = [sys.executable, "-c", "from bftembed.cli import main; main()", "cells", "embed", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("form", ["csr", "csc"])
@pytest.mark.parametrize("index", [6_000_000, -7_000_000])
def test_index_out_of_range_is_an_error_and_not_a_crash(cells, genes_file, tmp_path, form, index):
    path, out = tmp_path / "hostile.h5ad", tmp_path / "out.h5ad"
    cells.X = {"csr": sp.csr_matrix, "csc": sp.csc_matrix}[form](cells.X)
    cells.write_h5ad(path)
    with h5py.File(path, "r+") as handle:
        handle["X/indices"][7] = index
    done = run_command(path, "--genes", genes_file, "--out", out)
    assert done.returncode == 1, done.stderr
    assert f"{path}: X: 1 stored indices are out of range, the first is {index}" in done.stderr
    assert not out.exists()


@pytest.mark.parametrize("slot", ["layers/other", "obsp/graph"])
def test_hostile_matrix_that_is_not_embedded_is_refused_before_cells_are_dropped(cells, genes_file, tmp_path, slot):
    path, out = tmp_path / "hostile.h5ad", tmp_path / "out.h5ad"
    values = cells.X.toarray()
    values[3] = 0
    cells.X = sp.csr_matrix(values)
    cells.layers["other"] = sp.csc_matrix(values)
    cells.obsp["graph"] = sp.csr_matrix(np.eye(30))
    cells.write_h5ad(path)
    with h5py.File(path, "r+") as handle:
        handle[f"{slot}/indices"][5] = 9_000_000
    done = run_command(path, "--genes", genes_file, "--out", out, "--empty-cells", "drop")
    assert done.returncode == 1, done.stderr
    assert f"{path}: /{slot}: 1 stored indices are out of range" in done.stderr
    assert not out.exists()


def test_bad_index_in_memory_is_refused_too(cells, embeddings):
    cells.X.indices[3] = 10**6
    with pytest.raises(BftembedError, match="AnnData: X.*out of range"):
        embed_cells(cells, embeddings)


@pytest.mark.parametrize("where", ["X", "X/data"])
def test_shape_bomb_is_refused_with_its_size(refused, where):
    def bomb(handle):
        attributes = dict(handle[where].attrs)
        del handle[where]
        shape = (3_000_000_000,) if where == "X/data" else (30, 10**9)
        made = handle.create_dataset(where, shape=shape, dtype="f8", chunks=(1000,) if where == "X/data" else (1, 1000))
        made.attrs.update({k: v for k, v in attributes.items() if where != "X"})

    refused(bomb, "GiB", "Refused before reading")


# Names.


def test_missing_gene_names_suggest_the_columns_that_have_them(cells, embeddings, tmp_path):
    cells.var["gene_name"] = list(cells.var_names)
    cells.var_names = [str(i) for i in range(6)]
    cells.write_h5ad(tmp_path / "cells.h5ad")
    for data, options in ((cells, {}), (tmp_path / "cells.h5ad", {"out": tmp_path / "out.h5ad"})):
        with pytest.raises(BftembedError, match=r"only numbers.*gene_name"):
            embed_cells(data, embeddings, **options)
        with pytest.raises(BftembedError, match="Did you mean 'gene_name'"):
            embed_cells(data, embeddings, gene_column="gene_names", **options)
        embed_cells(data, embeddings, gene_column="gene_name", **options)


def test_numbers_left_over_from_a_filter_are_not_read_as_entrez_ids_unless_said(cells, embeddings, tmp_path):
    cells.var_names = ["915", "4069", "931", "10578", "4818", "925"]  # these are the Entrez ids of the six genes
    cells.write_h5ad(tmp_path / "cells.h5ad")
    for data, options in ((cells, {}), (tmp_path / "cells.h5ad", {"out": tmp_path / "out.h5ad"})):
        with pytest.raises(BftembedError, match="only numbers"):
            embed_cells(data, embeddings, **options)
        embed_cells(data, embeddings, gene_column="_index", **options)
    assert cells.uns["bftembed"]["X_bft"]["n_mapped"] == 5


def test_no_gene_in_common_shows_five_of_each_side(refused):
    message = refused(
        lambda handle: replace(handle, "var/_index", [f"Foo{i}-x" for i in range(6)]),
        "none of its 6 genes",
        "--gene-column",
    )
    for name in ("Foo0-x", "Foo4-x", "CD3D", "NKG7"):
        assert name in message
    assert "Foo5-x" not in message


# Values.


@pytest.mark.parametrize(
    "value, word", [(np.nan, "NaN"), (np.inf, "infinite"), (-np.inf, "infinite"), (-3, "negative")]
)
@pytest.mark.parametrize("form", ["csr", "csc", "dense"])
def test_bad_values_are_counted_and_the_first_is_named(make_cells, embeddings, tmp_path, value, word, form):
    cells = make_cells()
    values = cells.X.toarray() + 1
    values[[4, 8], [5, 0]] = value  # gene 5 has no embedding: bad all the same
    cells.layers["bad"] = {"csr": sp.csr_matrix, "csc": sp.csc_matrix, "dense": np.asarray}[form](values)
    cells.raw = cells
    cells.write_h5ad(tmp_path / "cells.h5ad")
    for data, options in ((cells, {}), (tmp_path / "cells.h5ad", {"out": tmp_path / "out.h5ad"})):
        with pytest.raises(BftembedError) as caught:
            embed_cells(data, embeddings, layer="bad", block_rows=5, normalize="none", **options)
        for part in ("2 values", word, "'cell4' (row 4)", "'CD8A' (column 5)", "--use-raw", "layers/bad"):
            assert part in str(caught.value)
    assert not (tmp_path / "out.h5ad").exists()


def test_value_beyond_float32_is_refused(make_cells, embeddings):
    cells = make_cells(form="dense", dtype=np.float64)
    cells.X[2, 3] = 1e300
    with pytest.raises(BftembedError, match="beyond float32.*cell2"):
        embed_cells(cells, embeddings)


def test_scaled_packaged_pbmc_points_to_raw(pbmc_path, tmp_path, embeddings):
    with pytest.raises(BftembedError, match=r"negative.*--use-raw"):
        embed_cells(pbmc_path, GeneEmbeddings(["HES4", "SSU72"], np.eye(2)), out=tmp_path / "out.h5ad")


# Empty cells.


@pytest.fixture
def with_empty_cells(cells):
    """Cell 3 expresses nothing, cell 7 only the gene without an embedding."""
    values = cells.X.toarray()
    values[3] = 0
    values[7] = [0, 0, 0, 0, 0, 5]
    cells.X = sp.csr_matrix(values)
    return cells


def test_empty_cells_are_an_error_by_default(with_empty_cells, embeddings, tmp_path):
    with_empty_cells.write_h5ad(tmp_path / "cells.h5ad")
    for data, options in ((with_empty_cells, {}), (tmp_path / "cells.h5ad", {"out": tmp_path / "out.h5ad"})):
        with pytest.raises(BftembedError) as caught:
            embed_cells(data, embeddings, **options)
        for part in ("2 of 30 cells", "1 express nothing at all", "'cell3', 'cell7'", "--empty-cells drop|nan"):
            assert part in str(caught.value)
    assert "X_bft" not in with_empty_cells.obsm
    assert not (tmp_path / "out.h5ad").exists()


def test_empty_cells_are_refused_before_the_long_part(with_empty_cells, embeddings):
    told = []
    with pytest.raises(BftembedError, match="2 of 30 cells"):
        embed_cells(with_empty_cells, embeddings, progress=lambda *args: told.append(args[2]))
    assert set(told) == {"checking values"}


def test_empty_cells_become_nan_when_asked(with_empty_cells, embeddings, tmp_path):
    with_empty_cells.write_h5ad(tmp_path / "cells.h5ad")
    report = embed_cells(tmp_path / "cells.h5ad", embeddings, out=tmp_path / "out.h5ad", empty_cells="nan")
    found = embed_cells(with_empty_cells, embeddings, empty_cells="nan")
    assert found is with_empty_cells
    assert report.empty_cells == ("cell3", "cell7")
    assert report.n_empty == 2
    assert np.flatnonzero(np.isnan(found.obsm["X_bft"]).all(axis=1)).tolist() == [3, 7]
    assert np.isnan(found.obsm["X_bft"]).any(axis=1).sum() == 2
    assert list(found.uns["bftembed"]["X_bft"]["empty_cells"]) == ["cell3", "cell7"]


def test_empty_cells_are_left_out_when_asked(with_empty_cells, embeddings, tmp_path):
    path = tmp_path / "cells.h5ad"
    with_empty_cells.layers["counts"] = with_empty_cells.X.copy()
    with_empty_cells.write_h5ad(path)
    report = embed_cells(path, embeddings, out=tmp_path / "out.h5ad", empty_cells="drop")
    written = anndata.read_h5ad(tmp_path / "out.h5ad")
    returned = embed_cells(with_empty_cells, embeddings, empty_cells="drop")
    assert returned is not with_empty_cells
    assert "X_bft" not in with_empty_cells.obsm
    for kept in (written, returned):
        assert kept.n_obs == 28
        assert not {"cell3", "cell7"} & set(kept.obs_names)
        assert np.isfinite(kept.obsm["X_bft"]).all()
        np.testing.assert_array_equal(kept.layers["counts"].toarray(), kept.X.toarray())
        assert list(kept.uns["bftembed"]["X_bft"]["empty_cells"]) == ["cell3", "cell7"]
    np.testing.assert_array_equal(written.obsm["X_bft"], returned.obsm["X_bft"])
    assert (report.n_cells, report.n_empty) == (30, 2)


def test_dropping_every_cell_is_an_error(embeddings):
    nothing = anndata.AnnData(np.zeros((3, 1), dtype=np.float32))
    nothing.var_names = ["LYZ"]
    with pytest.raises(BftembedError, match="leaves no cell"):
        embed_cells(nothing, embeddings, empty_cells="drop")


def test_cell_whose_genes_cancel_out_has_no_direction_and_counts_as_empty():
    data = anndata.AnnData(np.array([[2.0, 2.0], [1, 3]], dtype=np.float32))
    data.var_names = ["LYZ", "CD3D"]
    opposite = GeneEmbeddings(["LYZ", "CD3D"], [[1, 1], [-1, -1]])
    with pytest.raises(BftembedError, match=r"1 of 2 cells"):
        embed_cells(data, opposite)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        embed_cells(data, opposite, empty_cells="nan")
    assert np.isnan(data.obsm["X_bft"]).all(axis=1).tolist() == [True, False]


@pytest.mark.parametrize(
    "vectors",
    [
        [[1, 30], [1, 1]],  # one column overflows, and the first is fine
        [[30, 30], [1, 1]],  # all do
        [[1, 30], [1, -30]],  # one to both sides: inf - inf
    ],
)
@pytest.mark.parametrize("l2", [True, False])
@pytest.mark.parametrize("policy", ["error", "nan", "drop"])
def test_cell_whose_vector_overflows_is_an_error_that_names_it(vectors, l2, policy):
    values = np.array([[1, 2], [3e37, 3e37], [0, 1]], dtype=np.float32)
    data = anndata.AnnData(values)
    data.var_names = ["LYZ", "CD3D"]
    data.obs_names = ["a", "huge", "c"]
    two = GeneEmbeddings(["LYZ", "CD3D"], np.array(vectors))
    with pytest.raises(BftembedError, match=r"1 cells overflow float32: '?huge.*log1p-cp10k"):
        embed_cells(data, two, normalize="none", l2=l2, empty_cells=policy)
    assert "X_bft" not in data.obsm
    embed_cells(data, two, normalize="log1p-cp10k", l2=l2, empty_cells=policy)
    assert not np.isinf(data.obsm["X_bft"]).any()


# Options.


@pytest.mark.parametrize("key", ["", "a/b", "/", ".", "..", " ", "a\0b", 3])
def test_key_that_cannot_be_written_is_refused(cells, embeddings, key):
    with pytest.raises(BftembedError, match=r"cannot be a key of \.obsm"):
        embed_cells(cells, embeddings, key=key)


@pytest.mark.parametrize(
    "option, near",
    [({"normalize": "log1p"}, "log1p-cp10k"), ({"denominator": "all"}, "all-genes"), ({"empty_cells": "dorp"}, "drop")],
)
def test_unknown_option_value_says_what_was_meant(cells, embeddings, option, near):
    with pytest.raises(BftembedError, match=near):
        embed_cells(cells, embeddings, **option)


def test_block_of_no_rows_is_refused(cells, embeddings):
    with pytest.raises(BftembedError, match="block_rows"):
        embed_cells(cells, embeddings, block_rows=0)


def test_missing_gene_embeddings_are_named(cells, tmp_path):
    with pytest.raises(BftembedError, match=r"no\.safetensors"):
        embed_cells(cells, tmp_path / "no.safetensors")


def test_output_below_a_file_is_named(cells_file, embeddings):
    with pytest.raises(BftembedError, match=r"Cannot write .*cells\.h5ad/out\.h5ad"):
        embed_cells(cells_file, embeddings, out=cells_file / "out.h5ad")

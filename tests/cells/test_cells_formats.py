"""The same values come out of h5ad, zarr 2 and 3, MuData, backed AnnData and .obsm, and bad stores are refused."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import warnings

import anndata
import h5py
import mudata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bftembed.cells.reading import backed_path, expression_in, expression_of_anndata
from bftembed.cells.zarr_store import open_zarr
from bftembed.errors import BftembedError

CONTAINERS = ["h5ad", "zarr2", "zarr3", "h5mu", "mu.zarr", "backed r", "backed r+", "memory"]
FORMS = ["csr", "csc", "dense"]


def write(adata, folder, container):
    """Write `adata` and return the path and the options that lead back to it."""
    path = folder / f"cells.{container}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if container.startswith("zarr"):
            with anndata.settings.override(zarr_write_format=int(container[-1])):
                adata.write_zarr(path)
        elif container in ("h5mu", "mu.zarr"):
            other = anndata.AnnData(np.ones((adata.n_obs, 1), dtype=np.float32), obs=adata.obs[[]])
            both = mudata.MuData({"adt": other, "rna": adata})
            both.write(path) if container == "h5mu" else both.write_zarr(path)
            return path, {"modality": "rna"}
        else:
            adata.write_h5ad(path, compression="gzip")
    return path, {}


def read(expression, block_rows=7, cells=None):
    """Return all rows as one dense matrix."""
    whole = np.zeros(expression.matrix.shape)
    for rows in expression.matrix.rows(block_rows, cells):
        for i in range(len(rows.indptr) - 1):
            part = slice(rows.indptr[i], rows.indptr[i + 1])
            whole[rows.start + i, rows.indices[part]] += rows.values[part]
    return whole


@contextlib.contextmanager
def way_in(adata, folder, container):
    """Give a function of the options of `expression_in` that opens `adata`, written once to the container."""
    if container == "memory":
        defaults = {"layer": None, "use_raw": False, "gene_column": None}
        yield lambda **options: contextlib.nullcontext(expression_of_anndata(adata, **{**defaults, **options}))
        return
    path, more = write(adata, folder, container)
    if not container.startswith("backed"):
        yield lambda **options: expression_in(path, **options, **more)
        return
    backed = anndata.read_h5ad(path, backed=container.removeprefix("backed "))
    yield lambda **options: expression_in(backed_path(backed), **options)
    backed.file.close()


@pytest.fixture
def full(make_cells):
    """Give a function: an AnnData with layers, raw, obsm of every kind, names in columns and in uns."""

    def make(form="csr"):
        cells = make_cells(form=form)
        wrap = {"csr": sp.csr_matrix, "csc": sp.csc_matrix, "dense": np.asarray}[form]
        rng = np.random.default_rng(5)
        cells.raw = make_cells(form=form, seed=9)
        cells.layers["other"] = wrap(rng.poisson(1.0, size=cells.shape).astype(np.int32))
        cells.var["symbol"] = [f"s{i}" for i in range(6)]
        cells.var["group"] = pd.Categorical(list("ababab"))
        counts = rng.poisson(1.0, size=(30, 4)).astype(np.float32) + np.eye(30, 4, dtype=np.float32)
        cells.obsm["ADT"] = wrap(counts)
        cells.uns["ADT_names"] = np.array(["CD3", "CD4", "CD8", "CD19"], dtype=object)
        cells.uns["panel"] = {"names": np.array(["p", "q", "r", "s"], dtype=object)}
        cells.obsm["table"] = pd.DataFrame(counts, index=cells.obs_names, columns=list("wxyz"))
        cells.obsm["mixed"] = pd.DataFrame({"a": np.arange(30), "b": np.ones(30)}, index=cells.obs_names)
        cells.uns["log1p"] = {"base": None}
        return cells

    return make


# Sound containers.


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("form", FORMS)
def test_every_container_gives_the_values_and_names(container, form, full, tmp_path):
    cells = full(form)
    dense = {
        "X": cells.to_df().to_numpy(),
        "layers/other": cells.to_df("other").to_numpy(),
        "raw/X": cells.raw.to_adata().to_df().to_numpy(),
        "obsm/ADT": np.asarray(cells.obsm["ADT"].todense() if sp.issparse(cells.obsm["ADT"]) else cells.obsm["ADT"]),
        "obsm/table": cells.obsm["table"].to_numpy(),
        "obsm/mixed": cells.obsm["mixed"].to_numpy(),
    }
    genes, proteins = list(cells.var_names), ["CD3", "CD4", "CD8", "CD19"]
    with way_in(cells, tmp_path, container) as way:
        for options, name, names in [
            ({}, "X", genes),
            ({"gene_column": "symbol"}, "X", [f"s{i}" for i in range(6)]),
            ({"gene_column": "group"}, "X", list("ababab")),
            ({"layer": "other"}, "layers/other", genes),
            ({"use_raw": True}, "raw/X", genes),
            ({"obsm": "ADT"}, "obsm/ADT", proteins),
            ({"obsm": "ADT", "obsm_names": "uns/panel/names"}, "obsm/ADT", list("pqrs")),
            ({"obsm": "table"}, "obsm/table", list("wxyz")),
            ({"obsm": "table", "obsm_names": "uns/ADT_names"}, "obsm/table", proteins),
            ({"obsm": "mixed"}, "obsm/mixed", ["a", "b"]),
        ]:
            with way(**options) as e:
                assert np.array_equal(read(e), dense[name])
                assert (e.genes, e.cell_names()) == (names, list(cells.obs_names))
                assert e.name.removeprefix("mod/rna/") == name
                assert e.logged == (name == "X")


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    counts=st.lists(st.lists(st.integers(0, 2), min_size=3, max_size=3), min_size=1, max_size=12),
    container=st.sampled_from(["h5ad", "zarr2", "zarr3", "h5mu"]),
    form=st.sampled_from(FORMS),
    dtype=st.sampled_from(["f4", "f8", "i4", "u2"]),
    first=st.integers(0, 11),
)
def test_any_small_matrix_is_read_back(counts, container, form, dtype, first, tmp_path_factory):
    values = np.array(counts, dtype=dtype)
    wrap = {"csr": sp.csr_matrix, "csc": sp.csc_matrix, "dense": np.asarray}[form]
    cells = anndata.AnnData(wrap(values))
    cells.obs_names = [f"c{i}" for i in range(len(values))]
    cells.var_names = ["A", "B", "C"]
    path, options = write(cells, tmp_path_factory.mktemp("any"), container)
    first = min(first, len(values))
    with expression_in(path, **options) as e:
        assert np.array_equal(read(e, 2), values)
        assert np.array_equal(read(e, 2, range(first, len(values)))[first:], values[first:])
        assert e.cell_name_part(range(first, len(values))) == list(cells.obs_names[first:])


@pytest.mark.parametrize("container", ["zarr2", "zarr3"])
@pytest.mark.parametrize("form", FORMS)
def test_zarr_of_many_chunks_is_read_across_them(container, form, tmp_path):
    wrap = {"csr": sp.csr_matrix, "csc": sp.csc_matrix, "dense": np.asarray}[form]
    values = np.random.default_rng(1).poisson(0.5, size=(200, 40)).astype(np.float32)
    cells = anndata.AnnData(wrap(values), obs=pd.DataFrame(index=[f"c{i}" for i in range(200)]))
    cells.var_names = [f"g{i}" for i in range(40)]

    with warnings.catch_warnings(), anndata.settings.override(zarr_write_format=int(container[-1])):
        warnings.simplefilter("ignore")
        group = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=int(container[-1]))
        anndata.io.write_elem(group, "/", cells)
        x = {"data": 37, "indices": 41, "indptr": 50} if form != "dense" else {}
        for name, size in x.items():
            old = group[f"X/{name}"]
            kept = old[:]
            del group[f"X/{name}"]
            group["X"].create_array(name, data=kept, chunks=(size,))
        if form == "dense":
            kept = dict(group["X"].attrs)
            del group["X"]
            group.create_array("X", data=values, chunks=(33, 17), attributes=kept)
        names = group["obs/_index"][:]
        del group["obs/_index"]
        made = group["obs"].create_array("_index", shape=(200,), dtype=str, chunks=(30,))
        made[:] = names
    with expression_in(tmp_path / "a.zarr") as e:
        assert np.array_equal(read(e, 23), values)
        assert e.cell_name_part(range(25, 95)) == [f"c{i}" for i in range(25, 95)]
        assert e.cell_names() == [f"c{i}" for i in range(200)]


def test_sharded_zarr_is_read(make_cells, tmp_path):
    cells = make_cells(form="dense")
    path, _ = write(cells, tmp_path, "zarr3")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        group = zarr.open_group(path, mode="r+", use_consolidated=False)
        del group["X"]
        group.create_array("X", data=cells.X, chunks=(5, 3), shards=(10, 6))
    with expression_in(path) as e:
        assert np.array_equal(read(e), cells.X)


@pytest.mark.parametrize("container", ["h5ad", "zarr2", "zarr3"])
def test_part_of_a_categorical_index_is_read(container, make_cells, tmp_path):
    path, _ = write(make_cells(), tmp_path, container)
    names = pd.Categorical([f"cell{i % 4}" for i in range(30)])
    if container == "h5ad":
        with h5py.File(path, "r+") as handle:
            del handle["obs/_index"]
            anndata.io.write_elem(handle["obs"], "_index", names)
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            group = zarr.open_group(path, mode="r+", use_consolidated=False)
            del group["obs/_index"]
            anndata.io.write_elem(group["obs"], "_index", names)
    with expression_in(path) as e:
        assert e.cell_name_part(range(5, 11)) == list(names[5:11])
        assert e.cell_name_part(range(5, 5)) == []
        assert e.cell_names() == list(names)


def test_part_of_the_compound_index_before_anndata_0_7_is_read(make_cells, tmp_path):
    path, _ = write(make_cells(), tmp_path, "h5ad")
    with h5py.File(path, "r+") as handle:
        del handle["obs"]
        table = np.array([(f"c{i}".encode(), i) for i in range(30)], dtype=[("index", "S8"), ("n", "i4")])
        handle.create_dataset("obs", data=table)
    with expression_in(path) as e:
        assert e.cell_name_part(range(28, 30)) == ["c28", "c29"]
        assert len(e.cell_names()) == 30


def test_names_of_many_cells_are_read_in_parts(make_cells, tmp_path, monkeypatch):
    monkeypatch.setattr("bftembed.cells.reading._NAMES_AT_ONCE", 7)
    path, _ = write(make_cells(), tmp_path, "h5ad")
    with expression_in(path) as e:
        assert e.cell_names() == [f"cell{i}" for i in range(30)]


def test_proteins_of_a_real_cite_seq_file(shared_data):
    path = shared_data("cells/citefuse_citeseq_pbmc500.h5ad")
    adata = anndata.read_h5ad(path)
    with expression_in(path, obsm="ADT") as e:
        assert (e.n_cells, e.n_genes, e.name) == (500, 49, "obsm/ADT")
        assert e.genes[:2] == ["B220 (CD45R)", "B7-H1 (PD-L1)"]
        assert np.array_equal(read(e, 64), adata.obsm["ADT"])
        assert e.cell_names() == list(adata.obs_names)
    with expression_in(path) as e:
        assert e.n_genes == 19_521


# What is asked for and not there.


def test_modalities_are_listed_and_named(make_cells, tmp_path):
    path, _ = write(make_cells(), tmp_path, "h5mu")
    with pytest.raises(BftembedError, match=r"h5mu holds MuData with the modalities adt, rna.*--modality adt"):
        expression_in(path).__enter__()
    with pytest.raises(BftembedError, match=r"Unknown modality 'rnaa'.*Did you mean 'rna'"):
        expression_in(path, modality="rnaa").__enter__()
    with pytest.raises(BftembedError, match=r"cells.h5mu: mod/rna has no .raw"):
        expression_in(path, modality="rna", use_raw=True).__enter__()
    with expression_in(path, modality="rna") as e:
        assert (e.name, e.where) == ("mod/rna/X", f"{path}: mod/rna/X")


@pytest.mark.parametrize("container", ["h5ad", "zarr2", "zarr3"])
def test_modality_of_a_plain_file_is_refused(container, make_cells, tmp_path):
    path, _ = write(make_cells(), tmp_path, container)
    with pytest.raises(BftembedError, match="holds one AnnData, no modalities"):
        expression_in(path, modality="rna").__enter__()


@pytest.mark.parametrize("container", ["h5ad", "zarr2", "zarr3", "memory"])
def test_obsm_without_fitting_names_says_how_to_give_them(container, full, tmp_path):
    cells = full()
    cells.obsm["few"] = np.ones((30, 3), dtype=np.float32)
    cells.uns["few_names"] = np.array(["a", "b"], dtype=object)
    cells.obsm["none"] = np.ones((30, 3), dtype=np.float32)
    cells.obsm["text"] = pd.DataFrame({"a": ["x"] * 30}, index=cells.obs_names)
    cells.obsm["numbered"] = pd.DataFrame(np.ones((30, 2)), index=cells.obs_names, columns=["0", "1"])
    cells.obsm["cube"] = np.ones((30, 2, 2))
    if container != "memory":
        path, _ = write(cells, tmp_path, container)

    def refused(match, **options):
        with pytest.raises(BftembedError, match=match):
            if container == "memory":
                expression_of_anndata(cells, **{"layer": None, "use_raw": False, "gene_column": None, **options})
            else:
                expression_in(path, **options).__enter__()

    refused(r"few has 3 columns, but uns/few_names holds 2 names.*obsm_names='uns/KEY'", obsm="few")
    refused(r"columns have no names.*uns\['none_names'\]", obsm="none")
    refused("columns have no names", obsm="numbered")
    refused("there are no names in uns/zzz.*Give the 3 names", obsm="none", obsm_names="uns/zzz")
    refused("there are no names in uns/panel/zzz", obsm="none", obsm_names="uns/panel/zzz")
    refused("obsm_names is 'ADT_names'", obsm="none", obsm_names="ADT_names")
    refused("obsm_names is 'uns/'", obsm="none", obsm_names="uns/")
    refused("Unknown key of .obsm 'ADTs'.*Did you mean 'ADT'", obsm="ADTs")
    refused("text.*(number|type object)", obsm="text")
    refused("cube has shape", obsm="cube")
    refused("not several", obsm="ADT", layer="other")
    refused("not several", obsm="ADT", use_raw=True)
    refused("gene_column .*is of .var", obsm="ADT", gene_column="symbol")
    refused("give obsm", obsm_names="uns/ADT_names")


@pytest.mark.parametrize("container", ["h5ad", "zarr2", "zarr3"])
def test_no_x_is_told(container, tmp_path):
    cells = anndata.AnnData(layers={"counts": np.ones((3, 2), dtype=np.float32)}, shape=(3, 2))
    cells.var_names = ["A", "B"]
    path, _ = write(cells, tmp_path, container)
    with pytest.raises(BftembedError, match="no expression matrix X.*--layer counts"):
        expression_in(path).__enter__()
    with expression_in(path, layer="counts") as e:
        assert e.n_genes == 2


def test_what_was_changed_in_a_backed_file_is_in_its_bytes(make_cells, tmp_path):
    path, _ = write(make_cells(form="dense"), tmp_path, "h5ad")
    backed = anndata.read_h5ad(path, backed="r+")
    backed.X[3] = 7
    found = backed_path(backed)
    (tmp_path / "copy.h5ad").write_bytes(found.read_bytes())
    with expression_in(tmp_path / "copy.h5ad") as e, expression_in(found) as same:
        assert (read(e)[3] == 7).all()
        assert (read(same)[3] == 7).all()
    backed.file.close()


def test_backed_views_and_lost_files_are_refused(make_cells, tmp_path):
    path, _ = write(make_cells(), tmp_path, "h5ad")
    with pytest.raises(BftembedError, match="in memory, not backed"):
        backed_path(make_cells())
    backed = anndata.read_h5ad(path, backed="r")
    with pytest.raises(BftembedError, match=r"a part of one that is backed by .*cells.h5ad.*to_memory"):
        backed_path(backed[:3])
    backed.file.close()
    path.unlink()
    with pytest.raises(BftembedError, match="is gone"):
        backed_path(backed)


# Stores that are none, damaged or hostile.


def store(version, cells, tmp_path):
    path, _ = write(cells, tmp_path, f"zarr{version}")
    return path


def metadata(path, array, version):
    return path / array / ("zarr.json" if version == 3 else ".zarray")


def chunk(path, array, version):
    return path / array / ("c/0" if version == 3 else "0")


def refused(path, match, **options):
    with pytest.raises(BftembedError, match=match) as caught, expression_in(path, **options) as e:
        read(e)
        e.cell_names()
    assert str(path) in str(caught.value)


def test_folder_that_is_no_store_is_named(tmp_path):
    refused(tmp_path, "is a folder, but no zarr store")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep/.zgroup").write_text("{}")
    refused(tmp_path, "is a folder, but no zarr store")
    refused(tmp_path / "absent.zarr", "No such file")
    with pytest.raises(BftembedError, match="is no folder"), open_zarr(tmp_path / "absent.zarr"):
        pass
    zarr.create_array(tmp_path / "one.zarr", data=np.ones((3, 3)))
    refused(tmp_path / "one.zarr", "one array alone")


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), RecursionError("too deep")])
def test_store_that_cannot_be_walked_is_named(error, cells, tmp_path, monkeypatch):
    path = store(2, cells, tmp_path)

    def scandir(folder):
        raise error

    monkeypatch.setattr("bftembed.cells.zarr_store.os.scandir", scandir)
    refused(path, "cannot be read: .*(denied|too deep).* Check its permissions")


@pytest.mark.parametrize("version", [2, 3])
class TestHostileStores:
    def test_links_out_of_the_store_are_refused(self, version, cells, tmp_path):
        secret = tmp_path / "secret"
        secret.mkdir()
        (secret / "0").write_bytes(b"x")
        for i, (name, target) in enumerate(
            [
                (str(chunk(tmp_path, "X/data", version).relative_to(tmp_path)), secret / "0"),
                ("layers/more", secret),
                ("uns/dangling", tmp_path / "nowhere"),
                (str(metadata(tmp_path, "X/data", version).relative_to(tmp_path)), secret / "0"),
            ]
        ):
            folder = tmp_path / str(i)
            folder.mkdir()
            path = store(version, cells, folder)
            (path / name).unlink(missing_ok=True)
            (path / name).symlink_to(target)
            refused(path, "symbolic link")

    def test_a_link_to_the_store_itself_is_followed(self, version, cells, tmp_path):
        path = store(version, cells, tmp_path)
        (tmp_path / "link.zarr").symlink_to(path)
        with expression_in(tmp_path / "link.zarr") as e:
            assert e.n_cells == 30

    def test_a_pipe_does_not_hang(self, version, cells, tmp_path):
        path = store(version, cells, tmp_path)
        chunk(path, "X/data", version).unlink()
        os.mkfifo(chunk(path, "X/data", version))
        refused(path, "no ordinary file")

    def test_unknown_codecs_are_refused_before_any_read(self, version, cells, tmp_path):
        for i, array in enumerate(("var/_index", "X/data", "layers/unused")):
            (tmp_path / str(i)).mkdir()
            path = store(version, cells, tmp_path / str(i))
            file = metadata(path, array, version)
            if not file.exists():
                file.parent.mkdir()
                file.write_bytes(metadata(path, "X/data", version).read_bytes())
            found = json.loads(file.read_text())
            if version == 2:
                found["filters"] = [{"id": "pickle"}]
            else:
                found["codecs"] = [{"name": "numcodecs.pickle", "configuration": {}}]
            file.write_text(json.dumps(found))
            refused(path, f"{array} is packed with the codec '(numcodecs.)?pickle'")

    def test_codecs_inside_of_codecs_are_seen(self, version, cells, tmp_path):
        path = store(version, cells, tmp_path)
        file = metadata(path, "X/data", version)
        found = json.loads(file.read_text())
        inner = {"chunk_shape": [1], "codecs": [{"name": "evil"}], "index_codecs": [{"name": "bytes"}]}
        found["codecs"] = [{"name": "sharding_indexed", "configuration": inner}]
        file.write_text(json.dumps(found))
        refused(path, "the codec 'evil'")

    def test_damaged_metadata_is_named(self, version, cells, tmp_path):
        for i, text in enumerate(("{", "[]", "\udcff", "[" * 100_000, '{"zarr_format": 7}')):
            (tmp_path / str(i)).mkdir()
            path = store(version, cells, tmp_path / str(i))
            metadata(path, "X/data", version).write_text(text, errors="surrogateescape")
            refused(path, "X/data.* (damaged|lacks data)")

    @pytest.mark.parametrize("array", ["X/data", "X/indices", "X/indptr", "obs/_index", "var/_index"])
    def test_damaged_and_missing_chunks_are_named(self, version, array, cells, tmp_path):
        for i, change in enumerate(
            (
                lambda file: file.write_bytes(b"\xff" * file.stat().st_size),
                lambda file: file.write_bytes(file.read_bytes()[: file.stat().st_size // 2]),
                lambda file: file.write_bytes(b""),
                lambda file: file.unlink(),
            )
        ):
            (tmp_path / str(i)).mkdir()
            path = store(version, cells, tmp_path / str(i))
            change(chunk(path, array, version))
            refused(path, "damaged|lacks 1 of its 1 chunks")

    @pytest.mark.parametrize("array", ["X/data", "X/indptr", "obs/_index", "var/_index"])
    def test_declared_sizes_with_nothing_behind_them_are_refused(self, version, array, cells, tmp_path):
        for i, keys in enumerate((("shape",), ("shape", "chunks"), ("chunks",))):
            (tmp_path / str(i)).mkdir()
            path = store(version, cells, tmp_path / str(i))
            file = metadata(path, array, version)
            found = json.loads(file.read_text())
            if "shape" in keys:
                found["shape"] = [10**12]
            if "chunks" in keys and version == 2:
                found["chunks"] = [10**12]
            elif "chunks" in keys:
                found["chunk_grid"]["configuration"]["chunk_shape"] = [10**12]
            file.write_text(json.dumps(found))
            refused(path, rf"{array}.* declares shape .*GiB")

    def test_consolidated_metadata_is_not_believed(self, version, cells, tmp_path):
        path = store(version, cells, tmp_path)
        file = path / (".zmetadata" if version == 2 else "zarr.json")
        found = json.loads(file.read_text())
        if version == 2:
            found["metadata"]["X/data/.zarray"]["filters"] = [{"id": "pickle"}]
        else:
            found["consolidated_metadata"]["metadata"]["X"]["attributes"]["shape"] = [1, 1]
        file.write_text(json.dumps(found))
        with expression_in(path) as e:
            assert np.array_equal(read(e), cells.X.toarray())

    def test_structure_is_checked_as_in_hdf5(self, version, cells, tmp_path):
        path = store(version, cells, tmp_path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            group = zarr.open_group(path, mode="r+", use_consolidated=False)
            group["X/indices"][5] = 6_000_000
        refused(path, "1 stored indices are out of range, the first is 6000000")
        refused(path, "Unknown layer", layer="../X")
        del group["obs"]
        refused(path, "no obs")
        group["X"].attrs["shape"] = [30, 7]
        refused(path, "declares 7 genes, but var has 6 rows")


def with_names(adata, folder, version, column, kind):
    """Write a store, and a column of names as a group: nullable text as pandas 3 and anndata 0.13 do, or a categorical.

    Returns the store and the names.
    """
    path, _ = write(adata, folder, f"zarr{version}")
    table, name = column.split("/")
    names = [str(x) for x in (adata.obs_names if table == "obs" else adata.var_names)]
    array = pd.array(names, dtype="string") if kind == "values" else pd.Categorical(names, categories=names)
    with warnings.catch_warnings(), anndata.settings.override(allow_write_nullable_strings=True):
        warnings.simplefilter("ignore")
        group = zarr.open_group(path, mode="r+", use_consolidated=False)[table]
        if name in group:
            del group[name]
        anndata.io.write_elem(group, name, array)
    return path, names


@pytest.mark.parametrize("version", [2, 3])
def test_cell_names_of_which_a_chunk_is_missing_are_an_error(version, make_cells, tmp_path):
    path, names = with_names(make_cells(), tmp_path, version, "obs/_index", "values")
    with expression_in(path) as e:
        assert e.cell_names() == names
    # No name is missing, so zarr has left out the mask.
    assert not chunk(path, "obs/_index/mask", version).exists()
    chunk(path, "obs/_index/values", version).unlink()
    refused(path, "obs/_index/values lacks 1 of its 1 chunks")


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("part", ["values", "codes", "categories"])
def test_gene_names_of_which_a_chunk_is_missing_are_an_error(version, part, make_cells, tmp_path):
    path, names = with_names(make_cells(), tmp_path, version, "var/symbol", part)
    with expression_in(path, gene_column="symbol") as e:
        assert e.genes == names
    chunk(path, f"var/symbol/{part}", version).unlink()
    refused(path, f"var/symbol/{part} lacks 1 of its 1 chunks", gene_column="symbol")


def test_pickle_in_a_chunk_is_never_run(tmp_path, cells):
    class Boom:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "ran"),))

    path = store(2, cells, tmp_path)
    file = metadata(path, "var/_index", 2)
    found = json.loads(file.read_text())
    found.update(filters=[{"id": "pickle"}], compressor=None)
    file.write_text(json.dumps(found))
    chunk(path, "var/_index", 2).write_bytes(pickle.dumps(np.array([Boom()] * 6, dtype=object)))
    refused(path, "pickle")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("container", ["h5ad", "zarr2", "zarr3"])
def test_damage_that_shows_while_reading_is_named(container, make_cells, tmp_path):
    cells = make_cells(form="dense")
    path, _ = write(cells, tmp_path, container)
    if container == "h5ad":
        with h5py.File(path) as handle:
            found = handle["X"].id.get_chunk_info(0)
        raw = bytearray(path.read_bytes())
        raw[found.byte_offset : found.byte_offset + found.size] = b"\xff" * found.size
        path.write_bytes(raw)
    else:
        file = path / ("X/0.0" if container == "zarr2" else "X/c/0/0")
        file.write_bytes(b"\xff" * file.stat().st_size)
    with pytest.raises(BftembedError, match=r"cells\..*X cannot be read: it is truncated"), expression_in(path) as e:
        read(e)


def test_names_of_proteins_that_are_damaged_are_named(full, tmp_path):
    path, _ = write(full(), tmp_path, "zarr2")
    (path / "uns/ADT_names/0").unlink()
    refused(path, "uns/ADT_names lacks 1 of its 1 chunks", obsm="ADT")

"""GeneEmbeddings: what it refuses, and that a file gives back what was saved."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from safetensors.numpy import load_file, save_file

from bftembed.embeddings import FORMAT, SCHEMA, GeneEmbeddings
from bftembed.errors import BftembedError, UnknownNameError


@pytest.fixture
def three() -> GeneEmbeddings:
    matrix = np.arange(1, 13, dtype=np.float32).reshape(3, 4)
    return GeneEmbeddings(["TP53", "EGFR", "HLA-DRA"], matrix, {"encoder": {"name": "x"}, "counts": [1, 2]})


def test_looks_up_vectors_by_id(three: GeneEmbeddings) -> None:
    assert (len(three), three.dim) == (3, 4)
    assert "EGFR" in three
    assert "egfr" not in three
    np.testing.assert_array_equal(three.vector("EGFR"), [5, 6, 7, 8])
    made = GeneEmbeddings(["A"], np.array([[1, 2]], dtype=np.uint8))
    assert (made.matrix.dtype, made.matrix.tolist()) == (np.float32, [[1, 2]])
    with pytest.raises(UnknownNameError, match=r"'NOPE', 'NADA'.*'TP53'"):
        three.subset(["TP53", "NOPE", "NADA"])
    with pytest.raises(UnknownNameError, match="'NOPE'"):
        three.vector("NOPE")


BAD = {
    "duplicate": (["A", "B", "A"], np.ones((3, 2)), "'A' occurs twice"),
    "empty id": (["A", " "], np.ones((2, 2)), "Row 1"),
    "id not text": (["A", 7], np.ones((2, 2)), "Row 1"),
    "id not Unicode": (["A", "\ud800"], np.ones((2, 2)), "Row 1"),
    "one string": ("AB", np.ones((2, 2)), "one string"),
    "lengths": (["A"], np.ones((2, 2)), "1 ids, but 2 rows"),
    "one axis": (["A"], np.ones(1), r"shape \(1,\)"),
    "object": (["A"], np.array([["x"]], dtype=object), "dtype object"),
    "bool": (["A"], np.ones((1, 1), dtype=bool), "dtype bool"),
    "nan": (["A", "B"], np.array([[1, 1], [1, np.nan]]), "1 of 2 .*'B'"),
    "beyond float32": (["A", "B"], np.array([[1, 1], [1e300, 1]]), "'B'"),
    "zero row": (["A", "B"], np.array([[1, 1], [0, 0]]), "zero.*'B'"),
    "beneath float32": (["A"], np.array([[1e-300, 0]]), "zero.*'A'"),
    "nothing": ([], np.ones((0, 3)), "shape"),
    "no dimension": (["A"], np.ones((1, 0)), "shape"),
}


@pytest.mark.parametrize("case", BAD)
def test_refuses(case: str) -> None:
    ids, matrix, message = BAD[case]
    with pytest.raises(BftembedError, match=message):
        GeneEmbeddings(ids, matrix)


def test_published_vectors_keep_double_precision_and_zero_rows(tmp_path: Path) -> None:
    matrix = np.array([[0.1, 1e300], [0, 0], [1e-300, 0]])
    made = GeneEmbeddings(["A", "B", "C"], matrix, {"x": 1}, as_published=True)
    assert made.matrix.dtype == np.float64
    np.testing.assert_array_equal(made.matrix, matrix)
    assert made.subset(["B", "C"]).as_published
    assert GeneEmbeddings(["A"], np.ones((1, 1), np.float16), as_published=True).matrix.dtype == np.float32
    with pytest.raises(BftembedError, match=r"usable"):
        made.save(tmp_path / "e.safetensors")
    with pytest.raises(BftembedError, match="'A'"):
        made.usable()
    usable = made.subset(["C", "B"]).resolved()
    assert usable.as_published
    part = GeneEmbeddings(["A", "B"], [[0.1, 2], [0, 0]], {"x": 1}, as_published=True).usable()
    assert (part.ids, part.provenance) == (["A"], {"x": 1, "left_out": {"zero vector": ["B"]}})
    assert part.matrix.dtype == np.float32
    for bad in (np.zeros((1, 2)), np.full((1, 2), np.nan)):
        with pytest.raises(BftembedError, match="'A'"):
            GeneEmbeddings(["A"], bad, as_published=True)


def test_ids_of_other_kinds_become_symbols_where_that_stays_one_to_one() -> None:
    ids = ["ENSG00000141510.17", "MARCH1", "HGNC:3236", "CD8", "CD15", "NO_GENE", "MYC", "7157", "MLL", "KMT2A"]
    made = GeneEmbeddings(ids, np.eye(10), {"from": "elsewhere"})
    found = GeneEmbeddings.of(made)
    assert found.ids == ["TP53", "MARCHF1", "EGFR", *ids[3:]]
    np.testing.assert_array_equal(found.matrix, made.matrix)
    resolved = {"resolved_ids": {"ensembl": 1, "previous": 1, "hgnc": 1}}
    assert found.provenance == {"from": "elsewhere"} | resolved
    two = GeneEmbeddings(["ENSG00000141510", "HGNC:11998"], np.eye(2))
    assert two.resolved() is two


@pytest.mark.parametrize("provenance", [{"x": float("nan")}, {"x": {1, 2}}, {"x": Path()}])
def test_provenance_must_be_json(provenance: dict) -> None:
    with pytest.raises(BftembedError, match="JSON"):
        GeneEmbeddings(["A"], [[1.0]], provenance)


names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).filter(str.strip)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(data=st.data(), ids=st.lists(names, min_size=1, max_size=6, unique=True), dim=st.integers(1, 5))
def test_saved_is_loaded_bit_for_bit(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, ids, dim) -> None:
    values = st.floats(allow_nan=False, allow_infinity=False, width=32)
    matrix = data.draw(arrays(np.float32, (len(ids), dim), elements=values))
    matrix[~matrix.any(axis=1), 0] = 1
    provenance = data.draw(st.dictionaries(st.text(), json_values, max_size=4))
    path = tmp_path_factory.getbasetemp() / "roundtrip.safetensors"
    made = GeneEmbeddings(ids, matrix, provenance)
    made.save(path)
    back = GeneEmbeddings.load(path)
    assert back.ids == ids
    assert back.matrix.tobytes() == matrix.tobytes()
    assert back.provenance == provenance
    assert back.fingerprint() == made.fingerprint()


def test_a_file_or_embeddings_and_nothing_else(three: GeneEmbeddings, tmp_path: Path) -> None:
    three.save(tmp_path / "three.safetensors")
    assert GeneEmbeddings.of(three) is three
    for path in (tmp_path / "three.safetensors", str(tmp_path / "three.safetensors")):
        assert GeneEmbeddings.of(path).fingerprint() == three.fingerprint()
    for wrong in (None, {"A": [1.0]}, three.matrix):
        with pytest.raises(BftembedError, match=type(wrong).__name__):
            GeneEmbeddings.of(wrong)  # type: ignore[arg-type]


def test_equal_embeddings_are_equal_files(three: GeneEmbeddings, tmp_path: Path) -> None:
    three.save(tmp_path / "a.safetensors")
    shuffled = dict(reversed(three.provenance.items()))
    GeneEmbeddings(three.ids, three.matrix[:, ::-1][:, ::-1], shuffled).save(tmp_path / "b.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_any_safetensors_reader_can_open_the_file(three: GeneEmbeddings, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "e.safetensors"
    three.save(path)
    np.testing.assert_array_equal(load_file(path)["matrix"], three.matrix)


def _header(tmp_path: Path, matrix: np.ndarray, **changes: object) -> Path:
    path = tmp_path / "e.safetensors"
    header = {"format": FORMAT, "schema": SCHEMA, "ids": ["A", "B"], "provenance": {}, **changes}
    save_file({"matrix": matrix}, path, metadata={"bftembed": json.dumps(header)})
    return path


class _Bomb:
    def __reduce__(self):
        return (os.mkdir, (self.where,))


def test_truncated_files_and_pickles_are_errors_and_nothing_is_run(three: GeneEmbeddings, tmp_path: Path) -> None:
    three.save(tmp_path / "e.safetensors")
    whole, bomb, path = (tmp_path / "e.safetensors").read_bytes(), _Bomb(), tmp_path / "bad.safetensors"
    bomb.where = str(tmp_path / "ran")
    for content in (whole[:4], whole[:40], whole[:-3], pickle.dumps(bomb)):
        path.write_bytes(content)
        with pytest.raises(BftembedError, match=r"bad\.safetensors"):
            GeneEmbeddings.load(path)
    assert not (tmp_path / "ran").exists()


def test_other_safetensors_are_refused_with_what_they_hold(tmp_path: Path) -> None:
    path = tmp_path / "e.safetensors"
    save_file({"weight": np.ones((2, 2)), "bias": np.ones(2)}, path, metadata={"format": "pt"})
    with pytest.raises(BftembedError, match="'bias', 'weight'"):
        GeneEmbeddings.load(path)


DAMAGED = {
    "newer": ({"schema": SCHEMA + 1}, np.ones((2, 2), np.float32), "schema 2"),
    "other format": ({"format": "cells"}, np.ones((2, 2), np.float32), "'cells'"),
    "ids short": ({"ids": ["A"]}, np.ones((2, 2), np.float32), "1 ids"),
    "ids no list": ({"ids": "AB"}, np.ones((2, 2), np.float32), "header"),
    "provenance": ({"provenance": []}, np.ones((2, 2), np.float32), "header"),
    "one axis": ({}, np.ones(2, np.float32), r"shape \(2,\)"),
    "float64": ({}, np.ones((2, 2)), "F64"),
    "nan": ({}, np.full((2, 2), np.nan, np.float32), "damaged: 2 of 2"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_parts_that_do_not_fit_are_refused(tmp_path: Path, case: str) -> None:
    changes, matrix, message = DAMAGED[case]
    path = _header(tmp_path, matrix, **changes)
    with pytest.raises(BftembedError, match=message) as caught:
        GeneEmbeddings.load(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("header", ["{", "[]", "[" * 200_000, '{"format": "bftembed-gene-embeddings"}'])
def test_hostile_header_is_an_error(tmp_path: Path, header: str) -> None:
    path = tmp_path / "e.safetensors"
    save_file({"matrix": np.ones((1, 1), np.float32)}, path, metadata={"bftembed": header})
    with pytest.raises(BftembedError, match="header cannot be read"):
        GeneEmbeddings.load(path)


def test_anndata_view_is_a_copy_and_survives_h5ad(three: GeneEmbeddings, tmp_path: Path) -> None:
    import anndata

    provenance = {"seed": 2**70, "a/b": None, "path": "a\0b", "bytes": "\udcff", "mixed": [{"x": 1}, 2]}
    made = GeneEmbeddings(three.ids, three.matrix, provenance)
    view = made.to_anndata()
    view.write_h5ad(tmp_path / "e.h5ad")
    view.X[0, 0] = -1
    assert made.matrix[0, 0] == 1
    back = anndata.read_h5ad(tmp_path / "e.h5ad")
    assert list(back.obs_names) == three.ids
    np.testing.assert_array_equal(back.X, three.matrix)
    assert json.loads(back.uns["bftembed"]) == provenance


def test_importing_brings_no_heavy_package() -> None:
    code = (
        "import sys, bftembed.embeddings, bftembed.encoders, bftembed.encoders.base\n"
        "import bftembed.encoders.random, bftembed.encoders.tfidf, bftembed.encoders.sentence_transformer\n"
        "heavy = {'torch', 'transformers', 'sentence_transformers', 'anndata', 'sklearn', 'scipy', 'pandas', 'h5py'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

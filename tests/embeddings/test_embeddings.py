"""GeneEmbeddings: what it refuses, and that a file gives back what was saved."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from safetensors import safe_open
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


def test_subset_keeps_the_order_asked_for(three: GeneEmbeddings) -> None:
    part = three.subset(["HLA-DRA", "TP53"])
    assert part.ids == ["HLA-DRA", "TP53"]
    np.testing.assert_array_equal(part.matrix, three.matrix[[2, 0]])
    assert part.provenance == three.provenance


def test_absent_ids_are_named(three: GeneEmbeddings) -> None:
    with pytest.raises(UnknownNameError, match=r"'NOPE', 'NADA'.*'TP53'"):
        three.subset(["TP53", "NOPE", "NADA"])
    with pytest.raises(UnknownNameError, match="'NOPE'"):
        three.vector("NOPE")


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.int32, np.uint8])
def test_real_numbers_become_float32(dtype: type) -> None:
    made = GeneEmbeddings(["A"], np.array([[1, 2]], dtype=dtype))
    assert made.matrix.dtype == np.float32
    np.testing.assert_array_equal(made.matrix, [[1, 2]])


BAD = {
    "duplicate": (["A", "B", "A"], np.ones((3, 2)), "'A' occurs twice"),
    "empty id": (["A", " "], np.ones((2, 2)), "Row 1 has the id ' '"),
    "id not text": (["A", 7], np.ones((2, 2)), "Row 1 has the id 7"),
    "id not Unicode": (["A", "\ud800"], np.ones((2, 2)), "not valid Unicode"),
    "one string": ("AB", np.ones((2, 2)), "one string"),
    "lengths": (["A"], np.ones((2, 2)), "1 ids, but 2 rows"),
    "one axis": (["A"], np.ones(1), r"shape \(1,\)"),
    "three axes": (["A"], np.ones((1, 1, 1)), r"shape \(1, 1, 1\)"),
    "object": (["A"], np.array([["x"]], dtype=object), "dtype object"),
    "complex": (["A"], np.ones((1, 1), dtype=complex), "dtype complex128"),
    "bool": (["A"], np.ones((1, 1), dtype=bool), "dtype bool"),
    "nan": (["A", "B"], np.array([[1, 1], [1, np.nan]]), "vector of 'B'.*1 of 2"),
    "infinite": (["A", "B"], np.array([[1, 1], [np.inf, 1]]), "vector of 'B'"),
    "beyond float32": (["A", "B"], np.array([[1, 1], [1e300, 1]]), "vector of 'B'"),
    "zero row": (["A", "B"], np.array([[1, 1], [0, 0]]), "vector of 'B' .*is zero"),
    "beneath float32": (["A"], np.array([[1e-300, 0]]), "vector of 'A' .*is zero"),
    "nothing": ([], np.ones((0, 3)), "no vector"),
    "no dimension": (["A"], np.ones((1, 0)), "no vector"),
}


@pytest.mark.parametrize("case", BAD)
def test_refuses(case: str) -> None:
    ids, matrix, message = BAD[case]
    with pytest.raises(BftembedError, match=message):
        GeneEmbeddings(ids, matrix)


@pytest.mark.parametrize("provenance", [{"x": float("nan")}, {"x": {1, 2}}, {"x": Path()}])
def test_provenance_must_be_json(provenance: dict) -> None:
    with pytest.raises(BftembedError, match="JSON"):
        GeneEmbeddings(["A"], [[1.0]], provenance)


def test_provenance_is_a_copy() -> None:
    given_provenance = {"a": [1]}
    made = GeneEmbeddings(["A"], [[1.0]], given_provenance)
    given_provenance["a"].append(2)
    assert made.provenance == {"a": [1]}


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
        with pytest.raises(BftembedError, match=f"embeddings is a {type(wrong).__name__}; give GeneEmbeddings"):
            GeneEmbeddings.of(wrong)  # type: ignore[arg-type]


def test_equal_embeddings_are_equal_files(three: GeneEmbeddings, tmp_path: Path) -> None:
    three.save(tmp_path / "a.safetensors")
    shuffled = dict(reversed(three.provenance.items()))
    GeneEmbeddings(three.ids, three.matrix[:, ::-1][:, ::-1], shuffled).save(tmp_path / "b.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_fingerprint_follows_ids_and_values_alone(three: GeneEmbeddings) -> None:
    assert GeneEmbeddings(three.ids, three.matrix, {"other": 1}).fingerprint() == three.fingerprint()
    assert GeneEmbeddings(["TP53", "EGFR", "B"], three.matrix).fingerprint() != three.fingerprint()
    assert GeneEmbeddings(three.ids, three.matrix + 1).fingerprint() != three.fingerprint()
    assert three.subset(three.ids[::-1]).fingerprint() != three.fingerprint()


def test_any_safetensors_reader_can_open_the_file(three: GeneEmbeddings, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "e.safetensors"
    three.save(path)
    np.testing.assert_array_equal(load_file(path)["matrix"], three.matrix)
    with safe_open(path, framework="numpy") as opened:
        header = json.loads(opened.metadata()["bftembed"])
    assert (header["format"], header["schema"], header["ids"]) == (FORMAT, SCHEMA, three.ids)


def test_sixty_thousand_ids_fit_the_header(tmp_path: Path) -> None:
    ids = [f"ENSG{i:011d}" for i in range(60_000)]
    made = GeneEmbeddings(ids, np.ones((60_000, 2), dtype=np.float32), {"left_out": {"empty": ids}})
    made.save(tmp_path / "e.safetensors")
    assert GeneEmbeddings.load(tmp_path / "e.safetensors").ids == ids


def test_failed_save_keeps_the_old_file(three: GeneEmbeddings, tmp_path: Path) -> None:
    path = tmp_path / "e.safetensors"
    three.save(path)
    before = path.read_bytes()
    code = (
        "import resource, sys, numpy as np\n"
        "from bftembed.embeddings import GeneEmbeddings\n"
        "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "GeneEmbeddings(['A'], np.ones((1, 9000))).save(sys.argv[1])\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "the disk is full" in done.stderr
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["e.safetensors"]


def _write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def _header(tmp_path: Path, matrix: np.ndarray, **changes: object) -> Path:
    path = tmp_path / "e.safetensors"
    header = {"format": FORMAT, "schema": SCHEMA, "ids": ["A", "B"], "provenance": {}, **changes}
    save_file({"matrix": matrix}, path, metadata={"bftembed": json.dumps(header)})
    return path


def test_missing_file_and_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(BftembedError, match=r"No such file: .*gone\.safetensors"):
        GeneEmbeddings.load(tmp_path / "gone.safetensors")
    with pytest.raises(BftembedError, match="is a folder"):
        GeneEmbeddings.load(tmp_path)


@pytest.mark.parametrize("keep", [4, 40, -3])
def test_truncated_file_is_refused(three: GeneEmbeddings, tmp_path: Path, keep: int) -> None:
    three.save(tmp_path / "e.safetensors")
    whole = (tmp_path / "e.safetensors").read_bytes()
    path = _write(tmp_path / "cut.safetensors", whole[:keep])
    with pytest.raises(BftembedError, match=r"cut\.safetensors is (truncated|not)"):
        GeneEmbeddings.load(path)


def test_text_file_is_refused(tmp_path: Path) -> None:
    path = _write(tmp_path / "e.safetensors", b"gene\tx\nTP53\t1\n" * 10)
    with pytest.raises(BftembedError, match=r"e\.safetensors is not a \.safetensors file"):
        GeneEmbeddings.load(path)


class _Bomb:
    def __reduce__(self):
        return (os.mkdir, (self.where,))


@pytest.mark.parametrize("name", ["e.pkl", "e.pickle", "e.safetensors", "e.pt"])
def test_pickle_is_refused_and_never_run(tmp_path: Path, name: str) -> None:
    bomb = _Bomb()
    bomb.where = str(tmp_path / "ran")
    path = _write(tmp_path / name, pickle.dumps(bomb))
    with pytest.raises(BftembedError, match="never reads these"):
        GeneEmbeddings.load(path)
    assert not (tmp_path / "ran").exists()


def test_torch_archive_is_refused_by_its_suffix(tmp_path: Path) -> None:
    # A torch file is a zip archive; it is told by its suffix.
    path = _write(tmp_path / "e.pt", b"PK\x03\x04" + b"\0" * 200)
    with pytest.raises(BftembedError, match="torch file"):
        GeneEmbeddings.load(path)


def test_other_safetensors_are_refused_with_what_they_hold(tmp_path: Path) -> None:
    path = tmp_path / "e.safetensors"
    save_file({"weight": np.ones((2, 2)), "bias": np.ones(2)}, path, metadata={"format": "pt"})
    with pytest.raises(BftembedError, match=r"'bias', 'weight'.*'format'"):
        GeneEmbeddings.load(path)


DAMAGED = {
    "newer": ({"schema": SCHEMA + 1}, np.ones((2, 2), np.float32), "Upgrade bftembed"),
    "other format": ({"format": "cells"}, np.ones((2, 2), np.float32), "holds 'cells'"),
    "ids short": ({"ids": ["A"]}, np.ones((2, 2), np.float32), r"1 ids .* shape \(2, 2\)"),
    "ids no list": ({"ids": "AB"}, np.ones((2, 2), np.float32), "header cannot be read"),
    "ids twice": ({"ids": ["A", "A"]}, np.ones((2, 2), np.float32), "damaged: .*'A' occurs twice"),
    "provenance": ({"provenance": []}, np.ones((2, 2), np.float32), "header cannot be read"),
    "one axis": ({}, np.ones(2, np.float32), r"shape \(2,\)"),
    "float64": ({}, np.ones((2, 2)), "F64, expected F32"),
    "nan": ({}, np.full((2, 2), np.nan, np.float32), "damaged: The vector of 'A'"),
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


def test_loading_while_saving_sees_a_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "e.safetensors"
    versions = [GeneEmbeddings(["A", "B"], np.full((2, 50), i + 1.0)) for i in range(2)]
    versions[0].save(path)
    writer = threading.Thread(target=lambda: [versions[i % 2].save(path) for i in range(30)])
    writer.start()
    seen = set()
    while writer.is_alive():
        matrix = GeneEmbeddings.load(path).matrix
        assert len(np.unique(matrix)) == 1
        seen.add(matrix[0, 0])
    writer.join()
    assert seen <= {1, 2}
    assert seen


def test_provenance_that_hdf5_has_no_type_for_is_json_text(three: GeneEmbeddings, tmp_path: Path) -> None:
    import anndata

    odd = {"seed": 2**70, "path": "a\0b", "bytes": "\udcff", "seeds": [1, -(2**64)], "texts": ["a", "\0"]}
    GeneEmbeddings(three.ids, three.matrix, {**odd, "k\0": 2**63 - 1}).to_anndata().write_h5ad(tmp_path / "e.h5ad")
    stored = anndata.read_h5ad(tmp_path / "e.h5ad").uns["bftembed"]
    assert {name: json.loads(stored[name]) for name in odd} == odd
    assert stored["k\\0"] == 2**63 - 1


def test_anndata_view_survives_h5ad(three: GeneEmbeddings, tmp_path: Path) -> None:
    import anndata

    provenance = {"a/b": None, "mixed": [{"x": 1}, 2], "strings": ["u", "v"], "none": [], "deep": {"k": 1.5, "t": True}}
    made = GeneEmbeddings(three.ids, three.matrix, provenance)
    view = made.to_anndata()
    view.X[0, 0] = -1
    assert made.matrix[0, 0] == 1, "the view is a copy"
    view = made.to_anndata()
    view.write_h5ad(tmp_path / "e.h5ad")
    back = anndata.read_h5ad(tmp_path / "e.h5ad")
    assert list(back.obs_names) == three.ids
    np.testing.assert_array_equal(back.X, three.matrix)
    stored = back.uns["bftembed"]
    assert list(stored["strings"]) == ["u", "v"]
    assert stored["deep"] == {"k": 1.5, "t": True}
    assert json.loads(stored["mixed"]) == [{"x": 1}, 2]
    assert json.loads(stored["a|b"]) is None


def test_importing_brings_no_heavy_package() -> None:
    code = (
        "import sys, bftembed.embeddings, bftembed.encoders, bftembed.encoders.base\n"
        "import bftembed.encoders.random, bftembed.encoders.tfidf, bftembed.encoders.sentence_transformer\n"
        "heavy = {'torch', 'transformers', 'sentence_transformers', 'anndata', 'sklearn', 'scipy', 'pandas', 'h5py'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

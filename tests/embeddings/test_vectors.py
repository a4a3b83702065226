"""Vectors of others: every format gives back what was written, and what is wrong is named."""

from __future__ import annotations

import gzip
import io
import os
import zipfile
from typing import TYPE_CHECKING

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from bftembed.embeddings import GeneEmbeddings, read, read_vectors
from bftembed.errors import BftembedError, UnknownNameError

if TYPE_CHECKING:
    from pathlib import Path

IDS = ["TP53", "NA", "HLA-DRA", "nan"]
MATRIX = np.array([[0.1, -2.5e-7, 3], [0, 0, 0], [1e10, 0.3, 7], [1, 2, 3]])


def text(tmp_path: Path, content: str | bytes, name: str = "genes.txt") -> Path:
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def refused(path: Path, match: str, **options: object) -> None:
    with pytest.raises(BftembedError, match=match) as caught:
        read_vectors(path, **options)
    assert str(path) in str(caught.value)


def same(made: GeneEmbeddings, kind: str, matrix: np.ndarray = MATRIX) -> None:
    assert made.ids == IDS
    assert made.provenance["format"] == kind
    assert made.matrix.dtype == matrix.dtype
    np.testing.assert_array_equal(made.matrix, matrix)


def rows(separator: str, header: str = "") -> str:
    lines = [separator.join([name, *map(repr, row)]) for name, row in zip(IDS, MATRIX.tolist(), strict=True)]
    return header + "\n".join(lines) + "\n"


TEXTS = {
    "tsv": (rows("\t"), "table"),
    "csv": (rows(","), "table"),
    "tsv with header": (rows("\t", "gene\td1\td2\td3\n"), "table"),
    "csv with header": (rows(",", "symbol,x,y,z\n"), "table"),
    "pandas header": (pd.DataFrame(MATRIX, index=IDS).to_csv(), "table"),
    "R header": (rows("\t", '"V1"\t"V2"\t"V3"\n').replace("TP53", '"TP53"'), "table"),
    "R header, spaces": (rows(" ", '"V1" "V2" "V3"\n').replace("TP53", '"TP53"'), "word2vec"),
    "comments": ("# made by hand\n\n" + rows("\t"), "table"),
    "blank lines": (rows("\t").replace("\n", "\n\n"), "table"),
    "windows": (rows("\t").replace("\n", "\r\n"), "table"),
    "byte order mark": ("\ufeff" + rows("\t"), "table"),
    "word2vec": (rows(" ", "4 3\n"), "word2vec"),
    "spaces": (rows(" "), "word2vec"),
    "gene2vec": (
        rows(" ").replace("53 ", "53\t").replace("NA ", "NA\t").replace("A ", "A\t").replace("n ", "n\t"),
        "word2vec",
    ),
}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("case", TEXTS)
def test_text_is_read_in_full_precision(tmp_path: Path, case: str, packed: bool) -> None:
    content, kind = TEXTS[case]
    data = gzip.compress(content.encode()) if packed else content.encode()
    same(read_vectors(text(tmp_path, data, "genes.txt.gz" if packed else "genes.csv")), kind)


def test_a_first_row_that_counts_is_a_gene_unless_its_column_is_named(tmp_path: Path) -> None:
    assert read_vectors(text(tmp_path, "TP53\t0\t1\nEGFR\t4\t5\n")).ids == ["TP53", "EGFR"]
    assert read_vectors(text(tmp_path, "gene\t0\t1\nEGFR\t4\t5\n")).ids == ["EGFR"]


BAD_TEXT = {
    "short row": ("A\t1\t2\nB\t1\n", "ValueError"),
    "long row": ("gene,x,y\nA,1,2\nB,1,2,3\n", "line 2"),
    "text": ("A\t1\t2\nB\tx\t3\n", "'x'"),
    "nan": ("A 1 2\nB nan 1\n", "ValueError|NaN"),
    "inf": ("g,x\nA,1\nB,-inf\n", "NaN or infinite values.*'B'"),
    "no gene": ("A\t1\n\t2\n", "Row 1 has the id ''"),
    "names alone": ("TP53\nEGFR\n", "shape"),
    "semicolons": ("TP53;1;2\nEGFR;1;2\n", "shape"),
    "header alone": ("gene\tx\ty\n", "no rows"),
    "too few rows": ("3 2\nA 1 2\nB 1 2\n", "announces 3 × 2, but holds 2 × 2"),
    "two vectors": ("A 1 2\nB 1 2\nA 1 3\n", r"'A' has two different vectors \(rows 0 and 2\)"),
    "all zero": ("A 0 0\nB 0 0\n", "2 of 2 vectors are zero"),
    "comments": ("# a\n\n# b\n", "is empty"),
    "latin-1": ("A,1\nBé,2\n".encode("latin-1"), "UnicodeDecodeError"),
    "quotation": ('A,1\n"B,2\n', "EOF inside string"),
    "cut gzip": (gzip.compress(rows("\t").encode() * 50)[:-9], "EOFError"),
    "zip": (b"PK\x05\x06" + b"\0" * 18, "expected one array"),
}


@pytest.mark.parametrize("case", BAD_TEXT)
def test_what_is_wrong_with_a_text_is_named(tmp_path: Path, case: str) -> None:
    content, message = BAD_TEXT[case]
    refused(text(tmp_path, content), message)


def test_missing_files_folders_and_pipes_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "gone.npz", tmp_path, tmp_path / "pipe"):
        refused(path, "No such file")


def test_repeated_rows_are_kept_once_and_counted(tmp_path: Path) -> None:
    made = read_vectors(text(tmp_path, "A 1 2\nB 3 4\nA 1 2\nA 1.0 2\n"))
    assert made.ids == ["A", "B"]
    assert made.provenance["duplicates"] == 2
    np.testing.assert_array_equal(made.matrix, [[1, 2], [3, 4]])


@pytest.mark.parametrize("dtype", ["f2", "f4", ">f8", "i2"])
def test_npz_keeps_single_and_double(tmp_path: Path, dtype: str) -> None:
    given_matrix = np.array([[1.5, 2, 3], [0, 0, 0], [4, 5, 6], [7, 8, 9]]).astype(dtype)
    parts = {"genes": np.array(IDS), "vectors": np.asfortranarray(given_matrix), "other": np.ones(9)}
    np.savez_compressed(tmp_path / "g.npz", **parts)
    expected = given_matrix.astype(np.float64 if dtype.endswith("f8") else np.float32)
    same(read_vectors(tmp_path / "g.npz"), "npz", expected)
    same(read_vectors(tmp_path / "g.npz", key="vectors"), "npz", expected)


def npz(tmp_path: Path, **parts: object) -> Path:
    np.savez(tmp_path / "g.npz", **parts)
    return tmp_path / "g.npz"


def test_npz_that_is_wrong_is_named(tmp_path: Path) -> None:
    one = np.ones((4, 2))
    refused(npz(tmp_path, ids=IDS, matrix=one, vectors=one), "key=")
    assert read_vectors(npz(tmp_path, ids=IDS, matrix=one, vectors=one * 2), key="vectors").matrix[0, 0] == 2
    refused(npz(tmp_path, names=IDS, matrix=one), "ids, genes, symbols")
    refused(npz(tmp_path, ids=IDS, matrix=one), "Unknown array 'x'", key="x")
    refused(npz(tmp_path, ids=IDS[:3], matrix=one), "3 ids, but 4 rows")
    refused(npz(tmp_path, ids=np.arange(4), matrix=one), "names of genes")
    refused(npz(tmp_path, ids=IDS, matrix=one.astype(object)), "Object arrays cannot be loaded")
    refused(npz(tmp_path, ids=IDS, matrix=one.astype(complex)), "complex128")
    refused(npz(tmp_path, ids=IDS, matrix=one * np.nan), "4 of 4.*'TP53'")
    refused(text(tmp_path, b"nothing", "x.npz"), "BadZipFile")


@pytest.fixture
def strict(monkeypatch: pytest.MonkeyPatch) -> None:
    """Allow files to unpack to 64 KiB, so that a bomb is small."""
    monkeypatch.setattr(read, "_FREE_BYTES", 2**16)


def test_npz_that_claims_more_than_it_holds_is_refused(tmp_path: Path, strict: None) -> None:
    def claiming(shape: tuple[int, ...], content: bytes) -> Path:
        member = io.BytesIO()
        np.lib.format.write_array_header_1_0(member, {"descr": "<f8", "fortran_order": False, "shape": shape})
        with zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("matrix.npy", member.getvalue() + content)
            archive.writestr("ids.npy", b"")
        return tmp_path / "bomb.npz"

    for shape in [(10**6, 10**7), (2**62, 2**62), (3, 4)]:
        refused(claiming(shape, b"\0" * 64), "cannot be read")
    refused(claiming((2**14, 1), b"\0" * 2**17), "claims 131,")


def test_gzip_that_unpacks_without_end_is_refused(tmp_path: Path, strict: None) -> None:
    refused(text(tmp_path, gzip.compress((b"A" + b"\t0" * 500 + b"\n") * 5000, 1), "g.tsv.gz"), "claims")
    assert len(read_vectors(text(tmp_path, gzip.compress((b"A" + b"\t1" * 50 + b"\n") * 500), "g.tsv.gz"))) == 1


def h5ad(tmp_path: Path, x: object = None, obs_names: list[str] = IDS, **parts: object) -> Path:
    frame = pd.DataFrame(index=obs_names)
    made = anndata.AnnData(MATRIX if x is None else x, obs=frame, **parts)
    made.write_h5ad(tmp_path / "g.h5ad")
    return tmp_path / "g.h5ad"


@pytest.mark.parametrize("make", [np.array, sparse.csr_matrix, sparse.csc_matrix])
def test_h5ad_of_genes(tmp_path: Path, make) -> None:
    path = h5ad(tmp_path, make(MATRIX), obsm={"other": np.ones((4, 2), np.float32), "sparse": sparse.eye(4).tocsr()})
    same(read_vectors(path), "anndata")
    same(read_vectors(path, key="other"), "anndata", np.ones((4, 2), np.float32))
    same(read_vectors(path, key="sparse"), "anndata", np.eye(4))
    assert read_vectors(path, key="other").provenance["matrix"] == "obsm/other"
    with pytest.raises(UnknownNameError, match="'oter'.*'other'"):
        read_vectors(path, key="oter")


def test_varm_gives_vectors_of_the_var_names(tmp_path: Path) -> None:
    made = anndata.AnnData(np.ones((2, 4)), var=pd.DataFrame(index=IDS), varm={"vectors": MATRIX})
    made.write_h5ad(tmp_path / "cells.h5ad")
    same(read_vectors(tmp_path / "cells.h5ad", key="vectors"), "anndata")
    refused(tmp_path / "cells.h5ad", "obs: the names are only numbers.*varm")


def test_h5ad_that_is_wrong_is_named(tmp_path: Path) -> None:
    path = h5ad(tmp_path)
    whole = path.read_bytes()
    refused(text(tmp_path, whole[: len(whole) // 2], "cut.h5ad"), "truncated|damaged|not a HDF5")
    refused(text(tmp_path, "A 1 2\n", "text.h5ad"), "not a HDF5 file")
    refused(h5ad(tmp_path, obs_names=["nan", *IDS[1:]]), "'nan' has two different vectors")
    with h5py.File(path, "a") as handle:
        del handle["X"]
    refused(path, "has no X")
    with h5py.File(path, "a") as handle:
        handle.create_dataset("X", (2**40, 2**10), "f8", chunks=(1024, 1024))
    refused(path, "declares shape")
    with h5py.File(path, "a") as handle:
        del handle["X"]
        handle["X"] = h5py.ExternalLink("other.h5", "/X")
    refused(path, "not followed")


@pytest.mark.parametrize(
    ("part", "change"), [("indices", [0, 10**6, *[0] * 7]), ("indptr", [0, 3, 3, 10**6, 9]), ("shape", (4, 2**40))]
)
def test_sparse_vectors_out_of_range_are_refused(tmp_path: Path, part: str, change: object) -> None:
    path = h5ad(tmp_path, sparse.csr_matrix(MATRIX))
    with h5py.File(path, "a") as handle:
        if part == "shape":
            handle["X"].attrs["shape"] = change
        else:
            handle["X"][part][...] = np.array(change, handle["X"][part].dtype)
    refused(path, "cannot be read|damaged|claims|ids, but")


def test_our_own_files_keep_their_provenance(tmp_path: Path) -> None:
    embeddings = GeneEmbeddings(["A", "B"], np.eye(2), {"encoder": "x"})
    embeddings.save(tmp_path / "g.safetensors")
    (tmp_path / "g.safetensors").rename(tmp_path / "renamed")
    made = read_vectors(tmp_path / "renamed")
    assert (made.ids, made.provenance, made.fingerprint()) == (["A", "B"], {"encoder": "x"}, embeddings.fingerprint())


@given(
    st.lists(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=3, max_size=3), min_size=1, max_size=4)
)
def test_decimals_are_those_of_python(tmp_path_factory, values) -> None:
    values[0][0] = values[0][0] or 1.0
    lines = [f"G{i}\t" + "\t".join(map(repr, row)) for i, row in enumerate(values)]
    made = read_vectors(text(tmp_path_factory.getbasetemp(), "\n".join(lines)))
    assert made.matrix.tobytes() == np.array(values).tobytes()


@given(st.binary(max_size=200))
def test_random_bytes_are_an_error_or_a_table(tmp_path_factory, content: bytes) -> None:
    for name in ("r.txt", "r.csv.gz", "r.npz", "r.h5ad", "r.safetensors"):
        read_or_refuse(tmp_path_factory.getbasetemp() / name, content)


@pytest.fixture(scope="module")
def valid(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, bytes]]:
    folder = tmp_path_factory.mktemp("valid")
    np.savez(folder / "a.npz", ids=np.array(IDS), matrix=MATRIX)
    np.savez_compressed(folder / "b.npz", ids=np.array(IDS), matrix=MATRIX)
    # No h5ad: a changed byte in a heap of strings sends the HDF5 library itself round in circles.
    GeneEmbeddings(IDS, MATRIX + 1, {"a": 1}).save(folder / "d.safetensors")
    (folder / "e.csv.gz").write_bytes(gzip.compress(rows(",").encode()))
    (folder / "f.csv").write_text(rows(","))
    (folder / "g.txt").write_text(rows(" ", "4 3\n"))
    return [(path.name, path.read_bytes()) for path in sorted(folder.iterdir())]


@given(
    which=st.integers(0, 5),
    changes=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=5),
    cut=st.integers(0, 10**6),
)
def test_mutated_files_are_an_error_or_a_table(tmp_path_factory, valid, which: int, changes, cut: int) -> None:
    name, content = valid[which]
    data = bytearray(content)
    for at, byte in changes:
        data[at % len(data)] = byte
    if cut % 4 == 0:
        del data[cut % len(data) :]
    read_or_refuse(tmp_path_factory.getbasetemp() / name, bytes(data))


def read_or_refuse(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    try:
        made = read_vectors(path)
    except BftembedError:
        return
    assert made.matrix.shape == (len(made.ids), made.dim)
    assert len(set(made.ids)) == len(made.ids)
    assert np.isfinite(made.matrix).all()
    assert made.matrix.any()

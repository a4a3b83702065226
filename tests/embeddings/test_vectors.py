"""Vectors of others: every format gives back what was written, and what is wrong is named."""

from __future__ import annotations

import gzip
import io
import os
import pickle
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

from bftembed.embeddings import GeneEmbeddings, GeneVectors, read_vectors
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


def same(made: GeneVectors, kind: str, matrix: np.ndarray = MATRIX) -> None:
    assert made.ids == tuple(IDS)
    assert made.format == kind
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
    "pandas header, named": (pd.DataFrame(MATRIX, index=pd.Index(IDS, name="gene")).to_csv(sep="\t"), "table"),
    "R header": (rows("\t", '"V1"\t"V2"\t"V3"\n').replace("TP53", '"TP53"'), "table"),
    "R header, spaces": (rows(" ", '"V1" "V2" "V3"\n').replace("TP53", '"TP53"'), "word2vec"),
    "comments": ("# made by hand\n\n" + rows("\t"), "table"),
    "blank lines": (rows("\t").replace("\n", "\n\n"), "table"),
    "no last newline": (rows(",").rstrip("\n"), "table"),
    "windows": (rows("\t").replace("\n", "\r\n"), "table"),
    "byte order mark": ("\ufeff" + rows("\t"), "table"),
    "word2vec": (rows(" ", "4 3\n"), "word2vec"),
    "word2vec, spaces at the end": (rows(" ", "4 3\n").replace("\n", " \n"), "word2vec"),
    "spaces": (rows(" "), "word2vec"),
    "gene2vec": (
        rows(" ").replace("53 ", "53\t").replace("NA ", "NA\t").replace("A ", "A\t").replace("n ", "n\t"),
        "word2vec",
    ),
    "word2vec with tabs": (rows("\t", "4 3\n"), "word2vec"),
}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("case", TEXTS)
def test_text_is_read_in_full_precision(tmp_path: Path, case: str, packed: bool) -> None:
    content, kind = TEXTS[case]
    data = gzip.compress(content.encode()) if packed else content.encode()
    same(read_vectors(text(tmp_path, data, "genes.txt.gz" if packed else "genes.csv")), kind)


def test_the_header_is_told(tmp_path: Path) -> None:
    assert read_vectors(text(tmp_path, rows("\t", "gene\ta\tb\tc\n"))).provenance["header"] == ["gene", "a", "b", "c"]
    assert "header" not in read_vectors(text(tmp_path, rows("\t"))).provenance


def test_a_first_row_that_counts_is_a_gene_unless_its_column_is_named(tmp_path: Path) -> None:
    assert read_vectors(text(tmp_path, "TP53\t0\t1\nEGFR\t4\t5\n")).ids == ("TP53", "EGFR")
    assert read_vectors(text(tmp_path, "gene\t0\t1\nEGFR\t4\t5\n")).ids == ("EGFR",)


def test_one_number_per_gene(tmp_path: Path) -> None:
    np.testing.assert_array_equal(read_vectors(text(tmp_path, "gene,x\nA,1\nB,2\n")).matrix, [[1], [2]])
    np.testing.assert_array_equal(read_vectors(text(tmp_path, "x\nA\t1\nB\t2\n")).matrix, [[1], [2]])


BAD_TEXT = {
    "short row": ("A\t1\t2\nB\t1\n", r"line 2: 'B' has 1 numbers, but the rows before have 2"),
    "long row": ("gene,x,y\nA,1,2\nB,1,2,3\n", r"line 3: 'B' has 3 numbers"),
    "header does not fit": ("gene,x,y,z,u\nA,1,2\n", r"line 2: 3 cells under a header of 5"),
    "text": ("A\t1\t2\nB\tx\t3\n", r"line 2: 'B' has 'x' in column 2, which is no number"),
    "blank cell": ("A,1,2\nB,1,\n", r"line 2: 'B' has '' in column 3"),
    "NA": ("A,NA,NA\nB,1,2\n", r"line 1: 'A' has 'NA' in column 2"),
    "underscore": ("A_1,1,2\nB,1_000,2\n", r"line 2: 'B' has '1_000' in column 2"),
    "other digits": ("A,1,2\nB,١,2\n", r"line 2: 'B' has '١' in column 2"),
    "decimal comma": ("A\t0,1\t0,2\n", r"line 1: .*(stands alone|'0,1')|no rows"),
    "nan": ("A 1 2\nB nan 1\nC nan nan\n", r"'B' \(line 2\) has NaN or infinite values; 2 of 3 do"),
    "inf": ("g,x\nA,1\nB,-inf\n", r"'B' \(line 3\) has NaN or infinite"),
    "too large": ("g,x\nA,1\nB,1e999\n", r"'B' \(line 3\) has NaN or infinite"),
    "no gene": ("A\t1\n\t2\n", r"line 2: the first column has no gene name"),
    "names alone": ("TP53\nEGFR\n", r"line 1: 'TP53' stands alone"),
    "semicolons": ("TP53;1;2\nEGFR;1;2\n", r"line 1: 'TP53;1;2' stands alone.*tabs, commas or spaces"),
    "header alone": ("gene\tx\ty\n", "no rows"),
    "too few rows": ("3 2\nA 1 2\nB 1 2\n", "announces 3 rows, but there are 2"),
    "too many rows": ("1 2\nA 1 2\nB 1 2\n", "announces 1 rows, but there are 2"),
    "other length": ("1 3\nA 1 2\n", r"line 2: 'A' has 2 numbers, but 3 were announced"),
    "no length": ("1 0\nA\n", "line 1: '1 0' is no count"),
    "huge count": (f"1 {'9' * 5000}\nA 1\n", "is no count"),
    "count alone": ("0 5\n", "no rows"),
    "two vectors": ("A 1 2\nB 1 2\nA 1 3\n", r"'A' has two different vectors \(line 1 and line 3\)"),
    "all zero": ("A 0 0\nB 0 0\n", "all 2 vectors are zero"),
    "empty": ("", "is empty"),
    "blank": ("\n \n", "is empty"),
    "comments": ("# a\n# b\n", "is empty"),
    "binary": (b"gene\t1\nA\0\t1\n", r"is binary \(a zero byte in line 2\)"),
    "word2vec's binary": (b"1 2\nA \0\0\x80?\0\0\x80?\n", "word2vec's binary format"),
    "latin-1": ("A,1\nBé,2\n".encode("latin-1"), "line 2: not UTF-8"),
    "quotation": ('A,1\n"B,2\n', "line 2: .*quotation mark"),
    "old mac": ("A\t1\rB\t2\r", "line 1"),
    "NUL in gzip": (gzip.compress(b"\x80\x04\x95"), "not UTF-8"),
    "cut gzip": (gzip.compress(rows("\t").encode() * 50)[:-9], "truncated|damaged"),
    "garbled gzip": (gzip.compress(bytes(range(99)))[:12] + b"garbage" * 9, "damaged gzip|truncated|UTF-8|binary"),
    "parquet": (b"PAR1....", "Parquet"),
    "npy": (b"\x93NUMPY\x01\0....", "without names"),
    "bzip2": (b"BZh91AY", "unpack"),
    "xz": (b"\xfd7zXZ\0\0\0", "unpack"),
    "zip": (b"PK\x05\x06" + b"\0" * 18, "zip archive without NumPy arrays"),
    "junk": (bytes(range(128, 256)), "not UTF-8"),
}


@pytest.mark.parametrize("case", BAD_TEXT)
def test_what_is_wrong_with_a_text_is_named(tmp_path: Path, case: str) -> None:
    content, message = BAD_TEXT[case]
    refused(text(tmp_path, content), message)


def test_missing_files_folders_and_pipes_are_named(tmp_path: Path) -> None:
    refused(tmp_path / "gone.npz", "No such file")
    refused(tmp_path, "is a folder")
    os.mkfifo(tmp_path / "pipe")
    refused(tmp_path / "pipe", "no regular file")
    with pytest.raises(BftembedError, match="cannot be read|No such file"):
        read_vectors("a\0b")


def test_repeated_rows_are_kept_once_and_counted(tmp_path: Path) -> None:
    made = read_vectors(text(tmp_path, "A 1 2\nB 3 4\nA 1 2\nA 1.0 2\n"))
    assert made.ids == ("A", "B")
    assert made.provenance["duplicates"] == 2
    np.testing.assert_array_equal(made.matrix, [[1, 2], [3, 4]])


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", ">f8", "i2", "u1"])
@pytest.mark.parametrize("names", [("ids", "matrix"), ("genes", "vectors"), ("symbols", "embeddings")])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_keeps_single_and_double(tmp_path: Path, dtype: str, names: tuple[str, str], save) -> None:
    given_matrix = np.array([[1.5, 2, 3], [0, 0, 0], [4, 5, 6], [7, 8, 9]]).astype(dtype)
    save(
        tmp_path / "g.npz", **{names[0]: np.array(IDS), names[1]: np.asfortranarray(given_matrix), "other": np.ones(9)}
    )
    expected = given_matrix.astype(np.float64 if dtype.endswith("f8") else np.float32)
    same(read_vectors(tmp_path / "g.npz"), "npz", expected)
    same(read_vectors(tmp_path / "g.npz", key=names[1]), "npz", expected)


def npz(tmp_path: Path, **parts: object) -> Path:
    np.savez(tmp_path / "g.npz", **parts)
    return tmp_path / "g.npz"


def test_npz_that_is_wrong_is_named(tmp_path: Path) -> None:
    one = np.ones((4, 2))
    refused(npz(tmp_path, ids=IDS, matrix=one, vectors=one), "matrix or vectors or embeddings.*key=")
    assert read_vectors(npz(tmp_path, ids=IDS, matrix=one, vectors=one * 2), key="vectors").matrix[0, 0] == 2
    refused(npz(tmp_path, ids=IDS, other=one), "vectors.*'ids', 'other'")
    refused(npz(tmp_path, names=IDS, matrix=one), "ids or genes or symbols")
    refused(npz(tmp_path, ids=IDS, matrix=one), "Unknown array 'x'", key="x")
    refused(npz(tmp_path, ids=IDS[:3], matrix=one), "4 vectors")
    refused(npz(tmp_path, ids=np.arange(4), matrix=one), "names of genes are text")
    refused(npz(tmp_path, ids=np.array(IDS, object), matrix=one), "array of objects.*Refused")
    refused(npz(tmp_path, ids=IDS, matrix=one.astype(object)), "array of objects.*Refused")
    refused(npz(tmp_path, ids=IDS, matrix=one.astype(complex)), "complex128")
    refused(npz(tmp_path, ids=IDS, matrix=one.astype(bool)), "bool")
    refused(npz(tmp_path, ids=IDS, matrix=np.ones(4)), "two axes")
    refused(npz(tmp_path, ids=IDS, matrix=np.ones((4, 0))), "no vectors")
    refused(npz(tmp_path, ids=np.array([], "U3"), matrix=np.ones((0, 4))), "no vectors")
    refused(npz(tmp_path, ids=["A", "A", "B", "C"], matrix=np.arange(8).reshape(4, 2)), r"'A'.*row 0 and row 1")
    refused(npz(tmp_path, ids=["A", "", "B", "C"], matrix=one), "non-empty")
    refused(npz(tmp_path, ids=IDS, matrix=one * np.nan), "'TP53' .row 0. has NaN.*4 of 4")
    refused(text(tmp_path, b"nothing", "x.npz"), "damaged npz")


def test_npz_that_claims_more_than_it_holds_is_refused_before_it_is_read(tmp_path: Path) -> None:
    def claiming(shape: tuple[int, ...], descr: str = "<f8") -> Path:
        member = io.BytesIO()
        np.lib.format.write_array_header_1_0(member, {"descr": descr, "fortran_order": False, "shape": shape})
        with zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("matrix.npy", member.getvalue() + b"\0" * 64)
            archive.writestr("ids.npy", b"")
        return tmp_path / "bomb.npz"

    for shape in [(10**6, 10**5), (2**62, 2**62), (10**5, 10**3)]:
        refused(claiming(shape), "claims the shape")
    refused(claiming((3, 4)), "damaged npz")
    with zipfile.ZipFile(tmp_path / "lzma.npz", "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("matrix.npy", b"x")
        archive.writestr("ids.npy", b"x")
    refused(tmp_path / "lzma.npz", "packed in a way")


def test_names_as_bytes_are_utf8(tmp_path: Path) -> None:
    assert read_vectors(npz(tmp_path, ids=np.array([b"A", "é".encode()]), matrix=np.eye(2))).ids == ("A", "é")


def h5ad(tmp_path: Path, x: object = None, **parts: object) -> Path:
    frame = pd.DataFrame(index=IDS)
    made = anndata.AnnData(MATRIX if x is None else x, obs=frame, **parts)
    made.write_h5ad(tmp_path / "g.h5ad")
    return tmp_path / "g.h5ad"


@pytest.mark.parametrize("make", [np.array, sparse.csr_matrix, sparse.csc_matrix])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_h5ad_of_genes(tmp_path: Path, make, dtype: type) -> None:
    path = h5ad(tmp_path, make(MATRIX.astype(dtype)), obsm={"other": np.ones((4, 2)), "sparse": sparse.eye(4).tocsr()})
    same(read_vectors(path), "anndata", MATRIX.astype(dtype))
    same(read_vectors(path, key="other"), "anndata", np.ones((4, 2)))
    same(read_vectors(path, key="sparse"), "anndata", np.eye(4))
    assert read_vectors(path, key="other").provenance["matrix"] == "obsm/other"
    with pytest.raises(UnknownNameError, match="'oter'.*'other'"):
        read_vectors(path, key="oter")


def test_varm_gives_vectors_of_the_var_names(tmp_path: Path) -> None:
    made = anndata.AnnData(np.ones((2, 4)), var=pd.DataFrame(index=IDS), varm={"vectors": MATRIX})
    made.write_h5ad(tmp_path / "cells.h5ad")
    same(read_vectors(tmp_path / "cells.h5ad", key="vectors"), "anndata")
    refused(tmp_path / "cells.h5ad", "names of obs are only numbers.*varm")


def test_our_own_view_as_anndata_is_read_back(tmp_path: Path) -> None:
    GeneEmbeddings(["A", "B"], np.eye(2)).to_anndata().write_h5ad(tmp_path / "g.h5ad")
    assert read_vectors(tmp_path / "g.h5ad").ids == ("A", "B")


def test_h5ad_that_is_wrong_is_named(tmp_path: Path) -> None:
    path = h5ad(tmp_path)
    whole = path.read_bytes()
    refused(text(tmp_path, whole[: len(whole) // 2], "cut.h5ad"), "truncated|damaged|not a HDF5")
    for end in range(9, len(whole), 997):
        with pytest.raises(BftembedError):
            read_vectors(text(tmp_path, whole[:end], "cut.h5ad"))
    refused(text(tmp_path, "A 1 2\n", "text.h5ad"), "not a HDF5 file")
    with h5py.File(path, "a") as handle:
        handle["obs/_index"][0] = "nan"
    refused(path, "'nan' has two different vectors")
    with h5py.File(path, "a") as handle:
        del handle["X"]
    refused(path, "has no X")
    with h5py.File(path, "a") as handle:
        handle.create_dataset("X", (2**40, 2**10), "f8", chunks=(1024, 1024))
    refused(path, "claims the shape")
    with h5py.File(path, "a") as handle:
        del handle["X"]
        handle["X"] = h5py.ExternalLink("other.h5", "/X")
    refused(path, "link to another file")
    with h5py.File(path, "a") as handle:
        del handle["X"]
        group = handle.create_group("X")
        group.attrs["shape"] = (4, 3)
        group["data"], group["indices"], group["indptr"] = np.ones(2), np.array([0, 10**6]), np.array([0, 1, 2, 2, 2])
    refused(path, "damaged")
    with h5py.File(path, "w") as handle:
        handle["X"] = np.ones((2, 2))
    refused(path, "damaged, or no h5ad")


def test_our_own_files_keep_their_provenance(tmp_path: Path) -> None:
    embeddings = GeneEmbeddings(["A", "B"], np.eye(2), {"encoder": "x"})
    embeddings.save(tmp_path / "g.safetensors")
    made = read_vectors(tmp_path / "g.safetensors")
    assert (made.ids, made.format, made.provenance) == (("A", "B"), "bftembed", {"encoder": "x"})
    assert made.matrix.dtype == np.float32
    back = made.to_embeddings()
    assert back.fingerprint() == embeddings.fingerprint()
    assert back.provenance == {"encoder": "x"}
    (tmp_path / "g.safetensors").rename(tmp_path / "renamed")
    assert read_vectors(tmp_path / "renamed").format == "bftembed"


def test_embeddings_have_no_zero_rows(tmp_path: Path) -> None:
    made = read_vectors(text(tmp_path, "A 1 2\nB 0 0\nC 1e-300 0\n"))
    assert made.n_zero == 1
    embeddings = made.to_embeddings()
    assert embeddings.ids == ["A"]
    assert embeddings.provenance["left_out"] == {"zero vector": ["B", "C"]}
    with pytest.raises(BftembedError, match=r"genes\.txt, in float32: .*'A'"):
        read_vectors(text(tmp_path, "A 1e300 2\n")).to_embeddings()


def test_fingerprint_follows_ids_type_and_values(tmp_path: Path) -> None:
    made = [
        GeneVectors(ids, matrix, source, "npz", {})
        for ids, matrix, source in [
            (("A", "B"), np.eye(2), "x"),
            (("A", "B"), np.eye(2), "y"),
            (("A", "C"), np.eye(2), "x"),
            (("A", "B"), np.eye(2, dtype=np.float32), "x"),
            (("A", "B"), np.eye(2) * 2, "x"),
            (("A", "B"), np.eye(2)[::-1], "x"),
        ]
    ]
    prints = [one.fingerprint() for one in made]
    assert prints[0] == prints[1]
    assert len(set(prints)) == 5


def test_a_key_is_for_files_of_several_matrices(tmp_path: Path) -> None:
    refused(text(tmp_path, "A 1 2\n"), "holds one matrix", key="x")


def test_a_file_as_large_as_gene2vec_is_read(tmp_path: Path) -> None:
    n, dim = 24_447, 200
    row = " ".join(f"{x:.6f}" for x in np.random.default_rng(0).normal(size=dim))
    path = text(tmp_path, f"{n} {dim}\n" + "".join(f"G{i} {row}\n" for i in range(n)))
    made = read_vectors(path)
    assert made.matrix.shape == (n, dim)


@given(st.binary(max_size=200))
def test_random_bytes_are_an_error_or_a_table(tmp_path_factory, content: bytes) -> None:
    for name in ("r.txt", "r.csv.gz", "r.npz", "r.h5ad", "r.safetensors", "r.pkl"):
        read_or_refuse(tmp_path_factory.getbasetemp() / name, content)


cells = st.sampled_from(
    ["TP53", "A", "1", "-2.5", "nan", "", "x_1", "1_0", '"', '"A"', "#", "2 2", "é", "\r", " ", "0"]
)


@given(st.lists(st.lists(cells, max_size=4), max_size=5), st.sampled_from(["\t", ",", " "]), st.booleans())
def test_random_tables_are_an_error_or_a_table(tmp_path_factory, table, separator: str, packed: bool) -> None:
    data = "\n".join(separator.join(row) for row in table).encode()
    read_or_refuse(tmp_path_factory.getbasetemp() / "r.txt", gzip.compress(data) if packed else data)


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
    (folder / "h.pkl").write_bytes(pickle.dumps(dict(zip(IDS, MATRIX, strict=True))))
    return [(path.name, path.read_bytes()) for path in sorted(folder.iterdir())]


@given(
    which=st.integers(0, 6),
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
        made = read_vectors(path, allow_pickle=True)
    except BftembedError:
        return
    assert made.matrix.shape == (len(made.ids), made.dim)
    assert len(set(made.ids)) == len(made.ids)
    assert np.isfinite(made.matrix).all()
    assert made.n_zero < len(made)

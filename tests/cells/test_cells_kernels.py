"""Kernels: each equals a float64 product within its precision, on any block; the choice is measured and said."""

from __future__ import annotations

import functools
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bftembed.cells.embed import embed_cells
from bftembed.cells.kernels import KERNELS as ALL
from bftembed.cells.kernels import TOLERANCE, DenseCuda, choose
from bftembed.errors import BftembedError
from bftembed.machine import cpu_has_bf16

#: The one for CUDA does the same by torch on any device.
KERNELS = {**ALL, "dense-cuda": functools.partial(DenseCuda, device="cpu")}
ROUNDED = ("dense-bf16", "dense-cuda")
EXACT = [name for name in KERNELS if name not in ROUNDED]


def block(seed: int, n_rows: int, n_targets: int, density: float):
    """Rows whose columns are unique but in any order, some of which do not count."""
    rng = np.random.default_rng(seed)
    filled = rng.random((n_rows, n_targets)) < density
    filled[rng.random(n_rows) < 0.1] = False
    indptr = np.concatenate([[0], np.cumsum(filled.sum(1))]).astype(np.int64)
    targets = np.concatenate([rng.permutation(np.flatnonzero(row)) for row in filled]).astype(np.int32)
    values = rng.lognormal(0, 1, len(targets)).astype(np.float32)
    targets[rng.random(len(targets)) < 0.2] = -1
    return indptr, targets, values


def product(indptr, targets, values, matrix):
    out = np.zeros((len(indptr) - 1, matrix.shape[1]))
    for row in range(len(out)):
        for at in range(indptr[row], indptr[row + 1]):
            if targets[at] >= 0:
                out[row] += np.float64(values[at]) * matrix[targets[at]].astype(np.float64)
    return out


def assert_close(found, expected, tolerance):
    lengths = np.linalg.norm(found.astype(np.float64), axis=1) * np.linalg.norm(expected, axis=1)
    np.testing.assert_array_equal(np.linalg.norm(found, axis=1) == 0, np.linalg.norm(expected, axis=1) == 0)
    cosine = (found * expected).sum(1)[lengths > 0] / lengths[lengths > 0]
    assert (1 - cosine).max(initial=0) <= tolerance


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    n_rows=st.integers(1, 90),
    n_targets=st.integers(1, 60),
    dim=st.integers(1, 40),
    density=st.sampled_from([0.001, 0.01, 0.08, 0.5, 1.0]),
)
@pytest.mark.parametrize("name", list(KERNELS))
def test_equals_the_product_in_float64(name, seed, n_rows, n_targets, dim, density):
    matrix = np.random.default_rng(seed).normal(1, 1, (n_targets, dim)).astype(np.float32)
    kernel = KERNELS[name](matrix, 100)
    for again in (0, 1):  # work space is used twice
        indptr, targets, values = block(seed + again, n_rows, n_targets, density)
        out = np.full((n_rows, dim), 9, dtype=np.float32)
        kernel(indptr, targets, values, out)
        expected = product(indptr, targets, values, matrix)
        if name in ROUNDED:  # 8 bits of each number and of the sum, which may cancel
            sizes = product(indptr, targets, values, np.abs(matrix))
            assert (np.abs(out - expected) <= 2**-6 * sizes).all()
        else:
            np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max(initial=0.1))


@pytest.mark.parametrize("name", list(KERNELS))
def test_a_cell_s_vector_does_not_depend_on_the_cells_beside_it(name):
    """Shards end with a shorter block, and have to give what the whole run gives.

    Bit by bit but for a dense product in float32, whose library adds up a shorter block in another order on some
    processors (OpenBLAS and oneDNN on AMD Zen 3): there to 1e-6 of the vector's length.
    """
    matrix = np.random.default_rng(1).normal(0, 1, (700, 200)).astype(np.float32)
    kernel = KERNELS[name](matrix, 256)
    indptr, targets, values = block(4, 256, 700, 0.1)
    whole, part = np.empty((256, 200), dtype=np.float32), np.empty((37, 200), dtype=np.float32)
    kernel(indptr, targets, values, whole)
    a, b = indptr[100], indptr[137]
    kernel(indptr[100:138] - a, targets[a:b], values[a:b], part)
    if name != "dense-float32":
        np.testing.assert_array_equal(part, whole[100:137])
    length = np.linalg.norm(whole[100:137], axis=1, keepdims=True)
    assert (np.abs(part - whole[100:137]) <= 1e-6 * length).all()


@pytest.mark.parametrize("name", list(KERNELS))
def test_precision_on_cells_as_they_are(name):
    matrix = np.random.default_rng(1).normal(0.02, 0.05, (3000, 256)).astype(np.float32)
    indptr, targets, values = block(2, 200, 3000, 0.08)
    out = np.empty((200, 256), dtype=np.float32)
    KERNELS[name](matrix, 256)(indptr, targets, values, out)
    tolerance = TOLERANCE["exact"] if name in EXACT else TOLERANCE["fast"]
    assert_close(out, product(indptr, targets, values, matrix), tolerance)


def test_bfloat16_is_rounded_to_nearest_even_like_torch():
    torch = pytest.importorskip("torch")
    from bftembed.cells.compiled import fill_bf16

    values = np.concatenate(
        [
            np.random.default_rng(0).lognormal(0, 9, 5000),
            [0, 1, 1 + 2**-8, 1 + 3 * 2**-8, 2**-126, 1e-45, 3.38e38, np.finfo(np.float32).max],
        ]
    ).astype(np.float32)
    dense = np.ones((1, len(values)), dtype=np.uint16)
    indptr = np.array([0, len(values)])
    fill_bf16(0, 1, indptr, np.arange(len(values), dtype=np.int32), values.view(np.uint32), dense)
    expected = torch.from_numpy(values).to(torch.bfloat16).view(torch.int16).numpy().view(np.uint16)
    np.testing.assert_array_equal(dense[0], expected)


class TestTheChoice:
    BLOCK = block(0, 60, 500, 0.2)
    MATRIX = np.random.default_rng(0).normal(0.1, 1, (500, 64)).astype(np.float32)

    def test_little_work_is_not_worth_choosing(self):
        choice = choose(self.MATRIX, 60, 60, self.BLOCK)
        assert (choice.kernel.name, choice.reason) == ("scipy", "few values")

    @pytest.mark.parametrize("precision", ["fast", "exact"])
    def test_the_fastest_is_taken_and_the_times_are_told(self, precision):
        choice = choose(self.MATRIX, 60, 10**9, self.BLOCK, precision=precision)
        told = [part.split()[-3:-1] for part in choice.reason.split(": ")[1].split(", ")]
        assert choice.kernel.name == told[0][0]
        assert [int(t) for _, t in told] == sorted(int(t) for _, t in told)
        fast = precision == "fast" and cpu_has_bf16()
        assert {name for name, _ in told} == {*EXACT, *(["dense-bf16"] if fast else [])} - {"scipy"}

    def test_one_that_is_not_accurate_enough_is_refused_when_asked_for(self):
        # vectors that cancel but for a hundredth: eight bits do not hold that
        pair = np.random.default_rng(0).normal(0, 1, (1, 64))
        matrix = np.concatenate([pair, -0.99 * pair]).astype(np.float32)
        rows = np.arange(0, 22, 2), np.tile([0, 1], 10).astype(np.int32), np.ones(20, dtype=np.float32)
        with pytest.raises(BftembedError, match=r"not accurate enough for precision 'exact': dense-bf16 left out"):
            choose(matrix, 10, 10**9, rows, precision="exact", asked="dense-bf16")
        assert choose(matrix, 10, 10**9, rows, precision="exact").kernel.name in EXACT

    def test_cuda_without_a_device_is_refused(self, monkeypatch):
        torch = pytest.importorskip("torch")
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        with pytest.raises(BftembedError, match="there is none"):
            choose(self.MATRIX, 60, 60, self.BLOCK, asked="dense-cuda")

    @pytest.mark.parametrize(("options", "word"), [({"asked": "dense-bf"}, "dense-bf16"), ({"precision": "f"}, "fast")])
    def test_unknown_names_are_refused_with_the_known(self, options, word):
        with pytest.raises(BftembedError, match=word):
            choose(self.MATRIX, 60, 60, self.BLOCK, **options)


@pytest.mark.parametrize("name", [*EXACT, "dense-bf16"])
def test_a_pinned_kernel_is_used_and_recorded(cells, embeddings, name):
    exact = embed_cells(cells.copy(), embeddings, kernel="scipy").obsm["X_bft"]
    found = embed_cells(cells, embeddings, kernel=name)
    assert found.uns["bftembed"]["X_bft"]["kernel"] == name
    assert_close(found.obsm["X_bft"], exact.astype(np.float64), 1e-5)


def test_a_forked_process_embeds_after_its_parent_did():
    code = """
import multiprocessing, numpy, anndata
from bftembed.cells.embed import embed_cells
from bftembed.embeddings import GeneEmbeddings
genes = ["CD3D", "LYZ", "MS4A1"]
def embedded(seed):
    cells = anndata.AnnData(numpy.random.default_rng(seed).poisson(3, (500, 3)).astype("float32") + 1)
    cells.var_names = genes
    return embed_cells(cells, GeneEmbeddings(genes, numpy.eye(3)), kernel="axpy").obsm["X_bft"].sum()
first = embedded(0)
with multiprocessing.get_context("fork").Pool(2) as pool:
    assert pool.map(embedded, [0, 0]) == [first, first]
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr

"""PCA, Harmony, BBKNN and scVI made in the run: against their libraries, and what they refuse."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import numpy as np
import pytest
import scipy.sparse
from tests_paths import REPOSITORY

from bftembed.errors import BftembedError, MissingExtraError
from bftembed.tasks.baselines import bbknn, harmony, pca, scvi


def expression(n=80, genes=60, seed=0):
    draw = np.random.default_rng(seed)
    level = draw.gamma(1.0, 1.0, (4, genes))[np.arange(n) % 4]
    return scipy.sparse.csr_matrix(np.log1p(draw.poisson(level)).astype(np.float32))


BATCHES = np.array(["x", "y"])[(np.arange(80) // 4) % 2]


def test_pca_equals_that_of_scanpy_up_to_sign():
    import anndata
    import scanpy

    cells = anndata.AnnData(expression())
    scanpy.pp.pca(cells, n_comps=20)
    expected = cells.obsm["X_pca"]
    found = pca(cells.X, n_components=20)
    assert (found.shape, found.dtype) == ((80, 20), np.float32)
    np.testing.assert_allclose(found * np.sign((found * expected).sum(axis=0)), expected, atol=1e-4)


def test_pca_is_the_same_for_sparse_and_dense_and_takes_fewer_components_of_small_data():
    cells = expression()
    np.testing.assert_allclose(np.abs(pca(cells)), np.abs(pca(cells.toarray())), atol=1e-3)
    assert pca(cells[:10]).shape == (10, 9)


@pytest.mark.parametrize(
    ("cells", "reason"),
    [
        (np.ones((20, 5)), "the same in all cells"),
        (np.full((20, 5), np.nan), "100 values of the expression are NaN"),
        (scipy.sparse.csr_matrix((20, 5)), "the same in all cells"),
        (np.ones((1, 8)), "at least two cells and two genes"),
        (np.ones((30, 0)), "at least two cells and two genes"),
    ],
)
def test_expression_without_components_is_refused(cells, reason):
    with pytest.raises(BftembedError, match=reason):
        pca(cells)


def test_harmony_is_that_of_harmonypy():
    harmonypy = pytest.importorskip("harmonypy")
    import pandas as pd

    components = pca(expression(), n_components=10)
    components[BATCHES == "y"] += 1
    given = components.copy()
    found = harmony(components, BATCHES)
    made = harmonypy.run_harmony(
        components.astype(np.float64), pd.DataFrame({"batch": BATCHES}), ["batch"], random_state=0, verbose=False
    ).Z_corr
    np.testing.assert_array_equal(found, np.asarray(made, dtype=np.float32))
    np.testing.assert_array_equal(components, given)
    gap = [np.linalg.norm(x[BATCHES == "x"].mean(axis=0) - x[BATCHES == "y"].mean(axis=0)) for x in (components, found)]
    assert gap[1] < gap[0] / 2


def test_bbknn_vectors_are_the_leading_eigenvectors_of_its_graph():
    bbknn_matrix = pytest.importorskip("bbknn.matrix")
    components = pca(expression(), n_components=10)
    found = bbknn(components, BATCHES)
    assert (found.shape, found.dtype) == ((80, 30), np.float32)
    assert np.isfinite(found).all()
    graph = bbknn_matrix.bbknn(components, BATCHES)[1].toarray().astype(float)
    root = 1 / np.sqrt(graph.sum(axis=1))
    values, vectors = np.linalg.eigh(root[:, None] * graph * root)
    assert (values > 1 - 1e-9).sum() == 4  # four parts: their eigenvectors may be turned, their distances not
    density = (1 / root) / np.linalg.norm(1 / root)
    assert values[::-1][30] > 0
    kept = (vectors * np.where(np.arange(80) >= 80 - 31, values, 0) ** 2) @ vectors.T - np.outer(density, density)
    np.testing.assert_allclose(found @ found.T, kept * np.outer(root, root), atol=1e-5)


def test_bbknn_brings_the_batches_together():
    components = pca(expression(), n_components=10)
    components[BATCHES == "y"] += 3
    from bftembed.metrics.integration import ilisi
    from bftembed.metrics.neighbours import nearest_neighbours

    before, after = (ilisi(nearest_neighbours(x, 30), BATCHES) for x in (components, bbknn(components, BATCHES)))
    assert after > before + 0.3


def digests():
    components = pca(expression(), n_components=10)
    made = (components, harmony(components, BATCHES), bbknn(components, BATCHES))
    return [hashlib.sha256(x.tobytes()).hexdigest() for x in made]


def test_all_are_the_same_in_another_process():
    code = "import sys; sys.path[:0] = ['tests', 'tests/tasks']; import test_baselines as t; print(*t.digests())"
    command = [sys.executable, "-W", "ignore", "-c", code]
    told = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    assert told.split() == digests()


@pytest.mark.parametrize("make", [harmony, bbknn])
def test_one_batch_is_an_error(make):
    with pytest.raises(BftembedError, match="there is one only"):
        make(pca(expression()), np.array(["x"] * 80))


def test_too_few_cells_are_an_error():
    components = pca(expression(), n_components=5)
    with pytest.raises(BftembedError, match="Harmony clusters cells by thirties: it needs 30, not 29"):
        harmony(components[:29], BATCHES[:29])
    rare = np.array(["rare", *["x", "y"] * 39, "x"])
    with pytest.raises(BftembedError, match="'rare' has fewer cells"):
        bbknn(components, rare)


@pytest.mark.parametrize(("make", "module"), [(harmony, "harmonypy"), (bbknn, "bbknn.matrix")])
def test_without_the_extra_the_install_line_is_named(monkeypatch, make, module):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=r"bftembed\[scib\]"):
        make(pca(expression()), BATCHES)


def two_types(n=129, genes=40, seed=0):
    """Return raw counts (CSR) of two types in two batches, the second batch with other levels of ten genes."""
    draw = np.random.default_rng(seed)
    types, batches = np.arange(n) % 2, (np.arange(n) // 2) % 2
    level = draw.gamma(2.0, 2.0, (2, genes))[types]
    level[:, :10] *= np.where(batches == 1, 8.0, 1.0)[:, None]
    return scipy.sparse.csr_matrix(draw.poisson(level).astype(np.float32)), types, np.array(["x", "y"])[batches]


@pytest.mark.parametrize(
    ("counts", "batches", "reason"),
    [
        (np.log1p(np.arange(12.0)).reshape(4, 3), "xxyy", "11 values are fractions.*raw counts"),
        (-np.ones((4, 3)), "xxyy", "12 values are fractions, negative"),
        (np.full((4, 3), np.inf), "xxyy", "12 values are fractions, negative or not finite"),
        (np.ones((4, 3)), "xxxx", "one only"),
        (np.array([[1.0], [0], [0], [0]]), "xxyy", "1 of 4 have any"),
    ],
)
def test_what_scvi_cannot_model_is_refused(counts, batches, reason):
    with pytest.raises(BftembedError, match=reason):
        scvi(scipy.sparse.csr_matrix(counts), np.array(list(batches)))


def test_without_scvi_tools_the_package_is_named(monkeypatch):
    counts, _, batches = two_types()
    monkeypatch.setitem(sys.modules, "scvi.model", None)
    monkeypatch.setitem(sys.modules, "scvi", None)
    with pytest.raises(MissingExtraError, match="pip install scvi-tools"):
        scvi(counts, batches)


@pytest.mark.filterwarnings("ignore")
def test_scvi_mixes_batches_keeps_types_and_leaves_the_process_alone(tmp_path, monkeypatch, capfd):
    pytest.importorskip("scvi")
    import random

    import torch

    from bftembed.metrics.silhouette import silhouette_batch, silhouette_label

    monkeypatch.chdir(tmp_path)
    counts, types, batches = two_types()
    counts[5] = 0
    counts.eliminate_zeros()
    kept, states = counts.copy(), (random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state())
    capfd.readouterr()
    found = scvi(counts, batches, n_latent=5, max_epochs=60)
    assert capfd.readouterr().out == ""
    assert list(tmp_path.iterdir()) == []
    assert (random.getstate(), torch.equal(torch.get_rng_state(), states[2])) == (states[0], True)
    np.testing.assert_array_equal(np.random.get_state()[1], states[1])
    assert (counts != kept).nnz == 0
    assert (found.shape, found.dtype) == ((129, 5), np.float32)
    np.testing.assert_array_equal(np.isnan(found).any(axis=1), np.arange(129) == 5)
    torch.set_num_threads(2)
    np.testing.assert_array_equal(found, scvi(counts, batches, n_latent=5, max_epochs=60))
    assert torch.get_num_threads() == 2
    assert not np.array_equal(found[:5], scvi(counts, batches, n_latent=5, max_epochs=60, seed=1)[:5])
    has = np.arange(129) != 5
    before = pca(np.log1p(counts[has]), n_components=5)
    assert silhouette_label(found[has], types[has]) > 0.6
    mixed, apart = (silhouette_batch(x, types[has], batches[has]) for x in (found[has], before))
    assert mixed > apart + 0.1

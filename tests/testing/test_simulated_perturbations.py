"""Simulated screens: their shape, that they repeat, and that the embedding tells as much as was asked."""

from __future__ import annotations

import numpy as np
import pytest

from bftembed.entities.genes import GeneIndex
from bftembed.errors import BftembedError
from bftembed.testing import CONTROL, simulate_perturbations


def deltas(adata, cell_type):
    own = adata[adata.obs["cell_type"] == cell_type]
    control = own[own.obs["gene"] == CONTROL].X.mean(axis=0)
    targets = [g for g in own.obs["gene"].cat.categories if g != CONTROL]
    return targets, np.stack([own[own.obs["gene"] == g].X.mean(axis=0) - control for g in targets])


def test_a_screen_has_the_columns_of_state_and_says_that_it_is_simulated():
    adata, genes = simulate_perturbations(n_perturbations=6, n_genes=40, cells_per_perturbation=5)
    assert adata.X.dtype == np.float32
    assert 0 <= adata.X.min() < adata.X.max() < 15
    np.testing.assert_allclose(np.expm1(adata.X).sum(axis=1), 1e4, rtol=1e-4)
    assert all(adata.obs[c].dtype == "category" for c in ("gene", "cell_type", "gem_group"))
    counts = adata.obs.groupby(["cell_type", "gene"], observed=True).size()
    assert counts.drop(CONTROL, level="gene").unique().tolist() == [5]
    assert counts.xs(CONTROL, level="gene").tolist() == [3, 3, 3]  # a tenth of the cells
    assert adata.obs["gem_group"].nunique() == 2
    assert set(adata.obs["gene"]) - {CONTROL} <= set(adata.var_names)
    assert list(genes.ids) == list(adata.var_names)
    assert all(r.status == "used" for r in GeneIndex.default().resolve(list(genes.ids)))
    assert adata.uns["simulated"]["what"] == "simulated, not observed"
    assert genes.provenance["simulated"] is True


def test_a_screen_repeats_itself_and_seeds_differ():
    options = {"n_perturbations": 5, "n_genes": 30, "cells_per_perturbation": 4}
    (first, genes), (again, _), (other, _) = (simulate_perturbations(seed=s, **options) for s in (1, 1, 2))
    np.testing.assert_array_equal(first.X, again.X)
    assert first.obs.equals(again.obs)
    assert genes.fingerprint() == simulate_perturbations(seed=1, **options)[1].fingerprint()
    assert first.X.shape != other.X.shape or (first.X != other.X).any()


def test_targets_fall_and_the_share_of_the_effect_that_the_embedding_tells_is_that_asked_for():
    told = {}
    for signal in (0.0, 1.0):
        adata, genes = simulate_perturbations(
            signal=signal, n_perturbations=120, n_genes=150, cells_per_perturbation=60, cell_types=("a",), dim=8
        )
        targets, change = deltas(adata, "a")
        falls = [change[i, adata.var_names.get_loc(t)] for i, t in enumerate(targets)]
        assert np.median(falls) < -0.5
        vectors = genes.matrix[[genes.ids.index(t) for t in targets]]
        half = len(targets) // 2
        design = np.c_[vectors, np.ones(len(vectors))]
        fit = np.linalg.lstsq(design[:half], change[:half], rcond=None)[0]
        rest = change[half:] - change[:half].mean(axis=0)
        told[signal] = 1 - ((change[half:] - design[half:] @ fit) ** 2).sum() / (rest**2).sum()
    assert told[1.0] > 0.5
    assert told[0.0] < 0.05


@pytest.mark.parametrize(
    "options",
    [{"signal": 1.5}, {"n_perturbations": 50, "n_genes": 10}, {"dim": 0}],
)
def test_numbers_out_of_range_are_an_error(options):
    with pytest.raises(BftembedError):
        simulate_perturbations(**options)

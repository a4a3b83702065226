"""Splits that keep what they promise, and predictors against the equations written out."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from bftembed.errors import BftembedError, MissingExtraError
from bftembed.tasks.perturbation import candidates, predictors
from bftembed.tasks.perturbation.data import GroupSums, screen_of
from bftembed.tasks.perturbation.scoring import Truth, chance, score
from bftembed.tasks.perturbation.second import second_scores
from bftembed.tasks.perturbation.splits import has_unseen_genes, unseen_cell_type, unseen_gene
from bftembed.testing import simulate_perturbations


def screen_from(adata, types=None):
    sums = GroupSums(adata.n_vars)
    groups = list(zip(adata.obs["cell_type"].astype(str), adata.obs["gene"].astype(str), strict=True))
    sums.add(csr_matrix(adata.X), groups)
    return screen_of(sums, list(adata.var_names), "non-targeting", "the test")


@pytest.fixture(scope="module")
def simulated():
    adata, genes = simulate_perturbations(n_perturbations=12, n_genes=60, cells_per_perturbation=8)
    return screen_from(adata), genes


def test_every_gene_is_held_out_once_per_seed_in_every_cell_type(simulated):
    screen, _ = simulated
    for seed in range(3):
        splits = unseen_gene(screen, seed)
        assert len(splits) == 5
        assert sum(s.test for s in splits).tolist() == [1] * len(screen.label)
        for split in splits:
            assert has_unseen_genes(screen, split)
            assert not np.isin(screen.label[split.test], screen.label[split.train]).any()
            assert set(np.bincount(screen.label[split.test])) <= {0, 3}
    assert (unseen_gene(screen, 0)[0].test != unseen_gene(screen, 1)[0].test).any()


def test_a_combination_is_unseen_with_either_member(simulated):
    screen, _ = simulated
    labels = list(screen.labels)
    members = list(screen.members)
    members[0] = (labels[1], labels[2])
    from dataclasses import replace

    combined = replace(screen, members=members)
    for split in unseen_gene(combined, 0):
        held = {combined.labels[i] for i in set(combined.label[split.test]) if len(combined.members[i]) == 1}
        trained = {g for i in set(combined.label[split.train]) for g in combined.members[i]}
        assert not held & trained


def test_cell_types_are_held_out_in_turn_and_one_alone_cannot_be(simulated):
    screen, _ = simulated
    splits = unseen_cell_type(screen)
    assert len(splits) == 3
    for number, split in enumerate(splits):
        assert set(screen.cell_type[split.test]) == {number}
        assert not has_unseen_genes(screen, split)
    adata, _ = simulate_perturbations(n_perturbations=3, n_genes=20, cells_per_perturbation=3, cell_types=("a",))
    with pytest.raises(BftembedError, match="one cell type only"):
        unseen_cell_type(screen_from(adata))


def test_the_bilinear_model_solves_its_equation():
    draw = np.random.default_rng(0)
    y, g, p, new = (draw.normal(size=s) for s in ((14, 30), (30, 4), (14, 3), (5, 3)))
    found = predictors.bilinear(y, g, p, new, ridge=0.1)
    # As the paper writes it, with genes in rows.
    k = np.linalg.inv(g.T @ g + 0.1 * np.eye(4)) @ g.T @ y.T @ p @ np.linalg.inv(p.T @ p + 0.1 * np.eye(3))
    np.testing.assert_allclose(found, (g @ k @ new.T).T)
    kept = g @ draw.normal(size=(4, 3))
    np.testing.assert_allclose(predictors.bilinear(p @ kept.T, g, p, new, ridge=1e-9), new @ kept.T, atol=1e-6)


@pytest.mark.parametrize("shape", [(12, 40), (40, 6)])
def test_reduction_is_the_pca_of_the_training_rows_alone(shape):
    from sklearn.decomposition import PCA

    draw = np.random.default_rng(0)
    vectors = draw.normal(size=shape) * np.linspace(1, 3, shape[1])
    train = np.arange(shape[0]) % 4 != 0
    found = predictors.reduced(vectors, train, 4)
    pca = PCA(4, svd_solver="full").fit(vectors[train])
    expected = pca.transform(vectors)
    expected /= expected[train].std(axis=0)
    np.testing.assert_allclose(np.abs(found), np.abs(expected), atol=1e-8)
    np.testing.assert_allclose((found[train] ** 2).mean(axis=0), 1)
    vectors[~train] += 5
    np.testing.assert_allclose(np.abs(predictors.reduced(vectors, train, 4)[train]), np.abs(expected[train]), atol=1e-8)


def test_training_pca_are_singular_vectors():
    centred = np.random.default_rng(0).normal(size=(9, 30))
    left = np.linalg.svd(centred.T)[0][:, :3] * np.sqrt(30)
    np.testing.assert_allclose(np.abs(predictors.expression_components(centred, 3)), np.abs(left))
    assert predictors.expression_components(np.ones((9, 30)), 3).shape == (30, 1)  # what there is


def test_means_are_made_of_training_conditions_alone(simulated):
    screen, _ = simulated
    delta = screen.delta
    split = unseen_cell_type(screen)[1]
    centres = predictors.centres(screen, delta, split)
    np.testing.assert_allclose(centres[0], delta[screen.cell_type == 0].mean(axis=0))
    np.testing.assert_allclose(centres[1], delta[screen.cell_type != 1].mean(axis=0))
    means = predictors.mean_per_perturbation(screen, delta, split)
    for row, label in zip(means, screen.label[split.test], strict=True):
        own = (screen.label == label) & (screen.cell_type != 1)
        np.testing.assert_allclose(row, delta[own].mean(axis=0))


def test_what_is_held_out_changes_no_prediction(simulated):
    screen, genes = simulated
    vectors = candidates.vectors_of(screen, "text", [genes], 5)
    shares = candidates.membership(screen)
    for split in (unseen_gene(screen, 0)[0], unseen_cell_type(screen)[0]):
        found = []
        for noise in (0.0, 100.0):
            delta = screen.delta
            delta[split.test] += noise
            trained = candidates.Trained.on(screen, delta, split, 5, 0.1)
            p = predictors.reduced(shares @ vectors.targeted[0], trained.in_training(), 5)
            found.append([trained.predict(p), trained.predict(p, vectors.measured), trained.centre])
        for one, other in zip(*found, strict=True):
            np.testing.assert_array_equal(one, other)


def test_draws_keep_the_shape_and_shuffles_the_vectors(simulated):
    screen, genes = simulated
    vectors = candidates.vectors_of(screen, "text", [genes], 5)
    own = vectors.targeted[0]
    shuffled = candidates.drawn("shuffled", vectors, 0, 0, 0)
    assert sorted(map(tuple, shuffled)) == sorted(map(tuple, own))
    assert (shuffled != own).any()
    assert candidates.drawn("random", vectors, 0, 0, 0).shape == own.shape
    assert (candidates.drawn("random", vectors, 0, 0, 0) != candidates.drawn("random", vectors, 0, 1, 0)).all()
    np.testing.assert_array_equal(
        candidates.drawn("random", vectors, 3, 1, 0), candidates.drawn("random", vectors, 3, 1, 0)
    )


def test_the_truth_scores_best_and_chance_is_that_of_each_cell_type(simulated):
    screen, _ = simulated
    truth = Truth.of(screen)
    split = unseen_gene(screen, 0)[0]
    found = score(truth, split, truth.delta[split.test])
    assert found["mae"].max() == 0
    for metric in ("pearson_delta", "pds_l1", "pds_cosine"):
        np.testing.assert_allclose(found[metric], 1)
    assert np.nanmin(found["de_overlap"]) == 1
    levels = chance(truth, split)
    assert set(levels["pds_l1"]) == {0.5}
    expected = [len(truth.changed[r]) / 60 for r in np.flatnonzero(split.test)]
    np.testing.assert_allclose(levels["de_overlap"], expected)


def test_a_second_scorer_that_is_not_installed_names_its_extra(simulated, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "cell_eval2", None)
    screen, _ = simulated
    truth, split = Truth.of(screen), unseen_cell_type(screen)[0]
    with pytest.raises(MissingExtraError, match=r"bftembed\[perturb\]"):
        second_scores(truth, split, truth.delta[split.test])


def test_cell_eval2_scores_a_split_as_we_do(simulated):
    pytest.importorskip("cell_eval2")
    screen, _ = simulated
    truth, split = Truth.of(screen), unseen_cell_type(screen)[0]
    predicted = truth.delta[split.test] + np.random.default_rng(0).normal(size=(12, 60)) * 2
    ours, theirs = score(truth, split, predicted), second_scores(truth, split, predicted)
    for metric in ("mae", "pds_l1", "pds_cosine"):
        np.testing.assert_allclose(theirs[f"cell_eval2_{metric}"], ours[metric], rtol=1e-4)

"""Predictors against the equations written out, and scores of their predictions."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.decomposition import PCA

from bftembed.tasks.perturbation import _predictors as predictors
from bftembed.tasks.perturbation.data import UNSEEN_CELL_TYPE, UNSEEN_GENE, has_unseen_genes, read_screen, splits_of
from bftembed.tasks.perturbation.task import _chance_scores, _scores_of, _Truth
from bftembed.testing import simulate_perturbations


@pytest.fixture(scope="module")
def simulated():
    adata, genes = simulate_perturbations(n_perturbations=12, n_genes=60, cells_per_perturbation=8)
    return read_screen([adata], ("cell_type", "gene"), "non-targeting"), genes


def test_the_bilinear_model_solves_its_equation():
    draw = np.random.default_rng(0)
    y, g, p, new = (draw.normal(size=s) for s in ((14, 30), (30, 4), (14, 3), (5, 3)))
    found = predictors._bilinear(y, g, p, new, ridge=0.1)
    # As the paper writes it, with genes in rows.
    k = np.linalg.inv(g.T @ g + 0.1 * np.eye(4)) @ g.T @ y.T @ p @ np.linalg.inv(p.T @ p + 0.1 * np.eye(3))
    np.testing.assert_allclose(found, (g @ k @ new.T).T)
    kept = g @ draw.normal(size=(4, 3))
    np.testing.assert_allclose(predictors._bilinear(p @ kept.T, g, p, new, ridge=1e-9), new @ kept.T, atol=1e-6)


@pytest.mark.parametrize("shape", [(12, 40), (40, 6)])
def test_reduction_is_the_pca_of_the_training_rows_alone(shape):
    draw = np.random.default_rng(0)
    vectors = draw.normal(size=shape) * np.linspace(1, 3, shape[1])
    train = np.arange(shape[0]) % 4 != 0
    found = predictors._reduced(vectors, train, 4)
    expected = PCA(4, svd_solver="full").fit(vectors[train]).transform(vectors)
    expected /= expected[train].std(axis=0)
    np.testing.assert_allclose(np.abs(found), np.abs(expected), atol=1e-8)
    vectors[~train] += 5
    np.testing.assert_allclose(
        np.abs(predictors._reduced(vectors, train, 4)[train]), np.abs(expected[train]), atol=1e-8
    )


def test_training_pca_are_singular_vectors():
    centered = np.random.default_rng(0).normal(size=(9, 30))
    left = np.linalg.svd(centered.T)[0][:, :3] * np.sqrt(30)
    np.testing.assert_allclose(np.abs(predictors._expression_components(centered, 3)), np.abs(left))
    assert predictors._expression_components(np.ones((9, 30)), 3).shape == (30, 1)  # what there is


def test_means_are_made_of_training_conditions_alone(simulated):
    screen, _ = simulated
    delta, split = screen.delta, splits_of(UNSEEN_CELL_TYPE, screen, 0)[1]
    training = predictors.Training(screen, delta, split)
    np.testing.assert_allclose(training.center[0], delta[screen.cell_type != 1].mean(axis=0))
    own = delta[split.train] - training.centered
    np.testing.assert_allclose(own[0], delta[screen.cell_type == 0].mean(axis=0))
    for row, label in zip(training.label_means(training.delta)[training.tested], training.tested, strict=True):
        np.testing.assert_allclose(row, delta[(screen.label == label) & (screen.cell_type != 1)].mean(axis=0))


def test_test_conditions_change_no_prediction(simulated):
    screen, genes = simulated
    for split in (splits_of(UNSEEN_GENE, screen, 0)[0], splits_of(UNSEEN_CELL_TYPE, screen, 0)[0]):
        found = []
        for noise in (0.0, 100.0):
            delta = screen.delta
            delta[split.test] += noise
            training = predictors.Training(screen, delta, split)
            seen = not has_unseen_genes(screen, split)
            every = predictors.predictors_of(screen, {"text": genes}, 2, seen=seen)
            found.append([p.predict(training, 0, 0) for p in every])
        assert len(found[0]) == (8 if seen else 5)
        for one, other in zip(*found, strict=True):
            np.testing.assert_array_equal(one, other)


def test_random_vectors_keep_the_shape_and_shuffled_ones_the_vectors():
    own = np.random.default_rng(9).normal(size=(12, 5))
    shuffled, random = (predictors._drawn(own, kind, 0, 0) for kind in ("shuffled", "random"))
    assert sorted(map(tuple, shuffled)) == sorted(map(tuple, own))
    assert (shuffled != own).any()
    assert random.shape == own.shape
    assert (random != predictors._drawn(own, "random", 0, 1)).all()
    np.testing.assert_array_equal(random, predictors._drawn(own, "random", 0, 0))


def test_the_truth_scores_best_and_chance_is_that_of_each_cell_type(simulated):
    screen, _ = simulated
    truth = _Truth.of(screen)
    split = splits_of(UNSEEN_GENE, screen, 0)[0]
    found = _scores_of(truth, split, truth.delta[split.test])
    assert found["mae"].max() == 0
    for metric in ("pearson_delta", "pds_l1", "pds_cosine"):
        np.testing.assert_allclose(found[metric], 1)
    assert np.nanmin(found["de_overlap"]) == 1
    levels = _chance_scores(truth, split)
    assert set(levels["pds_l1"]) == {0.5}
    expected = [len(truth.changed[r]) / 60 for r in np.flatnonzero(split.test)]
    np.testing.assert_allclose(levels["de_overlap"], expected)

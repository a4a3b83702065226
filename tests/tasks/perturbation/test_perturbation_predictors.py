"""Splits that keep what they promise, and predictors against the equations written out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bftembed.errors import BftembedError
from bftembed.tasks.perturbation import predictors
from bftembed.tasks.perturbation.data import has_unseen_genes, read_screen, unseen_cell_type, unseen_gene
from bftembed.tasks.perturbation.scoring import Truth, cell_eval2_scores, chance_scores, scores_of
from bftembed.testing import simulate_perturbations


def screen_from(adata):
    return read_screen([adata], ("cell_type", "gene"), "non-targeting")


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
    combined = replace(screen, members=[tuple(screen.labels[1:3]), *screen.members[1:]])
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
    with pytest.raises(BftembedError):
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
    delta, split = screen.delta, unseen_cell_type(screen)[1]
    training = predictors.Training(screen, delta, split, 5, 0.1)
    np.testing.assert_allclose(training.center[0], delta[screen.cell_type != 1].mean(axis=0))
    own = delta[split.train] - training.centered
    np.testing.assert_allclose(own[0], delta[screen.cell_type == 0].mean(axis=0))
    for row, label in zip(training.label_means(training.delta)[training.tested], training.tested, strict=True):
        np.testing.assert_allclose(row, delta[(screen.label == label) & (screen.cell_type != 1)].mean(axis=0))


def test_test_conditions_change_no_prediction(simulated):
    screen, genes = simulated
    vectors = predictors.Vectors.of(screen, "text", [genes], 5)
    for split in (unseen_gene(screen, 0)[0], unseen_cell_type(screen)[0]):
        found = []
        for noise in (0.0, 100.0):
            delta = screen.delta
            delta[split.test] += noise
            training = predictors.Training(screen, delta, split, 5, 0.1)
            seen = not has_unseen_genes(screen, split)
            all_of_them = predictors.predictors_of(screen, [vectors], 5, 2, seen=seen)
            found.append([p.predict(training, 0, 0, 0) for p in all_of_them])
        assert len(found[0]) == (9 if seen else 6)
        for one, other in zip(*found, strict=True):
            np.testing.assert_array_equal(one, other)


def test_random_vectors_keep_the_shape_and_shuffled_ones_the_vectors(simulated):
    screen, genes = simulated
    vectors = predictors.Vectors.of(screen, "text", [genes], 5)
    own, shuffled, random = (vectors.draw(kind, 0, 0, 0) for kind in ("subject", "shuffled", "random"))
    assert sorted(map(tuple, shuffled)) == sorted(map(tuple, own))
    assert (shuffled != own).any()
    assert random.shape == own.shape
    assert (random != vectors.draw("random", 0, 1, 0)).all()
    np.testing.assert_array_equal(random, vectors.draw("random", 0, 0, 0))


def test_the_truth_scores_best_and_chance_is_that_of_each_cell_type(simulated):
    screen, _ = simulated
    truth = Truth.of(screen)
    split = unseen_gene(screen, 0)[0]
    found = scores_of(truth, split, truth.delta[split.test])
    assert found["mae"].max() == 0
    for metric in ("pearson_delta", "pds_l1", "pds_cosine"):
        np.testing.assert_allclose(found[metric], 1)
    assert np.nanmin(found["de_overlap"]) == 1
    levels = chance_scores(truth, split)
    assert set(levels["pds_l1"]) == {0.5}
    expected = [len(truth.changed[r]) / 60 for r in np.flatnonzero(split.test)]
    np.testing.assert_allclose(levels["de_overlap"], expected)


def test_cell_eval2_gives_the_same_scores(simulated):
    pytest.importorskip("cell_eval2")
    screen, _ = simulated
    truth, split = Truth.of(screen), unseen_cell_type(screen)[0]
    predicted = truth.delta[split.test] + np.random.default_rng(0).normal(size=(12, 60)) * 2
    ours, theirs = scores_of(truth, split, predicted), cell_eval2_scores(truth, split, predicted)
    for metric in ("mae", "pds_l1", "pds_cosine"):
        np.testing.assert_allclose(theirs[f"cell_eval2_{metric}"], ours[metric], rtol=1e-4)

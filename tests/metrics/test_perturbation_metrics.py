"""Scores of predicted effects: hand-made cases, slow reference programs, and cell-eval2 where it is installed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.spatial.distance import cosine

from bftembed.errors import UnknownNameError
from bftembed.metrics.perturbation import (
    differential_genes,
    discrimination,
    discrimination_chance,
    mean_absolute_error,
    overlap,
    pearson_delta,
    welch_p_values,
)


def toy(seed=0, n=9, g=25):
    draw = np.random.default_rng(seed)
    true = draw.normal(size=(n, g))
    return true * 0.4 + draw.normal(size=(n, g)), true, [(i,) for i in range(n)]


def slow_discrimination(predicted, true, targets, distance):
    scores = []
    targeted = {c for own in targets for c in own}
    kept = [c for c in range(true.shape[1]) if c not in targeted]
    for i in range(len(true)):
        apart = [
            np.abs(predicted[i, kept] - other[kept]).sum()
            if distance == "l1"
            else cosine(predicted[i, kept], other[kept])
            for other in true
        ]
        scores.append(1 - sum(a < apart[i] for a in apart) / (len(true) - 1))
    return scores


def test_mae_and_correlation_by_hand():
    predicted, true = np.array([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]]), np.array([[1.0, 4.0, 2.0], [1.0, -1.0, 1.0]])
    np.testing.assert_allclose(mean_absolute_error(predicted, true), [1.0, 1.0])
    found = pearson_delta(predicted, true)
    assert found[0] == pytest.approx(stats.pearsonr(predicted[0], true[0])[0])
    assert np.isnan(found[1])  # a constant has no direction
    assert np.isnan(pearson_delta(true, np.full_like(true, 0.1))).all()


@pytest.mark.parametrize("distance", ["l1", "cosine"])
@given(seed=st.integers(0, 1000))
def test_discrimination_is_that_of_the_slow_program(distance, seed):
    predicted, true, targets = toy(seed)
    targets[3], targets[4] = (), (1, 7)  # a target that is not measured, a combination
    np.testing.assert_allclose(
        discrimination(predicted, true, targets, distance), slow_discrimination(predicted, true, targets, distance)
    )


def test_discrimination_by_hand():
    true = np.array([[0.0, 0.0], [1.0, 0.0], [5.0, 0.0], [9.0, 0.0]])
    assert discrimination(true, true, [()] * 4).tolist() == [1, 1, 1, 1]
    # From 9, the truth 0 is the farthest of four.
    assert discrimination(true[::-1], true, [()] * 4)[0] == 0
    assert discrimination(true[::-1], true, [()] * 4)[1] == 0.5  # from 5: itself, then 1 and 9, tied
    assert np.isnan(discrimination(true[:1], true[:1], [()])).all()
    assert np.isnan(discrimination(true, true, [(0, 1)] * 4)).all()
    with pytest.raises(UnknownNameError):
        discrimination(true, true, [()] * 4, "l3")


def test_the_target_is_left_out():
    true = np.array([[9.0, 0.0, 1.0], [0.0, 9.0, 0.0]])
    predicted = np.array([[9.0, 0.0, 0.0], [0.0, 9.0, 1.0]])  # right about the targets alone
    assert discrimination(predicted, true, [(), ()]).tolist() == [1, 1]
    assert discrimination(predicted, true, [(0,), (1,)]).tolist() == [0, 0]


@pytest.mark.parametrize("distance", ["l1", "cosine"])
def test_the_same_prediction_for_all_scores_chance_whatever_the_order(distance):
    _, true, _ = toy(n=11)
    for said in (np.zeros_like(true), np.repeat(true[:1], 11, axis=0)):
        scores = discrimination(said, true, [()] * 11, distance)
        assert scores.mean() == pytest.approx(discrimination_chance(11), abs=1e-12)
        assert discrimination(said, true, [(i,) for i in range(11)], distance).mean() == pytest.approx(0.5, abs=1e-12)
        order = np.random.default_rng(1).permutation(11)
        np.testing.assert_allclose(discrimination(said[order], true[order], [()] * 11, distance), scores[order])


def test_chance_is_the_mean_over_all_guesses():
    assert np.isnan(discrimination_chance(1))
    for n in (2, 7):
        assert discrimination_chance(n) == np.mean([1 - rank / (n - 1) for rank in range(n)]) == 0.5
    draw = np.random.default_rng(0)
    guessed = [discrimination(draw.normal(size=(6, 40)), draw.normal(size=(6, 40)), [()] * 6) for _ in range(300)]
    assert np.mean(guessed) == pytest.approx(discrimination_chance(6), abs=0.02)


def test_welch_is_that_of_scipy_and_a_group_without_variance_is_not_tested():
    draw = np.random.default_rng(0)
    cells, control = draw.normal(size=(7, 5)), draw.normal(0.5, 2, size=(12, 5))
    cells[:, 4], control[:, 4] = 1.0, 1.0
    args = [(x.mean(axis=0), x.var(axis=0, ddof=1)) for x in (cells, control)]
    found = welch_p_values(args[0][0][None], args[0][1][None], np.array([[7]]), *args[1], 12)
    expected = stats.ttest_ind(cells[:, :4], control[:, :4], equal_var=False).pvalue
    np.testing.assert_allclose(found[0, :4], expected)
    assert found[0, 4] == 1
    assert (welch_p_values(args[0][0][None], args[0][1][None], np.array([[1]]), *args[1], 12) == 1).all()


def test_changed_genes_are_the_largest_as_many_as_are_significant():
    true = np.array([[0.1, -3.0, 2.0, 9.0]])
    p_values = np.array([[0.005, 0.002, 0.03, 0.5]])  # of 4: .01, .008, .04, .5
    assert [x.tolist() for x in differential_genes(true, p_values)] == [[1, 2, 3]]
    assert [x.tolist() for x in differential_genes(true, p_values, level=0.01)] == [[3]]
    assert [x.tolist() for x in differential_genes(true, p_values, top=2)] == [[1, 3]]
    assert [x.tolist() for x in differential_genes(true, np.ones((1, 4)))] == [[]]


def test_overlap_by_hand_with_ties_counted_in_part():
    changed = [np.array([0, 1])]
    assert overlap(np.array([[5.0, -4.0, 1.0, 0.0]]), changed).tolist() == [1]
    assert overlap(np.array([[5.0, 0.0, 1.0, -4.0]]), changed).tolist() == [0.5]
    # All tied: two of four places, of which half of the changed genes get one.
    assert overlap(np.zeros((1, 4)), changed).tolist() == [0.5]
    assert np.isnan(overlap(np.zeros((1, 4)), [np.array([], dtype=int)])).all()


def test_cell_eval2_gives_the_same_numbers():
    ours = pytest.importorskip("cell_eval2")
    import anndata
    import pandas as pd

    predicted, true, targets = toy(n=6)
    control = np.full((1, 25), 5.0)
    obs = pd.DataFrame({"gene": pd.Categorical(["ctrl", *(f"g{i}" for i in range(6))])})
    obs.index = obs.index.astype(str)
    var = pd.DataFrame(index=[f"g{i}" for i in range(25)])
    both = [anndata.AnnData(np.vstack([control, control + x]).astype(np.float32), obs, var) for x in (predicted, true)]
    config = ours.EvalConfig(
        metrics=["expr_mae", "pds_l1", "pds_cosine"], pert_col="gene", control="ctrl", input_type="lognorm"
    )
    rows = ours.compute_metrics(*both, config=config).iter_rows()
    table = pd.DataFrame(rows, columns=["name", "metric", "value"]).pivot(index="name", columns="metric")["value"]
    names = [f"g{i}" for i in range(6)]
    np.testing.assert_allclose(table.loc[names, "expr_mae"], mean_absolute_error(predicted, true), rtol=1e-5)
    for distance in ("l1", "cosine"):
        theirs = table.loc[names, f"pds_{distance}"].to_numpy()
        np.testing.assert_allclose(theirs, discrimination(predicted, true, targets, distance))

"""The verdict: it says "helps" where there is signal, and seldom where there is none."""

from __future__ import annotations

import numpy as np
import pytest

from bftembed import bench
from bftembed.reports.perturbation import HELPS, NOT_SHOWN, perturbation_summary, text_lines, verdicts
from bftembed.results import to_frame
from bftembed.tasks.perturbation import verdict
from bftembed.testing import simulate_perturbations


def said(signal, seed, **settings):
    adata, genes = simulate_perturbations(signal=signal, seed=seed, **settings)
    frame = bench.perturbation(adata, {"text": genes}, split="unseen-gene")
    (word,) = verdicts(perturbation_summary(frame)).values()
    return word


def singles(labels):
    return [(str(i),) for i in range(labels.max() + 1)]


LIGHT = {"n_genes": 120, "cells_per_perturbation": 12, "cell_types": ("k562", "rpe1")}


@pytest.mark.parametrize("signal", [0.0, 1.0])
def test_the_verdict_is_right_on_a_few_simulated_screens(signal):
    words = [said(signal, seed, **LIGHT) for seed in range(4)]
    wrong = [w for w in words if (w == HELPS) != (signal == 1)]
    assert len(wrong) <= 1, words


@pytest.mark.slow
@pytest.mark.parametrize("signal", [0.0, 1.0])
def test_the_verdict_is_wrong_at_most_once_in_twenty_simulated_screens(signal):
    words = [said(signal, seed) for seed in range(20)]
    assert sum((w == HELPS) != (signal == 1) for w in words) <= 1, words


def test_the_bootstrap_resamples_perturbations_whole():
    draw = np.random.default_rng(0)
    labels = np.repeat(np.arange(20), 30)
    scores = np.repeat(draw.normal(size=20), 30)[None].repeat(3, axis=0)  # 60 scores of each perturbation are one
    low, high = verdict.bootstrap_interval(scores, labels, singles(labels))
    assert high - low == pytest.approx(2 * 1.96 * scores.std() / np.sqrt(20), rel=0.2)
    assert np.isnan(verdict.bootstrap_interval(scores[:, :30], labels[:30], singles(labels))).all()


def test_the_interval_covers_the_mean_as_often_as_it_says():
    draw = np.random.default_rng(1)
    labels, inside = np.repeat(np.arange(30), 2), 0
    for _ in range(300):
        scores = draw.normal(size=(1, 30)).repeat(2, axis=1) + 0.5 * draw.normal(size=(5, 60))
        low, high = verdict.bootstrap_interval(scores, labels, singles(labels))
        inside += low <= 0 <= high
    assert 0.9 <= inside / 300 <= 0.99


def test_combinations_that_share_a_gene_are_no_independent_values():
    draw = np.random.default_rng(3)
    pairs = [(str(i), str(j)) for i in range(14) for j in range(i)]
    labels, inside, narrow = np.arange(len(pairs)), 0, 0
    for _ in range(200):
        effect = draw.normal(size=14)
        scores = np.array([[effect[int(a)] + effect[int(b)] + 0.3 * draw.normal() for a, b in pairs]])
        low, high = verdict.bootstrap_interval(scores, labels, pairs)
        inside += low <= 0 <= high
        low, high = verdict.bootstrap_interval(scores, labels, singles(labels))
        narrow += low <= 0 <= high
    assert inside / 200 >= 0.9
    assert narrow / 200 < 0.7  # what resampling the pairs would claim


def test_labels_of_one_gene_are_one_and_one_gene_alone_has_no_interval():
    scores = np.array([[0.1, 0.2, 0.9]])
    low, high = verdict.bootstrap_interval(scores, np.arange(3), [("TP53",), ("TP53",), ("MYC",)])
    assert (low, high) == pytest.approx((0.15, 0.9))
    assert np.isnan(verdict.bootstrap_interval(scores, np.arange(3), [("TP53",)] * 3)).all()
    many = [str(i) for i in range(40)]
    assert np.isnan(verdict.bootstrap_interval(scores[:, :2], np.arange(2), [many, many[1:]])).all()
    nothing = np.array([[np.nan, np.nan, 0.9]])
    assert np.isnan(verdict.bootstrap_interval(nothing, np.arange(3), [("TP53",), ("MYC",), ("MYC",)])).all()


def test_the_luck_of_one_set_of_vectors_widens_the_interval():
    draw = np.random.default_rng(2)
    labels, wrong, narrow = np.arange(30), 0, 0
    for _ in range(200):
        luck = draw.normal(size=(5, 4, 1))
        drawn = luck + 0.01 * draw.normal(size=(5, 4, 30))
        text = draw.normal() + 0.01 * draw.normal(size=(5, 1, 30))
        _, low, high = verdict.difference(text, drawn, labels, singles(labels), drawn=True)
        wrong += low > 0 or high < 0
        _, low, high = verdict.difference(text, drawn, labels, singles(labels), drawn=False)
        narrow += low > 0 or high < 0
    assert 0.01 <= wrong / 200 <= 0.1
    assert narrow / 200 > 0.2  # what the bootstrap alone would claim


def test_scores_that_are_not_there_give_no_difference():
    nothing = np.full((2, 1, 3), np.nan)
    assert np.isnan(verdict.difference(nothing, nothing, np.arange(3), singles(np.arange(3)), drawn=False)).all()


def test_rows_have_seeds_intervals_differences_and_chance():
    adata, genes = simulate_perturbations(n_perturbations=25, **LIGHT)
    frame = bench.perturbation(adata, {"text": genes})
    gene = frame[frame["protocol"] == "unseen-gene"]
    own = gene[(gene["embedding"] == "bilinear: P = text") & (gene["metric"] == "pds_l1")]
    assert own.loc[own["split"] == "all", "seed"].tolist() == [0, 1, 2, 3, 4]
    assert own["split"].value_counts().to_dict() == {"all": 5, "ci95-low": 1, "ci95-high": 1}
    expected = {f"pds_l1_minus_{x}" for x in ("random", "shuffled", "perturbed_mean")}
    assert expected <= set(gene["metric"])
    chance = gene[(gene["embedding"] == "chance") & (gene["metric"] == "pds_l1")]
    assert chance["value"].tolist() == [0.5]
    other = frame[frame["protocol"] == "unseen-cell-type"]
    mean = other[(other["embedding"] == "mean of the perturbation") & (other["metric"] == "mae")]
    assert mean["seed"].isna().all()
    assert {"bilinear: P = identity", "bilinear: P = training PCA"} <= set(other["embedding"])
    assert not {"bilinear: P = identity", "mean of the perturbation"} & set(gene["embedding"])
    assert frame["note"].str.startswith("simulated data; ").all()
    assert (frame["run"] == "simulated: cells").all()
    random = gene[(gene["embedding"] == "bilinear: P = random (text's shape)") & (gene["metric"] == "mae")]
    text = gene[(gene["embedding"] == "bilinear: P = text") & (gene["metric"] == "mae")]
    apart = gene[(gene["metric"] == "mae_minus_random") & (gene["split"] == "all")]["value"].item()
    means = [x.loc[x["split"] == "all", "value"].mean() for x in (text, random)]
    assert apart == pytest.approx(means[0] - means[1])


def test_results_do_not_depend_on_the_order_of_cells_or_genes():
    adata, genes = simulate_perturbations(n_perturbations=10, **LIGHT)
    draw = np.random.default_rng(0)
    moved = adata[draw.permutation(adata.n_obs), draw.permutation(adata.n_vars)].copy()
    one, other = (bench.perturbation(x, {"text": genes}, seeds=2) for x in (adata, moved))
    key = ["embedding", "protocol", "metric", "split", "seed"]
    assert one[key].equals(other[key])
    np.testing.assert_allclose(one["value"], other["value"], atol=1e-6)


def test_few_perturbations_give_no_claim():
    adata, genes = simulate_perturbations(n_perturbations=15, **LIGHT)  # three at a time
    frame = bench.perturbation(adata, {"text": genes}, split="unseen-gene")
    summary = perturbation_summary(frame)
    assert list(verdicts(summary).values()) == [NOT_SHOWN]
    lines = text_lines(summary)
    assert any("3 held-out perturbations in a cell type" in line for line in lines), lines
    apart = frame[frame["metric"] == "pds_l1_minus_random"]
    assert apart["split"].tolist() == ["all"]  # a number without an interval
    assert not apart["value"].isna().any()


def test_one_cell_type_is_a_row_with_its_reason():
    settings = LIGHT | {"cell_types": ("a",)}
    adata, genes = simulate_perturbations(n_perturbations=10, **settings)
    frame = bench.perturbation(adata, {"text": genes}, seeds=2)
    failed = frame[frame["protocol"] == "unseen-cell-type"]
    assert failed["value"].isna().all()
    assert failed["note"].str.contains("error: there is one cell type only").all()
    assert frame.loc[(frame["protocol"] == "unseen-gene") & (frame["metric"] == "mae"), "value"].notna().all()


def test_an_embedding_beats_the_mean_of_the_perturbation_too_before_it_helps_on_cell_types():
    adata, genes = simulate_perturbations(n_perturbations=25, **LIGHT)
    frame = bench.perturbation(adata, {"text": genes}, split="unseen-cell-type")
    summary = perturbation_summary(frame)
    own = summary.set_index("metric")
    assert own.loc["pds_l1_minus_perturbation_mean", "mean"] < 0
    assert list(verdicts(summary).values()) == [NOT_SHOWN]


def test_two_embeddings_are_each_compared_with_their_own_shape():
    adata, genes = simulate_perturbations(n_perturbations=25, **LIGHT)
    noise = type(genes)(genes.ids, np.random.default_rng(9).normal(size=(len(genes), 8)))
    frame = bench.perturbation(adata, {"good": genes, "noise": noise}, split="unseen-gene")
    found = verdicts(perturbation_summary(frame))
    words = {name: word for (_, _, name), word in found.items()}
    assert words == {"good": HELPS, "noise": NOT_SHOWN}
    assert {"bilinear: P = random (good's shape)", "bilinear: P = noise, shuffled"} <= set(frame["embedding"])
    assert to_frame([]).columns.tolist() == frame.columns.tolist()

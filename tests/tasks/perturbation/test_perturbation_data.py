"""Screens read into means per condition, against pandas; splits; bad input."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix

from bftembed import bench
from bftembed.embeddings import GeneEmbeddings
from bftembed.errors import BftembedError, UnknownNameError
from bftembed.tasks.perturbation.data import (
    UNSEEN_CELL_TYPE,
    UNSEEN_GENE,
    has_unseen_genes,
    read_screen,
    splits_of,
)
from bftembed.testing import simulate_perturbations

CONTROL = "non-targeting"


def read(*sources, control=CONTROL, **choice):
    return read_screen(sources, ("cell_type", "gene"), control, **choice)


@pytest.fixture(scope="module")
def simulated():
    return simulate_perturbations(n_perturbations=8, n_genes=40, cells_per_perturbation=6)


@pytest.fixture
def screen(simulated):
    return simulated[0].copy()


def test_means_and_variances_are_those_of_pandas(screen):
    found = read(screen)
    table = pd.DataFrame(screen.X, columns=screen.var_names)
    groups = table.groupby([screen.obs["cell_type"].to_numpy(str), screen.obs["gene"].to_numpy(str)])
    names = [(found.cell_types[t], found.labels[p]) for t, p in zip(found.cell_type, found.label, strict=True)]
    np.testing.assert_allclose(found.mean, groups.mean().loc[names], atol=1e-6)
    np.testing.assert_allclose(found.variance, groups.var().loc[names], atol=1e-5)
    assert found.cells.tolist() == groups.size().loc[names].tolist()
    controls = [(t, CONTROL) for t in found.cell_types]
    np.testing.assert_allclose(found.control_mean, groups.mean().loc[controls], atol=1e-6)
    assert len(found.label) == 8 * 3
    assert [found.genes[t[0]] for t in found.targets] == found.labels


def test_several_files_in_another_gene_order_or_sparse_are_one_screen(screen, tmp_path):
    whole = read(screen)
    first, second = screen[::2].copy(), screen[1::2, np.random.default_rng(0).permutation(40)].copy()
    second.X = csr_matrix(second.X)
    paths = [tmp_path / "a.h5ad", tmp_path / "b.h5ad"]
    first.write_h5ad(paths[0])
    second.write_h5ad(paths[1])
    found = read(*paths)
    assert found.genes == whole.genes
    np.testing.assert_allclose(found.mean, whole.mean, atol=1e-6)
    np.testing.assert_allclose(found.variance, whole.variance, atol=1e-6)


def test_counts_become_log1p_of_counts_per_10000(screen):
    counts = screen.copy()
    counts.X = np.random.default_rng(0).poisson(3, screen.shape).astype(np.float32)
    by_hand = screen.copy()
    by_hand.X = np.log1p(1e4 * counts.X / counts.X.sum(axis=1, keepdims=True))
    del counts.uns["log1p"]
    np.testing.assert_allclose(read(counts).mean, read(by_hand).mean, rtol=1e-5)
    screen.layers["counts"] = counts.X
    np.testing.assert_allclose(read(screen, layer="counts").mean, read(counts).mean)


def test_combinations_have_the_genes_of_both_members(screen):
    first, second = [x for x in screen.obs["gene"].cat.categories if x != CONTROL][:2]
    renamed = {first: f"{first}+{second}", second: f"{second}+{CONTROL}"}
    screen.obs["gene"] = pd.Categorical([renamed.get(x, x) for x in screen.obs["gene"].astype(str)])
    found = read(screen)
    assert found.members[found.labels.index(f"{first}+{second}")] == (first, second)
    assert found.members[found.labels.index(f"{second}+{CONTROL}")] == (second,)
    assert len(found.targets[found.labels.index(f"{first}+{second}")]) == 2


def test_every_gene_is_held_out_once_per_seed_in_every_cell_type(screen):
    found = read(screen)
    for seed in range(2):
        splits = splits_of(UNSEEN_GENE, found, seed)
        assert sum(s.test for s in splits).tolist() == [1] * len(found.label)
        for split in splits:
            assert not np.isin(found.label[split.test], found.label[split.train]).any()
            assert has_unseen_genes(found, split)
    combined = replace(found, members=[tuple(found.labels[1:3]), *found.members[1:]])
    for split in splits_of(UNSEEN_GENE, combined, 0):
        held = {combined.labels[i] for i in set(combined.label[split.test]) if len(combined.members[i]) == 1}
        assert not held & {g for i in set(combined.label[split.train]) for g in combined.members[i]}


def test_cell_types_are_held_out_in_turn_and_one_alone_cannot_be(screen):
    found = read(screen)
    splits = splits_of(UNSEEN_CELL_TYPE, found, 0)
    assert [set(found.cell_type[s.test]) for s in splits] == [{0}, {1}, {2}]
    assert not any(has_unseen_genes(found, s) for s in splits)
    with pytest.raises(BftembedError):
        splits_of(UNSEEN_CELL_TYPE, read(screen[screen.obs["cell_type"] == "rpe1"].copy()), 0)


DAMAGE = {
    "no label": lambda a: setattr(a, "obs", a.obs.assign(gene=a.obs["gene"].mask(a.obs_names == a.obs_names[3]))),
    "NaN": lambda a: a.X.__setitem__((4, 2), np.nan),
    "not logged": lambda a: setattr(a, "X", np.expm1(a.X)),
    "gene twice": lambda a: setattr(a, "var_names", [*a.var_names[:-1], a.var_names[0]]),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_cells_that_cannot_be_used_are_an_error(screen, damage):
    DAMAGE[damage](screen)
    with pytest.raises(BftembedError):
        read(screen)


def test_screens_without_controls_perturbations_or_shared_genes_are_an_error(screen):
    with pytest.raises(UnknownNameError):
        read(screen, control="non-targetting")
    is_control = screen.obs["gene"] == CONTROL
    one = next(x for x in screen.obs["gene"].cat.categories if x != CONTROL)
    for sources in (
        [screen[~((screen.obs["cell_type"] == "rpe1") & is_control)].copy()],
        [screen[(screen.obs["gene"] == one) | is_control].copy()],
        [screen, screen[:, :-2].copy()],
    ):
        with pytest.raises(BftembedError):
            read(*sources)


def test_perturbations_without_a_vector_are_listed_or_left_out_and_counted(screen, simulated):
    labels = [x for x in screen.obs["gene"].cat.categories if x != CONTROL]
    few = simulated[1].subset([g for g in simulated[1].ids if g not in labels[:2]])
    with pytest.raises(BftembedError, match=rf"'{labels[0]}', '{labels[1]}'"):
        bench.perturbation(screen, {"text": few}, seeds=1)
    frame = bench.perturbation(screen, {"text": few}, seeds=1, allow_missing=True)
    assert set(frame["n_missing"]) == {2}
    assert frame.loc[frame["metric"] == "mae", "n"].max() == 6 * 3
    others = GeneEmbeddings(["NOTAGENE1", "NOTAGENE2"], np.eye(2))
    with pytest.raises(BftembedError):
        bench.perturbation(screen, {"text": simulated[1], "other": others}, allow_missing=True)


def test_wrong_options_are_an_error(simulated):
    for option in ({"genes": {}}, {"split": "unseen-genes"}, {"draws": 1}, {"pert_col": "target"}):
        with pytest.raises(BftembedError):
            bench.perturbation(**({"data": simulated[0], "genes": {"text": simulated[1]}} | option))

"""Screens read into means per condition: against pandas, and every bad input by name."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix

from bftembed import bench
from bftembed.bench.screens import read_screen
from bftembed.embeddings import GeneEmbeddings
from bftembed.errors import BftembedError, UnknownNameError
from bftembed.progress import silent
from bftembed.testing import simulate_perturbations

COLUMNS, CONTROL = ("cell_type", "gene"), "non-targeting"


def read(*sources, control=CONTROL, **choice):
    options = {"layer": None, "use_raw": False, "gene_column": None, "progress": silent} | choice
    return read_screen(sources, COLUMNS, control, **options)


@pytest.fixture(scope="module")
def simulated():
    return simulate_perturbations(n_perturbations=8, n_genes=40, cells_per_perturbation=6)


@pytest.fixture
def screen(simulated):
    return simulated[0].copy()


def relabelled(adata, column, change):
    adata.obs[column] = pd.Categorical([change(x) for x in adata.obs[column].astype(str)])
    return adata


def test_means_and_variances_are_those_of_pandas(screen):
    found, notes = read(screen)
    table = pd.DataFrame(screen.X, columns=screen.var_names)
    groups = table.groupby([screen.obs["cell_type"].to_numpy(str), screen.obs["gene"].to_numpy(str)])
    names = [(found.cell_types[t], found.labels[p]) for t, p in zip(found.cell_type, found.label, strict=True)]
    np.testing.assert_allclose(found.mean, groups.mean().loc[names], atol=1e-6)
    np.testing.assert_allclose(found.variance, groups.var().loc[names], atol=1e-5)
    assert found.cells.tolist() == groups.size().loc[names].tolist()
    controls = [(t, CONTROL) for t in found.cell_types]
    np.testing.assert_allclose(found.control_mean, groups.mean().loc[controls], atol=1e-6)
    assert CONTROL not in found.labels
    assert len(found.label) == 8 * 3
    assert [found.genes[t[0]] for t in found.targets] == found.labels
    assert "values as they are" in notes[0]


def test_several_files_in_another_gene_order_or_sparse_are_one_screen(screen, tmp_path):
    whole, _ = read(screen)
    first, second = screen[::2].copy(), screen[1::2, np.random.default_rng(0).permutation(40)].copy()
    second.X = csr_matrix(second.X)
    paths = [tmp_path / "a.h5ad", tmp_path / "b.h5ad"]
    first.write_h5ad(paths[0])
    second.write_h5ad(paths[1])
    found, _ = read(*paths)
    assert found.genes == whole.genes
    np.testing.assert_allclose(found.mean, whole.mean, atol=1e-6)
    np.testing.assert_allclose(found.variance, whole.variance, atol=1e-6)


def test_counts_are_normalised_and_it_is_said(screen):
    logged, _ = read(screen)
    counts = screen.copy()
    counts.X = np.random.default_rng(0).poisson(3, screen.shape).astype(np.float32)
    totals = counts.X.sum(axis=1, keepdims=True)
    by_hand = screen.copy()
    by_hand.X = np.log1p(1e4 * counts.X / totals)
    del counts.uns["log1p"]
    found, notes = read(counts)
    np.testing.assert_allclose(found.mean, read(by_hand)[0].mean, rtol=1e-5)
    assert "log1p of counts per 10,000" in notes[0]
    screen.layers["counts"] = counts.X
    np.testing.assert_allclose(read(screen, layer="counts")[0].mean, found.mean)
    assert logged.mean.shape == found.mean.shape


def test_combinations_aliases_and_identifiers_are_resolved(simulated):
    screen = simulated[0].copy()
    first, second = [x for x in screen.obs["gene"].cat.categories if x != CONTROL][:2]
    relabelled(
        screen, "gene", lambda x: f"{first}+{second}" if x == first else f"{second}+{CONTROL}" if x == second else x
    )
    found, _ = read(screen)
    assert found.members[found.labels.index(f"{first}+{second}")] == (first, second)
    assert found.members[found.labels.index(f"{second}+{CONTROL}")] == (second,)
    assert len(found.targets[found.labels.index(f"{first}+{second}")]) == 2


def test_no_control_is_refused_and_likely_labels_are_named(screen):
    with pytest.raises(UnknownNameError, match=r"Unknown control 'non-targetting'.*Did you mean 'non-targeting'"):
        read(screen, control="non-targetting")


def test_a_cell_type_without_controls_is_named(screen):
    bare = screen[~((screen.obs["cell_type"] == "rpe1") & (screen.obs["gene"] == CONTROL))].copy()
    with pytest.raises(BftembedError, match=r"no control cell \('non-targeting'\) in the cell type 'rpe1'"):
        read(bare)


@pytest.mark.parametrize("column", COLUMNS)
def test_cells_without_a_label_are_refused(screen, column):
    screen.obs[column] = screen.obs[column].astype(object)
    screen.obs.iloc[[3, 5], screen.obs.columns.get_loc(column)] = np.nan
    with pytest.raises(BftembedError, match=rf"obs\['{column}'\] has no value for 2 of .* row 3\)"):
        read(screen)


def test_negative_missing_and_unlogged_values_are_refused(screen):
    for value, words in ((-1.0, "1 values are negative"), (np.nan, "1 values are NaN")):
        bad = screen.copy()
        bad.X[4, 2] = value
        with pytest.raises(BftembedError, match=words):
            read(bad)
    screen.X = np.expm1(screen.X)
    with pytest.raises(BftembedError, match="neither counts nor logged"):
        read(screen)


def test_files_with_other_genes_are_refused(screen):
    with pytest.raises(BftembedError, match="has other genes than the first file: it lacks"):
        read(screen, screen[:, :-2].copy())


def test_a_gene_that_occurs_twice_is_refused(screen):
    screen.var_names = [*screen.var_names[:-1], screen.var_names[0]]
    with pytest.raises(BftembedError, match="occurs twice"):
        read(screen)


def test_one_perturbation_is_too_few(screen):
    one = next(x for x in screen.obs["gene"].cat.categories if x != CONTROL)
    with pytest.raises(BftembedError, match="has 1 perturbation beside the control"):
        read(screen[screen.obs["gene"].isin([one, CONTROL])].copy())


def test_perturbations_without_a_vector_are_listed_or_left_out_and_counted(screen, simulated):
    labels = [x for x in screen.obs["gene"].cat.categories if x != CONTROL]
    few = simulated[1].subset([g for g in simulated[1].ids if g not in labels[:2]])
    with pytest.raises(BftembedError, match=rf"'text' lacks '{labels[0]}', '{labels[1]}'.*--allow-missing"):
        bench.perturbation(screen, {"text": few}, seeds=1)
    frame = bench.perturbation(screen, {"text": few}, seeds=1, allow_missing=True)
    assert set(frame["n_missing"]) == {2}
    assert frame["note"].str.contains("2 perturbations left out").all()
    assert frame.loc[frame["metric"] == "mae", "n_used"].max() == 6 * 3


def test_embeddings_of_other_genes_are_refused(screen, simulated):
    others = GeneEmbeddings(["NOTAGENE1", "NOTAGENE2"], np.eye(2))
    with pytest.raises(BftembedError, match="a vector for none of the 8 perturbations"):
        bench.perturbation(screen, {"text": simulated[1], "other": others}, allow_missing=True)


def test_draws_of_another_dimension_are_refused(screen, simulated):
    short = GeneEmbeddings(simulated[1].ids, simulated[1].matrix[:, :7])
    with pytest.raises(BftembedError, match=r"draws of 'text' have '7', '32' dimensions"):
        bench.perturbation(screen, {"text": [simulated[1], short]})


def test_predictions_need_data_embeddings_and_sound_settings(screen, simulated):
    for wrong, words in (
        ({"genes": {}}, "No gene embeddings"),
        ({"data": []}, "No data"),
        ({"split": "unseen-genes"}, "Unknown split"),
        ({"seeds": 0}, "At least one seed"),
        ({"draws": 1}, "at least 2"),
        ({"pert_col": "target"}, "Unknown obs column 'target'"),
    ):
        given = {"data": screen, "genes": {"text": simulated[1]}} | wrong
        with pytest.raises(BftembedError, match=words):
            bench.perturbation(**given)


def test_an_anndata_is_not_changed(simulated):
    screen, genes = simulated
    before = screen.X.copy(), screen.obs.copy()
    bench.perturbation(screen, {"text": genes}, seeds=1)
    np.testing.assert_array_equal(screen.X, before[0])
    assert screen.obs.equals(before[1])
    assert isinstance(screen, anndata.AnnData)

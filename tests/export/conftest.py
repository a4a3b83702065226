"""A simulated screen, exported once; tests break copies of it."""

from __future__ import annotations

import shutil

import pytest

from bftembed.export import export_state
from bftembed.testing import simulate_perturbations

CELL_TYPES = ("k562", "rpe1", "jurkat")


@pytest.fixture(scope="session")
def screen():
    """Simulated: 3 cell types × 8 perturbations, 60 genes, 16-d embeddings."""
    return simulate_perturbations(
        n_perturbations=8, n_genes=60, cells_per_perturbation=6, cell_types=CELL_TYPES, dim=16, seed=3
    )


@pytest.fixture
def write(tmp_path, screen):
    """Write the screen, changed by a function, as NAME.h5ad; returns the path."""

    def call(change=None, name="sim.h5ad", cells=None):
        data = screen[0].copy() if cells is None else screen[0][screen[0].obs["cell_type"].isin(cells)].copy()
        data = (change(data) if change else None) or data
        data.write_h5ad(tmp_path / name)
        return tmp_path / name

    return call


@pytest.fixture(scope="session")
def exported(tmp_path_factory, screen):
    """Two files, one of two cell types; the folder must not be changed."""
    folder = tmp_path_factory.mktemp("exported")
    data, genes = screen
    for name, some in (("a", CELL_TYPES[:2]), ("b", CELL_TYPES[2:])):
        data[data.obs["cell_type"].isin(some)].copy().write_h5ad(folder / f"{name}.h5ad")
    export_state([folder / "a.h5ad", folder / "b.h5ad"], genes, folder / "out", hvg=20)
    return folder / "out"


@pytest.fixture
def good(exported, tmp_path):
    """A copy of the export, with its paths corrected, to break."""
    place = tmp_path / "good"
    shutil.copytree(exported, place)
    for path in (*place.glob("*.toml"), *place.glob("*.sh")):
        path.write_text(path.read_text().replace(str(exported), str(place)))
    return place

"""Small real data sets for the cells room, and its commands in this process."""

from __future__ import annotations

import pytest
from cell_toys import EMBEDDINGS, cells_of, write

from bftembed.cli import run as run_command


@pytest.fixture
def cells():
    return cells_of()


@pytest.fixture
def path(cells, tmp_path):
    """Give the path of the cells as h5ad, alone in its folder."""
    return write(cells, tmp_path)[0]


@pytest.fixture(scope="session")
def genes_file(tmp_path_factory):
    found = tmp_path_factory.mktemp("genes") / "genes.safetensors"
    EMBEDDINGS.save(found)
    return found


@pytest.fixture
def run(capsys):
    """Give a function that runs `bftembed cells …` and returns exit code, standard output and standard error."""

    def call(*words):
        code = run_command(["cells", *map(str, words)])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return call

"""No verb overwrites what it reads, whatever name the file goes by."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

import bftembed
from bftembed.errors import BftembedError
from bftembed.profiles.selection import export_profiles
from bftembed.tasks.base import report


@pytest.fixture
def files(tmp_path, pbmc_path):
    shutil.copy(pbmc_path, tmp_path / "in.h5ad")
    bftembed.generate_profiles(["CD3D", "LYZ"], generator="facts", out=tmp_path / "s")
    export_profiles(tmp_path / "s", tmp_path / "p.parquet")
    bftembed.GeneEmbeddings(["CD3D", "LYZ"], np.eye(2)).save(tmp_path / "g.safetensors")
    cells, scored = tmp_path / "in.h5ad", tmp_path / "r.parquet"
    bftembed.bench.clustering(cells, "X_pca", "bulk_labels", protocol="genept", out=scored)
    scored.rename(tmp_path / "r.html")
    return tmp_path


def test_an_output_that_is_an_input_is_refused_and_the_input_kept(files):
    (files / "link.h5ad").symlink_to(files / "in.h5ad")
    before = {p.name: p.read_bytes() for p in files.iterdir() if p.is_file()}
    for verb in (
        lambda: bftembed.bench.clustering(files / "in.h5ad", "X_pca", "bulk_labels", out=files / "in.h5ad"),
        lambda: bftembed.bench.clustering(files / "in.h5ad", "X_pca", "bulk_labels", out=files / "link.h5ad"),
        lambda: report(files / "r.html", files / "r.html"),
        lambda: bftembed.embed_genes(files / "p.parquet", "tfidf", out=files / "p.parquet"),
        lambda: bftembed.embed_cells(
            files / "in.h5ad", files / "g.safetensors", use_raw=True, out=files / "g.safetensors"
        ),
    ):
        with pytest.raises(BftembedError, match="itself and would be overwritten"):
            verb()
    assert {p.name: p.read_bytes() for p in files.iterdir() if p.is_file()} == before


def test_facts_of_an_antibody_with_several_genes_are_not_taken_for_a_loop(tmp_path):
    made = bftembed.generate_profiles(["CD3", "HLA-A,B,C", "CD45RA"], generator="facts", kind="protein", out=tmp_path)
    assert made.marks["ok"] == made.entities

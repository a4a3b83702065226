"""GenePT-s: which sentence a cell becomes, what is encoded, and what is kept for the next run."""

from __future__ import annotations

import dataclasses
import json

import anndata
import numpy as np
import pytest
from cell_toys import cells_of, counts_of, files_in, with_empty_cells, write
from hypothesis import given, settings
from hypothesis import strategies as st

from bftembed.cells import sentences
from bftembed.cells.sentences import cell_sentences, embed_cells_as_sentences
from bftembed.encoders.base import EncodingReport, encoder_from_spec
from bftembed.errors import BftembedError

SPEC = "random:dim=8"
PREFIX = "A cell with genes ranked by expression: "  # of GenePT


class Counting:
    """The random encoder, noting what it is given; may claim a limit of tokens, one per word."""

    def __init__(self, limit=None):
        self._inner, self.limit, self.seen = encoder_from_spec(SPEC), limit, []
        self.spec = dataclasses.replace(self._inner.spec, max_tokens=limit, long="truncate" if limit else "")
        self.report = EncodingReport(0)

    def encode(self, texts, progress=lambda *_: None):
        self.seen.extend(texts)
        words = np.array([len(text.split()) for text in texts])
        self.report = EncodingReport(len(texts))
        if self.limit:
            over = words > self.limit
            dropped = int((words[over] - self.limit).sum())
            self.report = EncodingReport(len(texts), n_truncated=int(over.sum()), n_tokens_total=int(words.sum()),
                                         n_tokens_dropped=dropped, max_tokens=self.limit)  # fmt: skip
        return self._inner.encode(texts, progress)


def encoded(sentences):
    return encoder_from_spec(SPEC).encode(list(sentences))


def vectors_of(cells, **options):
    return embed_cells_as_sentences(cells.copy(), **{"encoder": SPEC, **options}).obsm["X_sentence"]


# Sentences.


@pytest.mark.parametrize("form", ["csr", "csc", "dense"])
def test_sentences_by_hand(form):
    cells = cells_of(np.float32([[3, 0, 7, 1], [0, 0, 0, 0], [0, 2, 0, 5]]), ["CD3D", "LYZ", "GNLY", "NKG7"], form)
    assert cell_sentences(cells) == [f"{PREFIX}GNLY CD3D NKG7", "", f"{PREFIX}NKG7 LYZ"]
    assert cell_sentences(cells, top_genes=2) == [f"{PREFIX}GNLY CD3D", "", f"{PREFIX}NKG7 LYZ"]
    assert cell_sentences(cells, first=1, top_genes=0) == [f"{PREFIX}GNLY CD3D NKG7"]


def test_names_become_approved_symbols_and_unknown_ones_stay():
    genes = ["ENSG00000167286", "MLL", "LOC1234567", "nan", "LYZ", "RNF53", "BRCA1"]
    cells = cells_of(np.float32([[6, 5, 4, 9, 3, 2, 8]]), genes)
    assert cell_sentences(cells) == [f"{PREFIX}BRCA1 CD3D KMT2A LOC1234567 LYZ"]
    told = embed_cells_as_sentences(cells, encoder=SPEC).uns["bftembed"]["X_sentence"]
    counts = ("n_used", "n_mapped", "n_ambiguous", "n_unresolved", "n_unnamed", "n_duplicates")
    assert [told[name] for name in counts] == [2, 3, 0, 1, 1, 1]
    # BRCA1 is in the sentence, so its second column counts as covered; "nan" is the rest.
    assert cells.obs["X_sentence_coverage"].iloc[0] == pytest.approx(28 / 37)


@settings(max_examples=30)
@given(
    values=st.lists(st.lists(st.integers(0, 3), min_size=5, max_size=5), min_size=1, max_size=6),
    order=st.permutations(range(5)),
    top=st.sampled_from([0, 1, 3]),
    logged=st.booleans(),
)
def test_any_order_of_genes_gives_the_ranking_with_ties_by_symbol(values, order, top, logged):
    genes = ["CD3D", "LYZ", "MS4A1", "RNF53", "BRCA1"]  # the last two are one gene
    shown = np.float32(values)
    if logged:
        shown = np.log1p(1e4 * shown / np.maximum(shown.sum(axis=1, keepdims=True), 1))
    found = cell_sentences(cells_of(shown[:, order], [genes[i] for i in order]), top_genes=top)
    for row, sentence in zip(values, found, strict=True):
        merged = {**dict(zip(genes[:3], row, strict=False)), "BRCA1": max(row[3:])}
        ranked = sorted((gene for gene in merged if merged[gene]), key=lambda gene: (-merged[gene], gene))
        assert sentence == (PREFIX + " ".join(ranked[: top or None]) if ranked else "")


def test_genes_alone_make_sentences():
    cells = cells_of(np.float32([[9, 3, 4]]), ["CD3D", "CD3D", "LYZ"])
    cells.var["feature_types"] = ["Antibody Capture", "Gene Expression", "Gene Expression"]
    assert cell_sentences(cells) == [f"{PREFIX}LYZ CD3D"]


# Vectors.


def test_vectors_are_those_of_the_sentences_in_memory_and_in_blocks_of_a_file(cells, path, tmp_path, monkeypatch):
    expected = encoded(cell_sentences(cells))
    np.testing.assert_array_equal(vectors_of(cells), expected)
    for rows in (7, 512):
        monkeypatch.setattr(sentences, "_BLOCK_ROWS", rows)
        out = tmp_path / "out.h5ad"
        report = embed_cells_as_sentences(path, encoder=SPEC, out=out, top_genes=0)
        written = anndata.read_h5ad(out)
        np.testing.assert_array_equal(written.obsm["X_sentence"], expected)
        np.testing.assert_array_equal(written.X.toarray(), cells.X.toarray())
        assert (report.n_cells, report.n_genes, report.n_used, report.coverage) == (30, 6, 6, 1)
    assert files_in(tmp_path) == ["cells.h5ad", "out.h5ad"]


@pytest.mark.parametrize("place", ["memory", "file"])
def test_empty_cells_are_an_error_or_nan_or_left_out(place, tmp_path):
    cells = with_empty_cells([3])
    data = cells if place == "memory" else write(cells, tmp_path)[0]
    more = {} if place == "memory" else {"out": tmp_path / "out" / "out.h5ad"}
    engine, kept = Counting(), np.delete(np.arange(30), 3)
    with pytest.raises(BftembedError, match=r"1 of 30 cells.*'cell3'"):
        embed_cells_as_sentences(data, encoder=engine, **more)
    assert engine.seen == []
    for policy in ("nan", "drop"):
        made = embed_cells_as_sentences(data, encoder=SPEC, empty_cells=policy, overwrite=True, **more)
        made = made if place == "memory" else anndata.read_h5ad(more["out"])
        vectors = made.obsm["X_sentence"]
        assert list(made.uns["bftembed"]["X_sentence"]["empty_cells"]) == ["cell3"]
        if policy == "nan":
            assert np.isnan(vectors[3]).all()
            vectors = vectors[kept]
        np.testing.assert_array_equal(vectors, encoded(cell_sentences(cells[kept].copy())))


def test_bad_values_are_errors_before_anything_is_encoded():
    engine, counts = Counting(), counts_of()
    for value, word in ((-1, "negative"), (np.nan, "NaN")):
        bad = counts.copy()
        bad[29, 0] = value
        for call in (cell_sentences, lambda data: embed_cells_as_sentences(data, encoder=engine)):
            with pytest.raises(BftembedError, match=word):
                call(cells_of(bad))
    assert engine.seen == []
    # No counts and no logarithms: the order is clear all the same.
    np.testing.assert_array_equal(vectors_of(cells_of(counts / 40)), vectors_of(cells_of(counts)))


def test_options_that_make_no_sense_are_errors(cells, path, tmp_path):
    out = tmp_path / "out.h5ad"
    for data, options, word in (
        (path, {"top_genes": -1}, "top_genes"),
        (path, {"empty_cells": "keep"}, "empty_cells"),
        (path, {"encoder": "tfidf"}, "tfidf|TF-IDF|fitted"),
        (path, {"encoder": "randon"}, "random"),
        (path, {"out": path}, "input"),
        (path, {"cache": out}, "output"),
        (path, {"cache": path}, "input"),
        (cells, {}, "file"),
        (3, {}, "int"),
    ):
        with pytest.raises(BftembedError, match=word):
            embed_cells_as_sentences(data, **{"encoder": SPEC, "out": out, **options})
        assert not out.exists()


def test_sentences_beyond_the_limit_of_the_encoder_are_reported():
    cells = cells_of(counts_of(60))
    genes = (counts_of(60) > 0).sum(axis=1)
    told = embed_cells_as_sentences(cells, encoder=Counting(limit=11)).uns["bftembed"]["X_sentence"]
    of_texts = np.array([len(text.split()) for text in set(cell_sentences(cells))])
    assert told["share_over_limit"] == pytest.approx((of_texts > 11).mean())
    assert told["mean_genes"] == pytest.approx(genes.mean())
    embed_cells_as_sentences(cells, encoder=Counting(limit=13), key="X_all")
    assert cells.uns["bftembed"]["X_all"]["share_over_limit"] == 0


def test_a_killed_run_with_a_cache_encodes_the_rest_alone_and_the_next_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(sentences, "_BLOCK_ROWS", 10)
    cells = cells_of(np.random.default_rng(0).integers(1, 500, (200, 6)).astype(np.float32))
    path, engine = write(cells, tmp_path)[0], Counting()
    files = {"out": tmp_path / "out.h5ad", "cache": tmp_path / "vectors.sqlite"}

    class Interrupted(Counting):
        def encode(self, texts, progress=lambda *_: None):
            if len(self.seen) >= 50:
                raise KeyboardInterrupt
            return super().encode(texts, progress)

    first = Interrupted()
    with pytest.raises(KeyboardInterrupt):
        embed_cells_as_sentences(path, encoder=first, **files)
    assert not files["out"].exists()
    embed_cells_as_sentences(path, encoder=engine, **files)
    texts = set(cell_sentences(cells))
    # The group in flight may have been encoded, but not stored.
    assert len(texts - set(first.seen)) <= len(engine.seen) == len(set(engine.seen)) <= len(texts) - 30
    np.testing.assert_array_equal(anndata.read_h5ad(files["out"]).obsm["X_sentence"], encoded(cell_sentences(cells)))
    engine.seen.clear()
    report = embed_cells_as_sentences(path, encoder=engine, **files)
    assert (engine.seen, report.method["n_encoded"]) == ([], 0)


# The command.


def test_the_command_writes_what_the_library_computes(run, cells, path, tmp_path):
    out = tmp_path / "out.h5ad"
    code, printed, _ = run("sentences", path, "--encoder", SPEC, "--out", out, "--top-genes", 3, "--json")
    assert code == 0
    np.testing.assert_array_equal(anndata.read_h5ad(out).obsm["X_sentence"], vectors_of(cells, top_genes=3))
    report, told = json.loads(printed), anndata.read_h5ad(out).uns["bftembed"]["X_sentence"]
    assert (report["out"], report["n_empty"], report["n_cells"]) == (str(out), 0, 30)
    expected = {"method": "genept-s", "top_genes": 3}
    assert {name: told[name] for name in expected} == expected
    assert json.loads(told["encoder"]) == encoder_from_spec(SPEC).spec.to_dict()
    counts = counts_of()
    assert report["n_cut"] == ((counts > 0).sum(axis=1) > 3).sum()
    assert report["coverage"] == pytest.approx(np.sort(counts)[:, -3:].sum() / counts.sum())


def test_show_prints_sentences_and_encodes_nothing(run, cells, path, tmp_path):
    code, printed, _ = run("sentences", path, "--show", 2)
    assert (code, printed.splitlines()) == (0, cell_sentences(cells)[:2])
    code, printed, _ = run("sentences", path, "--show", 2, "--top-genes", 2, "--json")
    assert json.loads(printed)["sentences"] == cell_sentences(cells, top_genes=2)[:2]
    assert files_in(tmp_path) == ["cells.h5ad"]
    assert run("sentences", path)[0] == 1

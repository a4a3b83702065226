"""GenePT-s: which sentence a cell becomes, what is encoded, what is kept, what is told."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace

import anndata
import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st

from bftembed.cells.sentences import PREFIX, cell_sentences, embed_cells_as_sentences
from bftembed.cli import main
from bftembed.encoders.base import EncodingReport, encoder_from_spec
from bftembed.encoders.cache import VectorCache
from bftembed.errors import BftembedError

SPEC = "random:dim=8"


class Counting:
    """The random encoder, noting what it is given; may claim a limit of tokens, one per word."""

    def __init__(self, limit=None):
        self._inner, self.limit, self.seen = encoder_from_spec(SPEC), limit, []
        self.spec = replace(self._inner.spec, max_tokens=limit, long="truncate" if limit else "")
        self.report = EncodingReport(0)

    def encode(self, texts, progress=lambda *_: None):
        self.seen.extend(texts)
        self.report = EncodingReport(len(texts))
        words = np.array([len(text.split()) for text in texts])
        if self.limit:
            over = words > self.limit
            self.report = EncodingReport(
                len(texts),
                n_truncated=int(over.sum()),
                n_tokens_total=int(words.sum()),
                n_tokens_dropped=int((words[over] - self.limit).sum()),
                max_tokens=self.limit,
            )
        return self._inner.encode(texts, progress)


def data_of(values, genes, form=sp.csr_matrix):
    cells = anndata.AnnData(form(np.asarray(values, dtype=np.float32)))
    cells.var_names = genes
    cells.obs_names = [f"cell{i}" for i in range(cells.n_obs)]
    return cells


def vectors_of(adata, **options):
    options = {"encoder": SPEC, **options}
    return embed_cells_as_sentences(adata.copy(), **options).obsm["X_sentence"]


@pytest.mark.parametrize("form", [sp.csr_matrix, sp.csc_matrix, np.asarray])
def test_sentence_by_hand(form):
    cells = data_of([[3, 0, 7, 1], [0, 0, 0, 0], [0, 2, 0, 5]], ["CD3D", "LYZ", "GNLY", "NKG7"], form)
    expected = ["GNLY CD3D NKG7", "", "NKG7 LYZ"]
    assert cell_sentences(cells) == [PREFIX + s if s else "" for s in expected]
    assert cell_sentences(cells, prefix="", separator=",") == ["GNLY,CD3D,NKG7", "", "NKG7,LYZ"]
    assert cell_sentences(cells, prefix="", top_genes=2) == ["GNLY CD3D", "", "NKG7 LYZ"]
    assert cell_sentences(cells, prefix="", first=1) == ["GNLY CD3D NKG7"]
    assert cell_sentences(cells, prefix="", first=99, top_genes=None) == expected
    assert PREFIX == "A cell with genes ranked by expression: "


def test_equal_values_stand_by_symbol():
    cells = data_of([[1, 1, 2, 1]], ["NKG7", "CD3D", "LYZ", "GNLY"])
    assert cell_sentences(cells, prefix="") == ["LYZ CD3D GNLY NKG7"]


def test_names_become_approved_symbols_and_unknown_ones_stay():
    genes = ["ENSG00000167286", "MLL", "LOC1234567", "nan", "LYZ", "RNF53", "BRCA1"]
    cells = data_of([[6, 5, 4, 9, 3, 2, 8]], genes)
    assert cell_sentences(cells, prefix="") == ["BRCA1 CD3D KMT2A LOC1234567 LYZ"]
    told = embed_cells_as_sentences(cells, encoder=SPEC).uns["bftembed"]["X_sentence"]
    counts = {name: told[name] for name in ("n_used", "n_mapped", "n_ambiguous", "n_unresolved", "n_unnamed")}
    assert counts == {"n_used": 2, "n_mapped": 3, "n_ambiguous": 0, "n_unresolved": 1, "n_unnamed": 1}
    assert told["n_duplicates"] == 1
    # BRCA1 is in the sentence, so its second column counts as covered; "nan" is the rest.
    assert cells.obs["X_sentence_coverage"].iloc[0] == pytest.approx(28 / 37)


def test_a_gene_of_two_columns_is_named_once_and_the_limit_counts_genes():
    cells = data_of([[5, 1, 4, 3], [1, 5, 0, 3]], ["BRCA1", "RNF53", "LYZ", "CD3D"])
    assert cell_sentences(cells, prefix="", top_genes=2) == ["BRCA1 LYZ", "BRCA1 CD3D"]


@given(
    values=st.lists(st.lists(st.integers(0, 3), min_size=5, max_size=5), min_size=1, max_size=6),
    order=st.permutations(range(5)),
    top=st.sampled_from([None, 1, 3]),
)
def test_order_of_genes_in_the_data_does_not_matter(values, order, top):
    genes = ["CD3D", "LYZ", "MS4A1", "RNF53", "BRCA1"]
    cells = data_of(values, genes)
    options = {"top_genes": top, "prefix": ""}
    found = cell_sentences(cells, **options)
    assert cell_sentences(cells[:, list(order)].copy(), **options) == found
    for row, sentence in zip(values, found, strict=True):
        merged = {**dict(zip(genes[:3], row, strict=False)), "BRCA1": max(row[3:])}
        slow = sorted((g for g in merged if merged[g]), key=lambda g: (-merged[g], g))
        assert sentence == " ".join(slow[:top])


def test_normalised_values_give_the_same_sentences(make_cells):
    counts = make_cells(200)
    logged = counts.copy()
    values = counts.X.toarray().astype(np.float64)
    logged.X = sp.csr_matrix(np.log1p(1e4 * values / values.sum(axis=1, keepdims=True)))
    assert cell_sentences(counts) == cell_sentences(logged)


def test_unsorted_and_repeated_entries_mean_their_sum():
    matrix = sp.csr_matrix((np.float32([2, 3, 2, 0]), [1, 0, 1, 2], [0, 4]), shape=(1, 3))
    cells = anndata.AnnData(matrix)
    cells.var_names = ["CD3D", "LYZ", "GNLY"]
    assert cell_sentences(cells, prefix="") == ["LYZ CD3D"]


def test_vectors_are_those_of_the_sentences_and_follow_the_cells(cells, make_cells):
    vectors = vectors_of(cells)
    assert vectors.dtype == np.float32
    np.testing.assert_array_equal(vectors, encoder_from_spec(SPEC).encode(cell_sentences(cells)))
    order = np.random.default_rng(1).permutation(30)
    np.testing.assert_array_equal(vectors_of(cells[order].copy()), vectors[order])


def test_blocks_of_a_file_equal_the_whole_in_memory(cells, cells_file, tmp_path):
    whole, n = vectors_of(cells), []
    for batch in (1, 7, 512):
        out = tmp_path / f"{batch}.h5ad"
        report = embed_cells_as_sentences(cells_file, encoder=SPEC, out=out, batch_cells=batch, cache=False)
        back = anndata.read_h5ad(out)
        np.testing.assert_array_equal(back.obsm["X_sentence"], whole)
        n.append({k: v for k, v in report.as_dict().items() if k not in ("out", "n_encoded", "encoding")})
    assert n[0] == n[1] == n[2]
    np.testing.assert_array_equal(back.X.toarray(), cells.X.toarray())
    assert not list(tmp_path.glob("*.sqlite*"))


def test_provenance_says_what_was_done(cells, cells_file, tmp_path):
    out = tmp_path / "out.h5ad"
    report = embed_cells_as_sentences(cells_file, encoder=SPEC, out=out, top_genes=4)
    told = anndata.read_h5ad(out).uns["bftembed"]["X_sentence"]
    assert (told["method"], told["normalize"], told["top_genes"], told["prefix"]) == (
        "genept-s",
        "log1p-cp10k",
        4,
        PREFIX,
    )
    assert json.loads(told["encoder"]) == encoder_from_spec(SPEC).spec.to_dict()
    assert "whole numbers" in told["reason"]
    assert (report.n_genes, report.n_used, report.share_over_limit) == (6, 6, 0)
    values = cells.X.toarray()
    assert report.n_cut == ((values > 0).sum(axis=1) > 4).sum()
    assert report.coverage == pytest.approx(np.sort(values)[:, -4:].sum() / values.sum())
    again = embed_cells_as_sentences(cells.copy(), encoder=SPEC, top_genes=4).uns["bftembed"]["X_sentence"]
    assert {k: v for k, v in again.items() if k != "empty_cells"} == {
        k: v for k, v in told.items() if k != "empty_cells"
    }


def test_empty_cells_by_policy(cells, tmp_path):
    values = cells.X.toarray()
    values[[2, 9]] = 0
    cells.X = sp.csr_matrix(values)
    source, out = tmp_path / "in.h5ad", tmp_path / "out.h5ad"
    cells.write_h5ad(source)
    engine = Counting()
    with pytest.raises(BftembedError, match=r"2 of 30 cells express no gene.*'cell2', 'cell9'.*--empty-cells"):
        embed_cells_as_sentences(source, encoder=engine, out=out)
    assert engine.seen == []
    assert [p.name for p in tmp_path.iterdir()] == ["in.h5ad"]
    filled = np.setdiff1d(np.arange(30), [2, 9])
    for data in (cells.copy(), source):
        for policy in ("nan", "drop"):
            made = embed_cells_as_sentences(
                data, encoder=SPEC, out=out if data is source else None, empty_cells=policy, overwrite=True
            )
            made = anndata.read_h5ad(out) if data is source else made
            vectors = made.obsm["X_sentence"]
            assert list(made.uns["bftembed"]["X_sentence"]["empty_cells"]) == ["cell2", "cell9"]
            if policy == "nan":
                assert np.isnan(vectors[[2, 9]]).all()
                vectors = vectors[filled]
            np.testing.assert_array_equal(vectors, encoder_from_spec(SPEC).encode(cell_sentences(cells[filled].copy())))
            assert np.isfinite(made.obs["X_sentence_coverage"]).sum() == 28


def test_bad_values_and_doubtful_ones_are_refused_before_anything_is_encoded(cells):
    engine = Counting()
    for value, message in ((-1, "negative"), (np.nan, "NaN")):
        bad = cells.copy()
        values = bad.X.toarray()
        values[29, 0] = value
        bad.X = sp.csr_matrix(values)
        if message:
            for call in (
                lambda bad=bad: embed_cells_as_sentences(bad, encoder=engine),
                lambda b=bad: cell_sentences(b),
            ):
                with pytest.raises(BftembedError, match=message):
                    call()
    shares = cells.copy()
    shares.X = sp.csr_matrix(cells.X.toarray() / 40)
    with pytest.raises(BftembedError, match="--normalize"):
        embed_cells_as_sentences(shares, encoder=engine)
    assert engine.seen == []
    assert vectors_of(shares, normalize="none").shape == (30, 8)


def test_wrong_options_are_refused(cells, cells_file, tmp_path):
    out = tmp_path / "out.h5ad"
    for data, options, message in (
        (cells_file, {"top_genes": -1}, "top_genes"),
        (cells_file, {"batch_cells": 0}, "batch_cells"),
        (cells_file, {"empty_cells": "keep"}, "empty_cells"),
        (cells_file, {"normalize": "log"}, "normalize"),
        (cells_file, {"encoder": "tfidf"}, "fitted on the texts"),
        (cells_file, {"encoder": "randon"}, "random"),
        (cells_file, {"out": cells_file}, "input file"),
        (cells_file, {"cache": out}, "the output itself"),
        (cells_file, {"cache": cells_file}, "is the input"),
        (cells_file, {"cache": tmp_path}, "is a folder"),
        (cells, {}, "out is for files"),
        (3, {}, "data is a int"),
    ):
        with pytest.raises(BftembedError, match=message):
            embed_cells_as_sentences(data, **{"encoder": SPEC, "out": out, **options})
        assert not out.exists()
    with pytest.raises(BftembedError, match="first"):
        cell_sentences(cells, first=0)
    with pytest.raises(BftembedError, match="already"):
        embed_cells_as_sentences(embed_cells_as_sentences(cells, encoder=SPEC), encoder=SPEC)


def test_over_long_sentences_are_reported(make_cells):
    cells = make_cells(60)
    lengths = (cells.X.toarray() > 0).sum(axis=1) + 7  # with the words of the prefix
    told = embed_cells_as_sentences(cells, encoder=Counting(limit=11), batch_cells=10).uns["bftembed"]["X_sentence"]
    distinct = {s: len(s.split()) for s in cell_sentences(cells)}
    encoding = json.loads(told["encoding"])
    assert encoding["n_texts"] >= len(distinct)
    assert 0 < told["share_over_limit"] == encoding["n_over_limit"] / encoding["n_texts"] < 1
    assert told["mean_symbols"] == pytest.approx((lengths - 7).mean())
    assert 0 < told["mean_symbols_within_limit"] < told["mean_symbols"]
    short = embed_cells_as_sentences(make_cells(60), encoder=Counting(limit=13)).uns["bftembed"]["X_sentence"]
    assert (short["share_over_limit"], short["mean_symbols_within_limit"]) == (0, short["mean_symbols"])


def test_a_second_run_encodes_nothing_and_tells_the_same(make_cells, tmp_path):
    source, out = tmp_path / "in.h5ad", tmp_path / "out.h5ad"
    make_cells(100).write_h5ad(source)
    engine = Counting(limit=11)
    first = embed_cells_as_sentences(source, encoder=engine, out=out, batch_cells=30)
    assert first.cache == tmp_path / "out.h5ad.sentences.sqlite"
    assert first.cache.exists()
    assert len(engine.seen) == len(set(engine.seen)) == first.n_encoded
    before = anndata.read_h5ad(out)
    engine.seen.clear()
    second = embed_cells_as_sentences(source, encoder=engine, out=out, batch_cells=45)
    assert (engine.seen, second.n_encoded) == ([], 0)
    assert second.encoding == first.encoding
    assert second.mean_symbols_within_limit == first.mean_symbols_within_limit
    after = anndata.read_h5ad(out)
    np.testing.assert_array_equal(after.obsm["X_sentence"], before.obsm["X_sentence"])
    # An AnnData has no cache unless it is given one.
    memory = make_cells(100)
    embed_cells_as_sentences(memory, encoder=engine, cache=first.cache)
    assert engine.seen == []
    np.testing.assert_array_equal(memory.obsm["X_sentence"], before.obsm["X_sentence"])
    assert vectors_of(make_cells(100), encoder=engine).shape == (100, 8)
    assert engine.seen


SLOW = """
import sys, time
from bftembed.cells.sentences import embed_cells_as_sentences
from bftembed.encoders.base import encoder_from_spec

class Slow:
    def __init__(self):
        self.inner = encoder_from_spec("random:dim=8")
        self.spec = self.inner.spec

    def encode(self, texts, progress):
        made = self.inner.encode(texts, progress)
        self.report = self.inner.report
        with open(sys.argv[3], "a") as log:
            log.write(f"{len(texts)}\\n")
        time.sleep(0.02)
        return made

embed_cells_as_sentences(sys.argv[1], encoder=Slow(), out=sys.argv[2], batch_cells=10, top_genes=5)
"""


@pytest.mark.parametrize("blocks", [1, 5, 12])
def test_a_killed_run_resumes_and_encodes_no_stored_sentence_again(blocks, tmp_path):
    source, out, log = (tmp_path / name for name in ("in.h5ad", "out.h5ad", "log"))
    rng, genes = np.random.default_rng(0), ["CD3D", "LYZ", "MS4A1", "GNLY", "NKG7", "CD8A", "CD4", "FCGR3A"]
    cells = data_of(rng.random((200, 8)) + 0.1, genes)
    cells.write_h5ad(source)
    command = [sys.executable, "-c", textwrap.dedent(SLOW), str(source), str(out), str(log)]
    running = subprocess.Popen(command)
    while not log.exists() or log.read_text().count("\n") < blocks:
        assert running.poll() is None, "it ended before it was killed"
        time.sleep(0.005)
    running.send_signal(signal.SIGKILL)
    running.wait()
    assert not out.exists()
    with VectorCache(tmp_path / "out.h5ad.sentences.sqlite") as cache:
        stored = len(cache)
    # All but the group in flight.
    logged = [int(n) for n in log.read_text().split()]
    assert sum(logged[:-1]) <= stored <= sum(logged)
    engine = Counting()
    report = embed_cells_as_sentences(source, encoder=engine, out=out, batch_cells=10, top_genes=5)
    sentences = cell_sentences(cells, top_genes=5)
    assert len(engine.seen) == len(set(sentences)) - stored
    assert report.encoding["n_texts"] == len(set(sentences))
    np.testing.assert_array_equal(anndata.read_h5ad(out).obsm["X_sentence"], encoder_from_spec(SPEC).encode(sentences))


@pytest.fixture
def run(monkeypatch, capsys):
    """Give a function that runs the command and returns exit code, standard output and standard error."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["bftembed", "cells", "sentences", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_:
            main()
        captured = capsys.readouterr()
        return exit_.value.code, captured.out, captured.err

    return call


def test_command_writes_what_the_library_computes(run, cells, cells_file, tmp_path):
    out = tmp_path / "out.h5ad"
    code, said, _ = run(cells_file, "--encoder", SPEC, "--out", out, "--top-genes", 3, "--json")
    assert code == 0
    np.testing.assert_array_equal(anndata.read_h5ad(out).obsm["X_sentence"], vectors_of(cells, top_genes=3))
    told = json.loads(said)
    assert (told["cache"], told["n_empty"], told["top_genes"]) == (f"{out}.sentences.sqlite", 0, 3)
    assert run(cells_file, "--encoder", SPEC, "--out", out)[0] == 0


def test_show_prints_sentences_and_encodes_nothing(run, cells, cells_file, tmp_path):
    code, said, _ = run(cells_file, "--show", 2)
    assert (code, said.splitlines()) == (0, cell_sentences(cells)[:2])
    code, said, _ = run(cells_file, "--show", 2, "--top-genes", 0, "--json")
    assert json.loads(said)["sentences"] == cell_sentences(cells, top_genes=None)[:2]
    assert [p.name for p in tmp_path.iterdir()] == ["cells.h5ad"]
    assert run(cells_file)[0] == 1


@pytest.mark.model
def test_packaged_encoder_on_real_cells(pbmc_path, tmp_path):
    pytest.importorskip("sentence_transformers")
    cells = anndata.read_h5ad(pbmc_path)[:40].copy()
    source, out = tmp_path / "cells.h5ad", tmp_path / "out.h5ad"
    cells.write_h5ad(source)
    spec = "builtin:all-minilm-l6-v2"
    report = embed_cells_as_sentences(source, encoder=spec, out=out, use_raw=True, top_genes=150)
    vectors = anndata.read_h5ad(out).obsm["X_sentence"]
    assert vectors.shape == (40, 384)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert (report.share_over_limit, report.n_encoded, report.long) == (1, 40, "chunk")
    # Against the tokenizer's own count of what fits; 7 words are the prefix.
    engine = encoder_from_spec(spec)
    tokenizer, fitting = engine._model.tokenizer, []
    for sentence in cell_sentences(cells, use_raw=True, top_genes=150):
        limit = {"truncation": True, "max_length": engine.spec.max_tokens}
        end = max(last for _, last in tokenizer(sentence, return_offsets_mapping=True, **limit)["offset_mapping"])
        fitting.append(len(sentence[:end].split()) - 7)
    assert report.mean_symbols_within_limit < report.mean_symbols
    assert report.mean_symbols_within_limit == pytest.approx(np.mean(fitting), rel=0.05)
    again = embed_cells_as_sentences(source, encoder=engine, out=out, use_raw=True, top_genes=150)
    assert (again.n_encoded, again.n_reused, again.encoding) == (0, 40, report.encoding)

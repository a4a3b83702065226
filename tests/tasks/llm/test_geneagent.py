"""GeneAgent's cascade on known answers, its offline tools against SciPy, and ROUGE against known values."""

from __future__ import annotations

import csv
import gzip
import json
import time
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import false_discovery_control, hypergeom

from bftembed.errors import BftembedError
from bftembed.llm.store import AnswerStore
from bftembed.tasks.llm.base import load_evaluation
from bftembed.tasks.llm.gene_tools import LIBRARIES, GeneTools
from bftembed.tasks.llm.run import evaluate, score_evaluation


def sets_of(path):
    with gzip.open(path, "rt") as handle:
        lines = [line.rstrip("\n").split("\t") for line in handle]
    return [(name, {gene for gene in genes if gene}) for name, _, *genes in lines]


def test_enrichment_is_scipys_hypergeometric_test(shared_data):
    data = shared_data("gene_sets").parent
    genes = {"PEX1", "PEX2", "PEX3", "PEX5", "PEX6", "TP53"}
    found = GeneTools(data).enriched(sorted(genes), libraries=["WikiPathways", "Reactome"])
    sets = [(name, of, genes) for name in ("WikiPathways", "Reactome") for of, genes in sets_of(data / LIBRARIES[name])]
    everything = set().union(*(held for _, _, held in sets))
    drawn = genes & everything
    p = [hypergeom.sf(len(held & drawn) - 1, len(everything), len(held), len(drawn)) for _, _, held in sets]
    expected = {
        (library, name, len(held), len(held & drawn)): (one, fdr)
        for (library, name, held), one, fdr in zip(sets, p, false_discovery_control(p), strict=True)
    }
    assert "Peroxisom" in " ".join(t.name for t in found[:5])
    for term in found[:50]:
        key = (term.library, term.name, term.size, term.overlap)
        assert (term.p, term.fdr) == pytest.approx(expected[key], rel=1e-9)


def test_enrichment_is_gseapys(shared_data):
    """Recorded by tests/manual/gseapy_enrichment.py."""
    recorded = json.loads((Path(__file__).parent / "gseapy_enrichment.json").read_text())
    tools = GeneTools(shared_data("gene_sets").parent)
    found = sorted(
        (t.name, f"{t.overlap}/{t.size}", t.p) for t in tools.enriched(recorded["genes"], libraries=["WikiPathways"])
    )
    assert found == [(name, overlap, pytest.approx(p, rel=1e-9)) for name, overlap, p in recorded["terms"]]


def test_the_terms_own_genes_are_never_shown(shared_data):
    data = shared_data("gene_sets").parent
    name, genes = next((n, g) for n, g in sets_of(data / LIBRARIES["GO biological process"]) if 20 < len(g) < 40)
    assert name in [t.name for t in GeneTools(data).enriched(sorted(genes))[:3]]
    shown = GeneTools(data).enriched(sorted(genes), sorted(genes))
    assert name not in [t.name for t in shown]
    without = GeneTools(data, ("GO biological process",)).enriched(sorted(genes))
    assert not [t for t in without if t.library == "GO biological process"]


def test_tools_answer_and_are_fast(shared_data):
    tools = GeneTools(shared_data("gene_sets").parent)
    genes = ["BRCA1", "BARD1", "RAD51", "PALB2"]
    told = {name: tools.call(name, genes, genes) for name in tools.TOOLS}
    assert "FDR" in told["enrichment"]
    assert "BRCA1 with PALB2" in told["interactions"] or "none was measured" in told["interactions"]
    assert told["summary"].startswith("BRCA1: ")
    started = time.process_time()
    for _ in range(20):
        tools.call("enrichment", genes, genes)
    print(f"{(time.process_time() - started) / 20 * 1000:.0f} ms of CPU per call")


@pytest.fixture
def data(tmp_path, shared_data):
    """Two sets of MSigDB, with the shared libraries."""
    home = tmp_path / "data"
    home.mkdir()
    for name in ("gene_sets", "pairs", "gene_text"):
        (home / name).symlink_to(shared_data(name))
    source = shared_data("geneagent")
    (home / "geneagent").mkdir()
    with (source / "MsigDB.csv").open(newline="") as handle:
        rows = list(csv.reader(handle))[:3]
    with (home / "geneagent" / "MsigDB.csv").open("w", newline="") as handle:
        csv.writer(handle).writerows(rows)
    for k in (1, 3, 5):
        terms = json.loads((source / f"MsigDB.EnrichTerms.top{k}.json").read_text())[:2]
        (home / "geneagent" / f"MsigDB.EnrichTerms.top{k}.json").write_text(json.dumps(terms))
    return home


def process(name):
    return json.dumps({"process": name, "reason": "They all do."})


def test_the_cascade_plays_in_rounds_and_is_scored_from_the_store(data, known, tmp_path):
    """The name of the first set is revised after a tool was used; the second answers no JSON."""
    first, second = (q.id for q in load_evaluation("geneagent").questions(data))
    answers = {
        first: process("Progeria"),
        f"{first}|0": json.dumps({"action": "summary", "genes": ["LMNA", "TP53"]}),
        f"{first}|1": json.dumps({"action": "report", "verdict": "supported", "report": "yes"}),
        second: "Process: Peroxisome (organelle)\nAll are peroxins.",
        f"{second}|0": "I cannot.",
    }
    claims = json.dumps({"claims": ["LMNA ages cells", "WRN is a helicase"]})
    spec = known({**answers, "*": ""})
    # a set is asked for its name, its claims and a revision under one id: the known model answers by turns
    path = tmp_path / "known.json"
    path.write_text(json.dumps({**answers, "turns": {first: [answers[first], claims, process("Progeria syndrome")]}}))
    out = tmp_path / "out"
    table = evaluate(["geneagent"], model=[f"m={spec}"], out=out, data=data)

    def value(subject, metric):
        rows = table[(table.subject == subject) & (table.metric == metric) & (table.split == "all")]
        return rows.iloc[0].value

    # "Progeria syndrome" against "Progeria": precision 1/2, recall 1; "Peroxisome" is right
    assert value("m", "rouge1") == pytest.approx((2 / 3 + 1) / 2)
    assert value("another set's name", "rouge1") == 0
    assert value("regulation of cellular process", "rougeL") == 0
    assert 0 <= value("most enriched term", "rouge1") <= 1
    assert (out / "tools-geneagent.json").exists()
    with AnswerStore.open(out) as store:
        asked = [a.entity for a in store.answers(kind="geneagent")]
    assert asked.count(f"{first}|0") > asked.count(f"{first}|1")  # tools until the last turn, twice
    told = json.dumps(json.loads((out / "tools-geneagent.json").read_text()))
    assert "LMNA: " in told
    assert "TP53" not in told  # not a gene of the set
    again = score_evaluation(out)
    assert again.equals(table)


def test_a_larger_limit_goes_on_from_a_smaller_one(data, known, tmp_path):
    options = {"model": [f"m={known({'*': process('Peroxisome')})}"], "out": tmp_path / "out", "data": data}
    evaluate(["geneagent-no-tools"], limit=1, **options)
    table = evaluate(["geneagent-no-tools"], limit=2, **options)
    assert table.loc[table["subject"] == "m", "n"].max() == 2
    assert len((tmp_path / "known.log").read_text().split()) == 2


def test_one_call_without_tools(data, known, tmp_path):
    table = evaluate(
        ["geneagent-no-tools"], model=[f"m={known({'*': process('Peroxisome')})}"], out=tmp_path / "o", data=data
    )
    rows = table[(table.subject == "m") & (table.split == "all")].drop_duplicates("metric").set_index("metric")["value"]
    assert rows["rougeL"] == pytest.approx(0.5)
    assert rows["requests"] == 1
    assert rows["parse_failures"] == 0


@pytest.mark.model
def test_similarity_percentiles_by_an_encoder(data, known, tmp_path, monkeypatch):
    """The rank of the reference among 200 terms, by hand; scoring again takes neither encoder nor data."""
    from bftembed.encoders.base import encoder_from_spec
    from bftembed.tasks.llm.gene_tools import gene_set_terms

    shared, out = (data / "gene_sets").resolve(), tmp_path / "out"
    (data / "gene_sets").unlink()
    (data / "gene_sets").mkdir()
    for file in shared.iterdir():
        (data / "gene_sets" / file.name).symlink_to(file)
    (data / LIBRARIES["GO biological process"]).unlink()
    with gzip.open(shared / "go_bp.gmt.gz", "rt") as handle:
        lines = handle.readlines()
    with gzip.open(data / LIBRARIES["GO biological process"], "wt") as handle:
        handle.writelines(lines[::50])
    told = known({"*": process("peroxisome biogenesis")})
    options = {"out": out, "data": data, "encoder": "builtin:all-minilm-l6-v2"}
    table = evaluate(["geneagent-no-tools"], model=[f"m={told}"], **options)
    encoder = encoder_from_spec("builtin:all-minilm-l6-v2")
    terms = gene_set_terms(data, "GO biological process")
    references = [q.answer for q in load_evaluation("geneagent-no-tools").questions(data)]
    encoded = encoder.encode(["peroxisome biogenesis", *references, *terms])
    cosine = encoded[1:] @ encoded[0] / np.linalg.norm(encoded[1:], axis=1) / np.linalg.norm(encoded[0])
    by_hand = np.mean([1 - np.mean(cosine[2:] > cosine[i] + 1e-6) for i in range(2)])
    rows = table[(table.metric == "similarity") & (table.split == "all")].drop_duplicates("subject")
    assert rows.set_index("subject").value["m"] == pytest.approx(by_hand, abs=2e-4)
    assert rows.note.str.contains("builtin:all-minilm-l6-v2").all()
    assert set(rows.kind) == {"subject", "baseline"}
    monkeypatch.delenv("BFTEMBED_DATA", raising=False)
    (data / LIBRARIES["GO biological process"]).unlink()
    assert score_evaluation(out).equals(table)


def test_rouge_of_constants_on_real_sets(shared_data):
    """The constant and the neighbor's name, as another program measured them."""
    evaluation = load_evaluation("geneagent-go")
    questions = evaluation.questions(shared_data("geneagent").parent)[:200]
    from dataclasses import replace

    told = [replace(q, data={"baselines": {"constant": "regulation of cellular process"}}) for q in questions]
    scores = evaluation.baselines(told)["baseline", "constant"].values()
    means = [np.mean([s[key] for s in scores]) for key in ("rouge1", "rouge2", "rougeL")]
    assert means == pytest.approx([0.214, 0.103, 0.214], abs=2e-3)


def test_damaged_files_are_errors(data, tmp_path):
    (data / "geneagent" / "MsigDB.EnrichTerms.top3.json").write_text("{")
    with pytest.raises(BftembedError, match="top3"):
        load_evaluation("geneagent").questions(data)
    (data / "geneagent" / "MsigDB.csv").write_text("a,b\n1,2\n")
    with pytest.raises(BftembedError):
        load_evaluation("geneagent").questions(data)

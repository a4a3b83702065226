"""Online tools against services on loopback that answer in the shapes of g:Profiler, Enrichr and NCBI."""

from __future__ import annotations

import json

import pytest

from bftembed.errors import BftembedError
from bftembed.tasks.llm import online_tools
from bftembed.tasks.llm.online_tools import OnlineTools
from bftembed.tasks.llm.run import evaluate

GENES = ["LMNA", "WRN", "ZMPSTE24", "BANF1"]


def term(name, native, overlap, size, p, source="GO:BP"):
    return {
        "name": name, "native": native, "source": source, "p_value": p, "significant": True,
        "intersection_size": overlap, "term_size": size, "query_size": 4,
    }  # fmt: skip


@pytest.fixture
def services(httpserver, monkeypatch):
    for name in online_tools.URLS:
        monkeypatch.setitem(online_tools.URLS, name, httpserver.url_for(f"/{name.replace(':', '')}"))
    monkeypatch.setattr(online_tools, "_NCBI_PAUSE", 0)
    online_tools._gost.cache_clear()
    online_tools._enrichr_terms.cache_clear()
    return httpserver


def test_enrichment_hides_the_sets_own_term_for_a_part_of_the_genes_too(services):
    def answer(request):
        n = len(request.json["query"])
        own = term("progeria", "X:1", n, 5, 1e-9)  # 4 of 5 for the whole set: Jaccard .8; 2 of 5 for two genes
        return json_response({"result": [own, term("nuclear envelope", "X:2", n, 90, 1e-4, "GO:CC")]})

    services.expect_request("/gProfiler", method="POST").respond_with_handler(answer)
    tools = OnlineTools(None)
    for genes in (GENES, GENES[:2]):
        told = tools.call("enrichment", genes, GENES)
        assert told == f"nuclear envelope (GO:CC): {len(genes)} of 90 genes, p 1.0e-04"
    assert tools.call("functions", GENES, GENES) == "No term is enriched (adjusted p < 0.05)."
    assert len(services.log) == 2  # nothing is asked twice


def test_pathways_of_enrichr(services):
    services.expect_request("/Enrichr/addList", method="POST").respond_with_json({"userListId": 7, "shortId": "a"})

    def enrich(request):
        assert request.args["userListId"] == "7"
        library = request.args["backgroundType"]
        rows = [
            [1, f"aging of {library}", 1e-5, -2, 20, ["LMNA"], 1e-3, 0, 0],
            [2, "own", 1e-9, -2, 2, GENES, 1e-8, 0, 0],
        ]
        return json_response({library: [*rows, [3, "weak", 0.1, -2, 2, ["WRN"], 0.2, 0, 0]]})

    services.expect_request("/Enrichr/enrich").respond_with_handler(enrich)
    told = OnlineTools(None).call("pathways", GENES, GENES).splitlines()
    assert "aging of BioPlanet_2019 (BioPlanet_2019): 1 genes, adjusted p 1.0e-03" in told
    assert {line.split(" (")[0] for line in told} == {f"aging of {name}" for name in online_tools.ENRICHR}


def test_ncbi(services):
    def search(request):
        return json_response({"esearchresult": {"idlist": [] if "NOGENE" in request.args["term"] else ["11", "12"]}})

    services.expect_request("/NCBI/esearch.fcgi").respond_with_handler(search)
    services.expect_request("/NCBI/esummary.fcgi").respond_with_json({"result": {"11": {"summary": "A lamin."}}})
    services.expect_request("/NCBI/efetch.fcgi").respond_with_data("1. J Cell. Lamins.")
    tools = OnlineTools(None)
    assert tools.call("summary", ["LMNA"], GENES) == "LMNA: A lamin."
    assert tools.call("summary", ["NOGENE"], GENES) == "NOGENE: no summary"
    assert tools.call("literature", ["LMNA"], GENES) == "1. J Cell. Lamins."
    assert "No abstract" in tools.call("literature", ["NOGENE"], GENES)


def test_a_service_that_fails_stops_the_run_and_the_same_command_goes_on(services, known, tmp_path, shared_data):
    """Four failures are an error; what was answered before it is not asked again."""
    data = tmp_path / "data"
    data.mkdir()
    for name in ("gene_sets", "pairs", "gene_text", "geneagent"):
        (data / name).symlink_to(shared_data(name))
    from bftembed.tasks.llm.base import chosen, load_evaluation

    (question,) = chosen(load_evaluation("geneagent-online").questions(data), 1, 0)
    gene = question.data["genes"][0]
    process = json.dumps({"process": "aging", "reason": "all"})
    report = json.dumps({"action": "report", "verdict": "supported", "report": "yes"})
    turns = {
        question.id: [process, json.dumps({"claims": ["one"]}), process, json.dumps({"claims": []})],
        f"{question.id}|0": [json.dumps({"action": "summary", "genes": [gene]}), report],
    }
    spec = known({"turns": turns})
    options = {"model": [f"m={spec}"], "out": tmp_path / "out", "data": data, "limit": 1}
    services.expect_request("/NCBI/esearch.fcgi").respond_with_data("busy", status=503)
    with pytest.raises(BftembedError, match="NCBI gives no answer"):
        evaluate(["geneagent-online"], **options)
    before = (tmp_path / "known.log").read_text().split()
    assert before == [question.id, question.id, f"{question.id}|0"]
    services.clear()
    services.expect_request("/NCBI/esearch.fcgi").respond_with_json({"esearchresult": {"idlist": ["3"]}})
    services.expect_request("/NCBI/esummary.fcgi").respond_with_json({"result": {"3": {"summary": "Something."}}})
    turns[question.id], turns[f"{question.id}|0"] = turns[question.id][2:], turns[f"{question.id}|0"][1:]
    known({"turns": turns})
    table = evaluate(["geneagent-online"], **options)
    row = table[(table.subject == "m") & (table.metric == "supported")].iloc[0]
    assert row.value == 1
    asked = (tmp_path / "known.log").read_text().split()
    assert asked[:3] == before
    assert len(asked) == 6


def json_response(values):
    from werkzeug import Response

    return Response(json.dumps(values), content_type="application/json")

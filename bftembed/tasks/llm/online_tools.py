"""Facts about sets of genes from public services: g:Profiler, Enrichr, and NCBI's gene summaries and PubMed.

Interactions are those of `GeneTools`. A service that cannot be reached is an error, not an answer: what was asked so
far is stored, and the same command goes on.
"""

from __future__ import annotations

import functools
import time
from typing import TYPE_CHECKING, Any

from bftembed.errors import BftembedError
from bftembed.tasks.llm.gene_tools import LEAK_JACCARD, GeneTools

if TYPE_CHECKING:
    from collections.abc import Sequence

URLS = {
    "g:Profiler": "https://biit.cs.ut.ee/gprofiler/api/gost/profile/",
    "Enrichr": "https://maayanlab.cloud/Enrichr",
    "NCBI": "https://eutils.ncbi.nlm.nih.gov/entrez/eutils",
}
#: Libraries of Enrichr, those of the original.
ENRICHR = ("KEGG_2021_Human", "Reactome_2022", "BioPlanet_2019", "MSigDB_Hallmark_2020")
#: Terms in an answer, and abstracts of PubMed.
_N_TERMS, _N_ABSTRACTS = 5, 5
_TIMEOUT = 60  # seconds
#: NCBI allows three requests a second without a key.
_NCBI_PAUSE = 0.34


class OnlineTools(GeneTools):
    """Tools over public services. Terms that may be the set's own (`LEAK_JACCARD`) are never shown."""

    TOOLS = {  # noqa: RUF012
        "enrichment": "terms of GO, KEGG, Reactome and WikiPathways in which the genes are enriched (g:Profiler)",
        "pathways": "pathways in which the genes are enriched (Enrichr)",
        "complexes": "complexes and cellular components in which the genes are enriched (g:Profiler)",
        "functions": "molecular functions in which the genes are enriched (g:Profiler)",
        "interactions": GeneTools.TOOLS["interactions"],
        "summary": "what NCBI says of one gene",
        "literature": "abstracts of PubMed that name the genes",
    }

    def call(self, tool: str, genes: Sequence[str], of: Sequence[str]) -> str:
        """Return the answer of a tool as text, see `GeneTools.call`.

        Raises
        ------
        BftembedError
            When the service cannot be reached, or answers something else.
        """
        if tool == "interactions":
            return super().call(tool, genes, of)
        try:
            if tool == "summary":
                return _summary(genes[0]) if genes else "No gene was named."
            if tool == "literature":
                return _abstracts(genes)
            if tool == "pathways":
                return _told(_enrichr(genes, of))
            sources = {"complexes": ["GO:CC", "CORUM"], "functions": ["GO:MF"]}.get(tool)
            return _told(_gprofiler(genes, of, sources))
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as err:
            raise BftembedError(f"The answer of the service for {tool} cannot be read ({type(err).__name__}).") from err


def _told(terms: Sequence[str]) -> str:
    return "\n".join(terms) or "No term is enriched (adjusted p < 0.05)."


def _gprofiler(genes: Sequence[str], of: Sequence[str], sources: list[str] | None) -> list[str]:
    n = len(set(of))
    # Terms are told from the set's own by all its genes, not by those that are asked for.
    own = {t["native"] for t in _gost(tuple(of)) if t["intersection_size"] >= LEAK_JACCARD * _union(t, n)}
    found = [t for t in _gost(tuple(genes)) if t["native"] not in own and (not sources or t["source"] in sources)]
    return [
        f"{t['name']} ({t['source']}): {t['intersection_size']} of {t['term_size']} genes, p {t['p_value']:.1e}"
        for t in sorted(found, key=lambda t: t["p_value"])[:_N_TERMS]
    ]


def _union(term: dict[str, Any], n: int) -> int:
    return int(term["term_size"]) + n - int(term["intersection_size"])


@functools.lru_cache(maxsize=256)
def _gost(genes: tuple[str, ...]) -> list[dict[str, Any]]:
    asked = {"organism": "hsapiens", "query": list(genes), "user_threshold": 0.05}
    found: list[dict[str, Any]] = _asked("g:Profiler", "", json=asked).json()["result"]
    return found


def _enrichr(genes: Sequence[str], of: Sequence[str]) -> list[str]:
    """Return terms of Enrichr; it names no sizes, so a term with half of the set's genes counts as the set's own."""
    own = {t[:2] for t in _enrichr_terms(tuple(of)) if t[2] >= LEAK_JACCARD * len(set(of))}
    found = sorted((t for t in _enrichr_terms(tuple(genes)) if t[:2] not in own and t[3] < 0.05), key=lambda t: t[3])
    return [f"{name} ({library}): {n} genes, adjusted p {p:.1e}" for library, name, n, p in found[:_N_TERMS]]


@functools.lru_cache(maxsize=256)
def _enrichr_terms(genes: tuple[str, ...]) -> list[tuple[str, str, int, float]]:
    """Return library, term, number of the genes in it, and adjusted p."""
    sent = {"list": (None, "\n".join(genes)), "description": (None, "gene set")}
    list_id = _asked("Enrichr", "/addList", files=sent).json()["userListId"]
    found = []
    for library in ENRICHR:
        rows = _asked("Enrichr", "/enrich", params={"userListId": list_id, "backgroundType": library}).json()[library]
        found += [(library, str(row[1]), len(row[5]), float(row[6])) for row in rows]
    return found


def _summary(gene: str) -> str:
    ids = _ids("gene", f"{gene}[Gene Name] AND Homo sapiens[Organism]", 1)
    if not ids:
        return f"{gene}: no summary"
    asked = {"db": "gene", "id": ids[0], "retmode": "json"}
    found = _asked("NCBI", "/esummary.fcgi", params=asked).json()["result"][ids[0]]
    return f"{gene}: {found.get('summary') or found.get('description') or 'no summary'}"[:600]


def _abstracts(genes: Sequence[str]) -> str:
    ids = _ids("pubmed", " AND ".join(f"{gene}[Title/Abstract]" for gene in genes[:3]), _N_ABSTRACTS)
    if not ids:
        return "No abstract names these genes."
    asked = {"db": "pubmed", "id": ",".join(ids), "rettype": "abstract", "retmode": "text"}
    return str(_asked("NCBI", "/efetch.fcgi", params=asked).text)[:4000]


def _ids(database: str, term: str, n: int) -> list[str]:
    asked = {"db": database, "term": term, "retmax": n, "retmode": "json"}
    found: list[str] = _asked("NCBI", "/esearch.fcgi", params=asked).json()["esearchresult"]["idlist"]
    return found


def _asked(service: str, path: str, **request: Any) -> Any:
    """Return the response of a service, asked up to four times."""
    import requests
    from requests.adapters import HTTPAdapter
    from urllib3.util import Retry

    if service == "NCBI":
        time.sleep(_NCBI_PAUSE)
    retry = Retry(3, backoff_factor=0.5, status_forcelist=[429, 500, 502, 503, 504], allowed_methods=None)
    with requests.Session() as session:
        for scheme in ("http://", "https://"):
            session.mount(scheme, HTTPAdapter(max_retries=retry))
        try:
            method = "POST" if {"json", "files"} & request.keys() else "GET"
            response = session.request(method, URLS[service] + path, timeout=_TIMEOUT, **request)
            response.raise_for_status()
        except requests.RequestException as err:
            raise BftembedError(
                f"{service} gives no answer ({err}). The same command goes on where this stopped."
            ) from err
    return response

"""Processes of gene sets, named by a model that checks its own claims with tools (GeneAgent, Nature Methods 2025).

The cascade is played in rounds over all sets at once: name, claims, actions with tools, report, revised name; then the
same for claims on single genes, and a last summary. Every action is a stored answer.
"""

from __future__ import annotations

import csv
import json
import math
import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from bftembed.errors import BftembedError
from bftembed.io import sha256_text
from bftembed.llm.base import Request, Sampling
from bftembed.tasks.base import Metric
from bftembed.tasks.llm.base import Evaluation, Question, json_object
from bftembed.tasks.llm.gene_tools import LEAK_JACCARD, GeneTools, StoredTools, gene_set_terms
from bftembed.tasks.llm.online_tools import OnlineTools
from bftembed.tasks.llm.similarity import BACKGROUND

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from bftembed.llm.base import Answer
    from bftembed.tasks.llm.base import Ask, Statistic

#: Claims of a round, and turns of the check of a claim; the last turn has to report.
MAX_CLAIMS, MAX_TURNS = 3, 4
_SAMPLING = Sampling(max_new_tokens=512)
#: Genes of a set that a prompt lists.
_MAX_GENES = 100
_NAME = """Genes of one set: {genes}

Which biological process do these genes carry out together? Name the most prominent one, as short and specific as a \
term of an ontology, and say in a few sentences which genes support it.

Reply with a JSON object alone: {{"process": "the name", "reason": "a few sentences"}}"""
_CLAIMS = {
    "process": """Genes of one set: {genes}

Proposed process: {process}
Reason: {reason}

List up to {n} claims about the proposed process and these genes that a database could support or refute. Name the \
genes in each claim.

Reply with a JSON object alone: {{"claims": ["claim", "…"]}}""",
    "genes": """Genes of one set: {genes}

Proposed process: {process}
Reason: {reason}

List up to {n} claims on the functions of single genes of this set that the reason rests on, and that a database could \
support or refute.

Reply with a JSON object alone: {{"claims": ["claim", "…"]}}""",
}
_CHECK = """Check a claim about genes with tools.

Claim: {claim}
Genes of the set: {genes}

Tools:
{tools}

Reply with one JSON object alone. To use a tool: {{"action": "name of the tool", "genes": ["SYMBOL", "…"]}}. When you \
can decide: {{"action": "report", "verdict": "supported", "refuted" or "undecided", "report": "what was shown"}}"""
_FORCED = 'No more tools. Reply with the report: {"action": "report", "verdict": …, "report": …}'
_REVISE = """Genes of one set: {genes}

Proposed process: {process}
Reason: {reason}

Claims were checked in databases:
{reports}

Keep the process where the reports support it, and change it where they contradict it. Reply with a JSON object alone: \
{{"process": "the name", "reason": "a few sentences"}}"""
_TEXT = {"type": "string", "maxLength": 1500}
_PROCESS = {
    "type": "object",
    "properties": {"process": {"type": "string", "maxLength": 200}, "reason": _TEXT},
    "required": ["process", "reason"],
}
_CLAIM_LIST = {
    "type": "object",
    "properties": {"claims": {"type": "array", "items": {"type": "string", "maxLength": 400}, "maxItems": MAX_CLAIMS}},
    "required": ["claims"],
}
VERDICTS = ("supported", "refuted", "undecided")


@dataclass
class _Case:
    """A set of genes on its way through the cascade."""

    id: str
    genes: list[str]
    process: str = ""
    reason: str = ""
    claims: list[str] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    failed: bool = False

    @property
    def shown(self) -> str:
        return ", ".join(self.genes[:_MAX_GENES])

    def text(self, template: str, **values: object) -> str:
        return template.format(genes=self.shown, process=self.process, reason=self.reason, **values)


class GeneAgent(Evaluation):
    """Names of gene sets, compared with the reference by ROUGE.

    Parameters
    ----------
    name, title, source
        As in `Evaluation`.
    file
        Of the folder ``geneagent``.
    without
        Libraries that the tools leave out, because they hold the references.
    tools
        Where claims are checked: ``"offline"`` in the files of the data folder, ``"online"`` at g:Profiler, Enrichr and
        NCBI; ``"none"``: the first name counts (chain of thought).
    """

    folder = "geneagent"
    schema = True

    def __init__(
        self, name: str, title: str, file: str, without: tuple[str, ...] = (), *, tools: str = "offline"
    ) -> None:
        self.name, self.title, self._file, self._without, self._tools = name, title, file, without, tools
        self.source = f"geneagent/{file} (ncbi-nlp/GeneAgent, public domain); gene_sets, pairs, gene_text"
        held = f"tools {tools} without {', '.join(without) or f'terms of Jaccard ≥ {LEAK_JACCARD}'}"
        rounds = "no tools" if tools == "none" else f"{MAX_CLAIMS} claims, {MAX_TURNS} turns; {held}"
        self.protocol = f"greedy; {rounds}"
        of_terms = ("enriched_top_1", "enriched_top_3", "enriched_top_5") if file.startswith("Msig") else ()
        self.metrics = (
            *(Metric(f"rouge{k}", f"ROUGE-{k}", concludes=k == "L") for k in ("L", "1", "2")),
            *(Metric(name, name[-5:].replace("_", " "), "is an enriched term", concludes=False) for name in of_terms),
            Metric("parse_failures", "parse failures", better="lower", concludes=False),
            Metric("supported", "claims supported", better="", concludes=False),
            Metric("requests", "requests", better="", limits=None, concludes=False),
            Metric("similarity", "similarity percentile", concludes=False),
        )

    def statistics(self) -> dict[str, Statistic]:
        """Return means; the similarity percentile where an encoder was given."""
        found = super().statistics()
        return found if self.similarity else {name: one for name, one in found.items() if name != "similarity"}

    def notes(self) -> dict[str, str]:
        """Name the encoder of the similarity percentile."""
        told = f"Similarity: percentile of the reference among terms of {BACKGROUND} by cosine to the name"
        return {"similarity": f"{told} ({self.similarity.spec})."} if self.similarity else {}

    def questions(self, data: Path) -> list[Question]:
        """Return a question per gene set."""
        path = data / self.folder / self._file
        enriched = _enriched_terms(data / self.folder) if self._file.startswith("Msig") else {}
        try:
            with path.open(encoding="utf-8-sig", newline="") as handle:
                rows = list(csv.DictReader(handle))
            found = []
            id_key, name_key = ("GO", "Term_Description") if rows and "GO" in rows[0] else ("ID", "Name")
            for number, row in enumerate(rows):
                id, name, genes = row[id_key], row[name_key], row["Genes"].split()
                other = rows[(number + 1) % len(rows)][name_key]
                of = {"genes": genes, "other": other}
                of |= {f"top_{k}": terms[number] for k, terms in enriched.items()}
                text = _Case(id, genes).text(_NAME)
                found.append(Question(id, _ask(text, _PROCESS), name, data=of))
        except (OSError, KeyError, IndexError, csv.Error) as err:
            raise BftembedError(f"{path} is not a file of gene sets ({type(err).__name__}: {err}).") from err
        return found

    def prepare(self, questions: Sequence[Question], data: Path, vectors: Mapping[str, NDArray[Any]]) -> list[Question]:
        """Add what the baselines answer: a random term, another set's name, a constant, the most enriched term."""
        terms = sorted(gene_set_terms(data, "GO biological process"))
        tools = GeneTools(data, self._without)
        found = []
        for q in questions:
            draw = np.random.default_rng(int(sha256_text(q.id)[:8], 16))
            best = tools.enriched(q.data["genes"], q.data["genes"], n_terms=1)
            told = {
                "random GO term": str(terms[draw.integers(len(terms))]),
                "another set's name": q.data["other"],
                "regulation of cellular process": "regulation of cellular process",
                "most enriched term": best[0].name if best else "",
            }
            found.append(replace(q, data={**q.data, "baselines": told}))
        return found

    def ask(self, questions: Sequence[Question], model: Ask, judge: Ask | None) -> dict[str, list[Answer]]:
        """Play the cascade; the last answer of a set holds its final name."""
        cases = [_Case(q.id, list(q.data["genes"])) for q in questions]
        tools = StoredTools(model, self.name, self._without, OnlineTools if self._tools == "online" else GeneTools)
        for case, answer in _answers(cases, model, {c.id: _ask(c.text(_NAME), _PROCESS) for c in cases}):
            _take_name(case, answer)
        for about in ("process", "genes") if self._tools != "none" else ():
            going = [c for c in cases if c.process and not c.failed]
            asked = {c.id: _ask(c.text(_CLAIMS[about], n=MAX_CLAIMS), _CLAIM_LIST) for c in going}
            for case, answer in _answers(going, model, asked):
                claims = (json_object(answer.text) or {}).get("claims")
                case.claims = [str(c) for c in claims][:MAX_CLAIMS] if isinstance(claims, list) else []
            reports = _check_claims(going, model, tools)
            revised = {}
            for case in going:
                if case.claims:
                    told = "\n".join(f"- {claim}\n  {report}" for claim, report in reports[case.id])
                    revised[case.id] = _ask(case.text(_REVISE, reports=told), _PROCESS)
            for case, answer in _answers(going, model, revised):
                _take_name(case, answer)
        tools.keep()
        return {case.id: case.answers for case in cases if case.answers}

    def grade(self, question: Question, answers: Sequence[Answer]) -> dict[str, Any]:
        """Return ROUGE of the final name, and how the cascade went."""
        named = [found for a in answers if (found := _process(a)) is not None]
        if not answers or answers[0].error:
            return {m.name: math.nan for m in self.metrics}
        name = named[-1][0] if named else ""
        reports = [r for a in answers if (r := json_object(a.text)) and r.get("action") == "report"]
        supported = [r.get("verdict") == "supported" for r in reports]
        return {
            **self._compared(question, name),
            "parse_failures": float(np.mean([json_object(a.text) is None for a in answers])),
            "supported": float(np.mean(supported)) if supported else math.nan,
            "requests": float(len(answers)),
            "parsed": name,
        }

    def baselines(self, questions: Sequence[Question]) -> dict[tuple[str, str], dict[str, dict[str, float]]]:
        """Return ROUGE of names that no model made."""
        names = questions[0].data.get("baselines", {}) if questions else {}
        return {
            ("baseline", name): {q.id: self._compared(q, q.data["baselines"][name]) for q in questions}
            for name in names
        }

    def _compared(self, question: Question, name: str) -> dict[str, float]:
        """Return the scores of a name against the reference and the enriched terms of its set."""
        found = _rouge(question.answer, name)
        found |= {f"enriched_{k}": v for k, v in _matches(question.data, name).items()}
        return found | ({"similarity": self.similarity(name, question.answer)} if self.similarity else {})


def _ask(text: str, schema: Mapping[str, Any]) -> Request:
    return Request("", messages=({"role": "user", "content": text},), sampling=_SAMPLING, schema=schema)


def _answers(cases: Sequence[_Case], model: Ask, asked: Mapping[str, Request]) -> Iterator[tuple[_Case, Answer]]:
    """Yield the answers of a round; a set whose request failed leaves the cascade."""
    found = model(asked) if asked else {}
    for case in cases:
        if case.id in found:
            answer = found[case.id]
            case.answers.append(answer)
            case.failed |= bool(answer.error)
            yield case, answer


def _check_claims(cases: Sequence[_Case], model: Ask, tools: StoredTools) -> dict[str, list[tuple[str, str]]]:
    """Return (claim, report) by set: at most `MAX_TURNS` actions per claim, the last of which has to report."""
    by_id = {case.id: case for case in cases}
    talks: dict[str, list[dict[str, str]]] = {}
    reports: dict[str, str] = {}
    shown_tools = "\n".join(f"- {name}: {about}" for name, about in tools.names.items())
    for case in cases:
        for i, claim in enumerate(case.claims):
            text = _CHECK.format(claim=claim, genes=case.shown, tools=shown_tools)
            talks[f"{case.id}|{i}"] = [{"role": "user", "content": text}]
    for turn in range(1, MAX_TURNS + 1):
        last = turn == MAX_TURNS
        asked = {}
        for id, talk in talks.items():
            if id not in reports:
                if last and turn > 1:
                    talk[-1] = {"role": "user", "content": f"{talk[-1]['content']}\n\n{_FORCED}"}
                genes = by_id[id.rpartition("|")[0]].genes
                schema = _action_schema(genes, last, list(tools.names))
                asked[id] = Request("", messages=tuple(talk), sampling=_SAMPLING, schema=schema)
        for id, answer in model(asked).items() if asked else ():
            case = by_id[id.rpartition("|")[0]]
            case.answers.append(answer)
            action = json_object(answer.text) or {}
            tool, of_action = action.get("action"), action.get("genes")
            if tool == "report" or last or answer.error:
                verdict = action.get("verdict") if action.get("verdict") in VERDICTS else "undecided"
                reports[id] = f"{verdict}: {str(action.get('report') or 'no report')[:600]}"
            elif tool in tools.names:
                named = [g for g in of_action if g in case.genes] if isinstance(of_action, list) else []
                shown = tools.call(tool, named or case.genes, case.genes)
                _go_on(talks[id], answer, f"Result of {tool}:\n{shown}")
            else:
                _go_on(talks[id], answer, "This was no action. Reply with one JSON object, a tool or the report.")
        tools.keep()
    return {
        case.id: [(claim, reports.get(f"{case.id}|{i}", "undecided: no report")) for i, claim in enumerate(case.claims)]
        for case in cases
    }


def _go_on(talk: list[dict[str, str]], answer: Answer, text: str) -> None:
    talk += [{"role": "assistant", "content": answer.text or "…"}, {"role": "user", "content": text}]


def _action_schema(genes: Sequence[str], last: bool, tools: list[str]) -> dict[str, Any]:
    """Return the schema of an action: a tool with genes of the set, or the report, which ends the check."""
    report = {
        "type": "object",
        "properties": {"action": {"const": "report"}, "verdict": {"enum": list(VERDICTS)}, "report": _TEXT},
        "required": ["action", "verdict", "report"],
    }
    symbols = list(dict.fromkeys(genes))[:_MAX_GENES]
    of_set = {"type": "array", "items": {"enum": symbols}, "minItems": 1, "maxItems": 20}
    tool = {
        "type": "object",
        "properties": {"action": {"enum": tools}, "genes": of_set},
        "required": ["action", "genes"],
    }
    return report if last else {"anyOf": [tool, report]}


def _process(answer: Answer) -> tuple[str, str] | None:
    """Return name and reason of an answer that names a process, as JSON or as a line ``Process: …``."""
    found = json_object(answer.text)
    if found is not None:
        return (str(found["process"]).strip(), str(found.get("reason", ""))) if found.get("process") else None
    line = re.search(r"^\W*process\W*:\W*(.+)$", answer.text, re.IGNORECASE | re.MULTILINE)
    return (line[1].strip(), answer.text[line.end() :].strip()) if line else None


def _take_name(case: _Case, answer: Answer) -> None:
    if (found := _process(answer)) is not None and not answer.error:
        case.process, case.reason = found[0][:200], found[1][:1500]


def _normalized(name: str) -> str:
    return re.sub(r"[/,-]", " ", re.sub(r"\(.*?\)", "", name)).replace('"', "").strip()


def _rouge(reference: str, name: str) -> dict[str, float]:
    """Return ROUGE-1, -2 and -L (F1, stemmed), of the name without what stands in parentheses."""
    if not name:
        return {"rouge1": 0.0, "rouge2": 0.0, "rougeL": 0.0}
    scores = _scorer().score(re.sub(r"[/,-]", " ", reference).replace('"', ""), _normalized(name))
    return {key: float(score.fmeasure) for key, score in scores.items()}


def _scorer() -> Any:
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError as err:
        raise BftembedError("ROUGE needs rouge-score: pip install 'bftembed[eval]'.") from err
    return RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)


def _enriched_terms(folder: Path) -> dict[int, list[list[str]]]:
    """Return k → set → its k most enriched terms by g:Profiler, as published with the data."""
    found = {}
    for k in (1, 3, 5):
        path = folder / f"MsigDB.EnrichTerms.top{k}.json"
        try:
            sets = json.loads(path.read_text(encoding="utf-8"))
            found[k] = [[t["name"].lower() for t in (s if isinstance(s, list) else [s])] for s in sets]
        except (OSError, ValueError, KeyError, TypeError) as err:
            raise BftembedError(f"{path} cannot be read ({type(err).__name__}: {err}).") from err
    return found


def _matches(data: Mapping[str, Any], name: str) -> dict[str, float]:
    """Return whether a name is one of the most enriched terms of its own set."""
    return {key: float(name.lower() in data[key]) for key in ("top_1", "top_3", "top_5") if key in data}


_GO_BP = ("GO biological process",)

GENEAGENT = GeneAgent("geneagent", "GeneAgent, MSigDB sets", "MsigDB.csv")
GENEAGENT_GO = GeneAgent("geneagent-go", "GeneAgent, GO sets", "GO_terms.csv", _GO_BP)
GENEAGENT_ONLINE = GeneAgent("geneagent-online", "GeneAgent, MSigDB sets", "MsigDB.csv", tools="online")
GENEAGENT_NO_TOOLS = GeneAgent("geneagent-no-tools", "GeneAgent, MSigDB sets", "MsigDB.csv", tools="none")
GENEAGENT_GO_NO_TOOLS = GeneAgent("geneagent-go-no-tools", "GeneAgent, GO sets", "GO_terms.csv", _GO_BP, tools="none")

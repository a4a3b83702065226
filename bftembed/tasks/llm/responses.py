"""Response analysis: entities, connectives, drugs and variants in answers on lung cancer (the paper's table 3)."""

from __future__ import annotations

import functools
import importlib.resources
import importlib.util
import math
import re
from typing import TYPE_CHECKING, Any

from bftembed.llm.base import Request, Sampling
from bftembed.tasks.base import Metric
from bftembed.tasks.llm.base import Evaluation, Question
from bftembed.tuning.tagging import connective_spans, connectives_version, gene_spans, load_tagger

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from bftembed.llm.base import Answer

_SAMPLING = Sampling(max_new_tokens=2048, temperature=0.6)
#: scispaCy's models, the largest first; the gene names of HGNC where none is installed.
_SPACY_MODELS = ("en_core_sci_lg", "en_core_sci_md", "en_core_sci_sm")
_PROMPTS = (
    "How does an activating mutation of EGFR drive non-small cell lung cancer?",
    "By which mechanisms do EGFR-mutant lung tumors become resistant to osimertinib?",
    "How does KRAS G12C signal in lung adenocarcinoma, and how does a covalent inhibitor interrupt it?",
    "Why does inhibition of KRAS G12C alone rarely last in non-small cell lung cancer?",
    "How does an EML4-ALK fusion transform lung epithelial cells?",
    "Which changes in ALK make lung cancers resistant to alectinib, and how are they overcome?",
    "How does amplification of MET bypass the inhibition of EGFR?",
    "What does MET exon 14 skipping change in the degradation and signaling of the receptor?",
    "How do rearrangements of RET activate signaling in lung cancer?",
    "How do fusions of ROS1 differ from those of ALK in their signaling and treatment?",
    "How does the loss of STK11 shape the immune microenvironment of lung adenocarcinoma?",
    "How do mutations of KEAP1 affect metabolism and therapy response in non-small cell lung cancer?",
    "How does the loss of TP53 cooperate with KRAS in lung tumors?",
    "How do lung tumors evade T cells through PD-L1, and how do checkpoint inhibitors act?",
    "Why do some non-small cell lung cancers not respond to a PD-1 inhibitor?",
    "How does an adenocarcinoma transform into small cell lung cancer under targeted therapy?",
    "How do insertions in exon 20 of EGFR or ERBB2 differ from common EGFR mutations in drug binding?",
    "How does signaling through BRAF V600E differ from that of other BRAF mutants in lung cancer?",
    "How does epithelial-mesenchymal transition make lung cancer cells tolerate drugs?",
    "How does VEGF signaling support lung tumors, and why is its inhibition combined with immunotherapy?",
)
_AMINO = "ACDEFGHIKLMNPQRSTVWY"
_LONG = "Ala|Arg|Asn|Asp|Cys|Gln|Glu|Gly|His|Ile|Leu|Lys|Met|Phe|Pro|Ser|Thr|Trp|Tyr|Val"
_END = r"fs(?:\*\d+)?|del|dup|ins\w*|\*"
_VARIANT = re.compile(
    rf"(?<![\w-])(?:(?:p\.)?(?:[{_AMINO}]\d{{2,4}}(?:[{_AMINO}]|{_END})|(?:{_LONG})\d{{2,4}}(?:{_LONG}|{_END}))"
    r"|c\.\d+[ACGT]>[ACGT]|exon \d+ (?:deletion|insertion|skipping)s?)(?!\w)"
)
#: Cell lines that look like variants.
_NOT_VARIANTS = frozenset({"T47D"})


class Responses(Evaluation):
    """What answers to 20 questions on mechanisms of non-small cell lung cancer are made of."""

    name = "responses"
    title = "Response analysis"
    folder = ""
    source = "none: 20 questions come with the package"
    metrics = (
        Metric("entities", "unique entities", limits=None),
        Metric("connectives", "connectives", limits=None),
        Metric("mentions", "drug or variant"),
        Metric("characters", "characters", better="", limits=None, concludes=False),
        Metric("entities_per_1000", "entities", "per 1,000 characters", limits=None),
        Metric("connectives_per_1000", "connectives", "per 1,000 characters", limits=None),
    )

    @property
    def protocol(self) -> str:  # type: ignore[override]
        """Name the tagger of entities and the lists."""
        return (
            f"temperature 0.6, 2,048 tokens; entities by {_tagger()[0]}, connectives version {connectives_version()}, "
            f"{len(set(_drugs()[1].values()))} drugs version {_drugs()[0]}"
        )

    def questions(self, data: Path) -> list[Question]:
        """Return the 20 questions."""
        return [
            Question(f"{i:02d}", Request("", messages=({"role": "user", "content": text},), sampling=_SAMPLING))
            for i, text in enumerate(_PROMPTS, 1)
        ]

    def grade(self, question: Question, answers: Sequence[Answer]) -> dict[str, Any]:
        """Return the counts of the answer; NaN for one that failed."""
        if not answers or answers[-1].error:
            return {metric.name: math.nan for metric in self.metrics}
        return measures(answers[-1].text)

    def baselines(self, questions: Sequence[Question]) -> dict[tuple[str, str], dict[str, dict[str, float]]]:
        """Return the counts of the question itself."""
        return {
            ("baseline", "the question itself"): {q.id: measures(q.request.messages[0]["content"]) for q in questions}
        }


def measures(text: str) -> dict[str, float]:
    """Return the counts of a text.

    Returns
    -------
    dict
        ``entities`` (unique), ``connectives`` (repetitions counted), ``mentions`` (1 where a drug or a variant is
        named, else 0), ``characters``, and the first two per 1,000 characters.
    """
    entities, connectives = len(_tagger()[1](text)), len(connective_spans(text))
    per = 1000 / len(text) if text else 0.0
    return {
        "entities": float(entities),
        "connectives": float(connectives),
        "mentions": float(bool(variants(text) or drugs(text))),
        "characters": float(len(text)),
        "entities_per_1000": entities * per,
        "connectives_per_1000": connectives * per,
    }


def variants(text: str) -> set[str]:
    """Return the variants that a text names: ``G12C``, ``p.Val600Glu``, ``c.35G>T``, ``exon 19 deletion``."""
    return {match.group() for match in _VARIANT.finditer(text)} - _NOT_VARIANTS


def drugs(text: str) -> set[str]:
    """Return the oncology compounds that a text names, by the first of their forms."""
    _, names, pattern = _drugs()
    return {names[match.group().lower()] for match in pattern.finditer(text)}


@functools.cache
def _drugs() -> tuple[str, dict[str, str], re.Pattern[str]]:
    lines = (importlib.resources.files("bftembed.tasks.llm") / "oncology_drugs.txt").read_text("utf-8").splitlines()
    version = lines[0].partition("version ")[2].partition(":")[0]
    forms = [[form.strip() for form in line.split("|")] for line in lines[1:] if line.strip()]
    names = {form.lower(): of[0] for of in forms for form in of}
    longest_first = sorted(names, key=len, reverse=True)
    return version, names, re.compile(rf"(?<![\w-])(?:{'|'.join(map(re.escape, longest_first))})(?!\w)", re.IGNORECASE)


@functools.cache
def _tagger() -> tuple[str, Any]:
    """Return the name of the tagger, and a function from a text to its unique entities."""
    for model in _SPACY_MODELS:
        if importlib.util.find_spec(model):
            return model, functools.partial(_entities, load_tagger(f"spacy:{model}"))
    return "gene names of HGNC", lambda text: {symbol for _, _, symbol in gene_spans(text)}


def _entities(spans: Any, text: str) -> set[str]:
    return {text[first:last].lower() for first, last in spans(text)}


RESPONSES = Responses()

"""Multiple choice: MMLU, CMMLU and PubMedQA by option scores as in lm-evaluation-harness, or by a generated answer."""

from __future__ import annotations

import csv
import gzip
import json
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bftembed.errors import BftembedError
from bftembed.llm.base import Request, Sampling
from bftembed.tasks.base import Metric
from bftembed.tasks.llm.base import Evaluation, Question, mean_of, mean_over_groups

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from bftembed.llm.base import Answer
    from bftembed.tasks.llm.base import Statistic

_LETTERS = ("A", "B", "C", "D")
_SHOTS = 5
#: Subjects of MMLU and CMMLU that are medicine or its foundations (MMLU's as in MultiMedQA).
_MEDICAL = frozenset(
    {
        *("anatomy", "clinical_knowledge", "college_biology", "college_medicine", "medical_genetics", "nutrition"),
        *(
            "professional_medicine",
            "college_medical_statistics",
            "genetics",
            "traditional_chinese_medicine",
            "virology",
        ),
    }
)
#: Room for the thoughts of a reasoning model; `max_new_tokens` in the spec overrides it.
_GENERATED = Sampling(max_new_tokens=1024)


@dataclass(frozen=True)
class Item:
    """A question: `shown` is the text before the answer, `answer` one of the options."""

    id: str
    group: str
    shown: str
    answer: str


class MultipleChoice(Evaluation):
    """Options are scored by the log-likelihood of the continuation, or the answer is generated and read.

    Parameters
    ----------
    name, title, source
        As in `Evaluation`.
    read
        Data folder → (few-shot text of each group, items).
    options
        The answers to choose from.
    shots
        Number of examples before a question.
    generated
        Whether the answer is generated.
    """

    def __init__(
        self,
        name: str,
        title: str,
        source: str,
        read: Callable[[Path], tuple[Mapping[str, str], list[Item]]],
        options: tuple[str, ...] = _LETTERS,
        *,
        shots: int = _SHOTS,
        generated: bool = False,
    ) -> None:
        self.name = f"{name}-generated" if generated else name
        self.title, self.folder, self.source = title, name, source
        how = "generated answer, greedy" if generated else "option scores, no chat template"
        self.protocol = f"{shots}-shot; {how}"
        self.parts = {"medical": _MEDICAL} if shots else {}
        self._read, self._options, self._generated = read, options, generated
        self.metrics = (
            Metric("accuracy", "accuracy"),
            Metric("accuracy_macro", "macro", concludes=False),
            Metric("answered", "answered", concludes=False),
        )

    def questions(self, data: Path) -> list[Question]:
        """Return every question of the files of the evaluation."""
        before, items = self._read(data)
        return [Question(i.id, self._request(before.get(i.group, "") + i.shown), i.answer, i.group) for i in items]

    def _request(self, text: str) -> Request:
        if not self._generated:
            return Request("", prompt=text, options=tuple(f" {option}" for option in self._options))
        choices = ", ".join(self._options[:-1]) + " or " + self._options[-1]
        asked = f"{text}\n\nReply with the final answer alone: {choices}."
        return Request("", messages=({"role": "user", "content": asked},), sampling=_GENERATED)

    def grade(self, question: Question, answers: Sequence[Answer]) -> dict[str, Any]:
        """Return accuracy (0 or 1), and whether an answer could be read; NaN for a question that failed."""
        answer = answers[-1] if answers else None
        if answer is None or answer.error:
            return {"accuracy": math.nan, "answered": math.nan}
        if self._generated:
            parsed = read_choice(answer.text, self._options)
        else:
            scores = [-math.inf if s is None else s for s in answer.scores]
            parsed = self._options[scores.index(max(scores))] if max(scores, default=-math.inf) > -math.inf else ""
        return {"accuracy": float(parsed == question.answer), "answered": float(bool(parsed)), "parsed": parsed}

    def baselines(self, questions: Sequence[Question]) -> dict[tuple[str, str], dict[str, dict[str, float]]]:
        """Return chance, and the most frequent answer of all."""
        right = [q.answer for q in questions]
        common = max(self._options, key=right.count)
        chance = 1 / len(self._options)
        return {
            ("baseline", f"always {common}"): {q.id: {"accuracy": float(q.answer == common)} for q in questions},
            ("chance", "chance"): {q.id: {"accuracy": chance} for q in questions},
        }

    def statistics(self) -> dict[str, Statistic]:
        """Return the mean over questions (micro), and over subjects (macro)."""
        return {
            "accuracy": mean_of("accuracy"),
            "accuracy_macro": mean_over_groups("accuracy"),
            "answered": mean_of("answered"),
        }


def read_choice(text: str, options: Sequence[str]) -> str:
    """Return the option that a text names as its answer, ``""`` where none can be read.

    The text begins with the option, or names it after the last "answer is", or holds no other one.
    """
    any_of = "|".join(map(re.escape, options))
    flags = 0 if options == _LETTERS else re.IGNORECASE
    whole = rf"(?<![A-Za-z0-9])({any_of})(?![A-Za-z0-9])"
    begins = re.match(rf"\W*({any_of})(?![A-Za-z0-9'])(?!\s+[a-z])", text, flags)
    named = re.findall(rf"(?:[Aa]nswer|答案)\s*(?:is|为|是)?\s*:?：?[\W_]*({any_of})(?![A-Za-z0-9])", text, flags)
    found = {o.lower() if flags else o for o in re.findall(whole, text, flags)}
    if found == {"A"} and not re.search(r"(?<!\w)A(?!\w)(?!\s+[a-z])", text):
        found = set()  # "A muscle …"
    parsed = named[-1] if named else begins[1] if begins else found.pop() if len(found) == 1 else ""
    return parsed.lower() if flags else parsed


def _rows(path: Path) -> list[list[str]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as handle:
            return [row for row in csv.reader(handle) if row]
    except (OSError, UnicodeError, csv.Error) as err:
        raise BftembedError(f"{path} cannot be read as CSV: {err}.") from err


def _items(path: Path, group: str, cue: str) -> list[Item]:
    """Read question, four options and answer (a letter or 0-3), with or without header and index column."""
    rows = _rows(path)
    header = [cell.strip().lower() for cell in rows[0]] if rows else []
    first = 0
    if "question" in header:
        first, rows = header.index("question"), rows[1:]
        if len(header) < first + 6 or not header[first + 5].startswith("answer"):
            raise BftembedError(f"{path}: columns question, four options and answer are needed, found {header}.")
    found = []
    for number, row in enumerate(rows):
        cells = row[first : first + 6]
        answer = cells[5].strip().upper() if len(cells) == 6 else ""
        answer = _LETTERS[int(answer)] if answer in ("0", "1", "2", "3") else answer
        if answer not in _LETTERS:
            raise BftembedError(f"{path}, question {number}: the answer is {row[-1]!r}, not A to D or 0 to 3.")
        options = "".join(f"{letter}. {text}\n" for letter, text in zip(_LETTERS, cells[1:5], strict=True))
        found.append(Item(f"{group}/{number}", group, f"{cells[0].strip()}\n{options}{cue}", answer))
    return found


def _subjects(folder: Path, suffix: str) -> Iterator[tuple[str, Path, Path]]:
    paths = sorted((folder / "test").glob("*.csv"))
    if not paths:
        raise BftembedError(f"No test/*.csv in {folder}.")
    for path in paths:
        group = path.stem.removesuffix("_test")
        shots = folder / "dev" / f"{group}{suffix}.csv"
        if not shots.is_file():
            raise BftembedError(f"{shots} is missing: it holds the five examples of {group}.")
        yield group, shots, path


def _few_shot(folder: Path, suffix: str, cue: str, about: Callable[[str], str]) -> tuple[dict[str, str], list[Item]]:
    before, items = {}, []
    for group, shots, path in _subjects(folder, suffix):
        examples = "".join(f"{i.shown} {i.answer}\n\n" for i in _items(shots, group, cue)[:_SHOTS])
        before[group] = about(group) + examples
        items += _items(path, group, cue)
    return before, items


def _mmlu(data: Path) -> tuple[dict[str, str], list[Item]]:
    def about(group: str) -> str:
        return f"The following are multiple choice questions (with answers) about {group.replace('_', ' ')}.\n\n"

    return _few_shot(data / "mmlu", "_dev", "Answer:", about)


def _cmmlu(data: Path) -> tuple[dict[str, str], list[Item]]:
    def about(group: str) -> str:
        if group not in _CMMLU_SUBJECTS:
            raise BftembedError(f"cmmlu/test/{group}.csv is not one of the {len(_CMMLU_SUBJECTS)} subjects of CMMLU.")
        return f"以下是关于{_CMMLU_SUBJECTS[group]}的单项选择题，请直接给出正确答案的选项。\n\n"

    return _few_shot(data / "cmmlu", "", "答案：", about)


_ABSTRACT = "Abstract: {}\nQuestion: {}\nAnswer:"


def _pubmedqa(data: Path) -> tuple[dict[str, str], list[Item]]:
    folder = data / "pubmedqa"
    path = next((p for p in (folder / "ori_pqal.json", folder / "ori_pqal.json.gz") if p.is_file()), None)
    if path is None:
        raise BftembedError(f"No ori_pqal.json in {folder}.")
    try:
        raw = path.read_bytes()
        rows = json.loads(gzip.decompress(raw) if path.suffix == ".gz" else raw)
        items = [
            Item(id, "", _ABSTRACT.format("\n".join(r["CONTEXTS"]), r["QUESTION"]), r["final_decision"])
            for id, r in sorted(rows.items())
        ]
    except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError) as err:
        raise BftembedError(f"{path} is not PubMedQA's labeled set ({type(err).__name__}: {err}).") from err
    if wrong := [i.id for i in items if i.answer not in ("yes", "no", "maybe")]:
        raise BftembedError(f"{path}: final_decision of {wrong[0]} is not yes, no or maybe.")
    return {}, items


_CMMLU_SUBJECTS = {
    "agronomy": "农学",
    "anatomy": "解剖学",
    "ancient_chinese": "古汉语",
    "arts": "艺术学",
    "astronomy": "天文学",
    "business_ethics": "商业伦理",
    "chinese_civil_service_exam": "中国公务员考试",
    "chinese_driving_rule": "中国驾驶规则",
    "chinese_food_culture": "中国饮食文化",
    "chinese_foreign_policy": "中国外交政策",
    "chinese_history": "中国历史",
    "chinese_literature": "中国文学",
    "chinese_teacher_qualification": "中国教师资格",
    "clinical_knowledge": "临床知识",
    "college_actuarial_science": "大学精算学",
    "college_education": "大学教育学",
    "college_engineering_hydrology": "大学工程水文学",
    "college_law": "大学法律",
    "college_mathematics": "大学数学",
    "college_medical_statistics": "大学医学统计",
    "college_medicine": "大学医学",
    "computer_science": "计算机科学",
    "computer_security": "计算机安全",
    "conceptual_physics": "概念物理学",
    "construction_project_management": "建设工程管理",
    "economics": "经济学",
    "education": "教育学",
    "electrical_engineering": "电气工程",
    "elementary_chinese": "小学语文",
    "elementary_commonsense": "小学常识",
    "elementary_information_and_technology": "小学信息技术",
    "elementary_mathematics": "初等数学",
    "ethnology": "民族学",
    "food_science": "食品科学",
    "genetics": "遗传学",
    "global_facts": "全球事实",
    "high_school_biology": "高中生物",
    "high_school_chemistry": "高中化学",
    "high_school_geography": "高中地理",
    "high_school_mathematics": "高中数学",
    "high_school_physics": "高中物理学",
    "high_school_politics": "高中政治",
    "human_sexuality": "人类性行为",
    "international_law": "国际法学",
    "journalism": "新闻学",
    "jurisprudence": "法理学",
    "legal_and_moral_basis": "法律与道德基础",
    "logical": "逻辑学",
    "machine_learning": "机器学习",
    "management": "管理学",
    "marketing": "市场营销",
    "marxist_theory": "马克思主义理论",
    "modern_chinese": "现代汉语",
    "nutrition": "营养学",
    "philosophy": "哲学",
    "professional_accounting": "专业会计",
    "professional_law": "专业法学",
    "professional_medicine": "专业医学",
    "professional_psychology": "专业心理学",
    "public_relations": "公共关系",
    "security_study": "安全研究",
    "sociology": "社会学",
    "sports_science": "体育学",
    "traditional_chinese_medicine": "中医中药",
    "virology": "病毒学",
    "world_history": "世界历史",
    "world_religions": "世界宗教",
}

_FILES = "mmlu/{dev,test}/SUBJECT_{dev,test}.csv (hendrycks/test, MIT)"
_CMMLU_FILES = "cmmlu/{dev,test}/SUBJECT.csv (haonan-li/CMMLU, CC BY-NC-SA)"
_PUBMEDQA_FILES = "pubmedqa/ori_pqal.json, 1,000 labeled questions (pubmedqa/pubmedqa, MIT)"
_YES_NO_MAYBE = ("yes", "no", "maybe")

MMLU = MultipleChoice("mmlu", "MMLU", _FILES, _mmlu)
MMLU_GENERATED = MultipleChoice("mmlu", "MMLU", _FILES, _mmlu, generated=True)
CMMLU = MultipleChoice("cmmlu", "CMMLU", _CMMLU_FILES, _cmmlu)
CMMLU_GENERATED = MultipleChoice("cmmlu", "CMMLU", _CMMLU_FILES, _cmmlu, generated=True)
PUBMEDQA = MultipleChoice("pubmedqa", "PubMedQA", _PUBMEDQA_FILES, _pubmedqa, _YES_NO_MAYBE, shots=0)
PUBMEDQA_GENERATED = MultipleChoice(
    "pubmedqa", "PubMedQA", _PUBMEDQA_FILES, _pubmedqa, _YES_NO_MAYBE, shots=0, generated=True
)

"""Record lm-evaluation-harness's option scores of SmolLM2, the oracle of tests/tasks/llm/test_multiple_choice.py.

Usage: python tests/manual/lm_eval_scores.py DATA OUT.json

Needs lm_eval 0.4.13 and this package. DATA holds mmlu, cmmlu and pubmedqa. The harness's own task files make the
prompts; only their data set is replaced by the local files. Written are scores by document, no text.
"""

from __future__ import annotations

import csv
import gzip
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import lm_eval.tasks
import yaml
from lm_eval.api.task import ConfigurableTask
from lm_eval.models.huggingface import HFLM

from bftembed.llm.models import resolve_model

TASKS = {"mmlu_anatomy": 4, "mmlu_virology": 4, "cmmlu_genetics": 4, "cmmlu_virology": 4, "pubmedqa": 6}
HOME = Path(lm_eval.tasks.__file__).parent


def config(name: str, data: Path, folder: Path) -> dict[str, Any]:
    """Return the harness's task with the local files as its data set."""
    family, _, subject = name.partition("_")
    if name == "pubmedqa":
        found = yaml.load((HOME / "pubmedqa" / "pubmedqa.yaml").read_text(), Loader=_Plain)
        from lm_eval.tasks.pubmedqa.preprocess_pubmedqa import doc_to_text

        rows = json.loads(gzip.decompress((data / "pubmedqa" / "ori_pqal.json.gz").read_bytes()))
        lines = [{k: rows[id][k] for k in ("QUESTION", "CONTEXTS", "final_decision")} for id in sorted(rows)]
        files = {"test": write(folder / "test.jsonl", lines)}
        found |= {"doc_to_text": doc_to_text, "training_split": None, "validation_split": None}
    else:
        home = HOME / family / ("default" if family == "mmlu" else "")
        found = yaml.safe_load((home / "_default_template_yaml").read_text())
        found |= yaml.safe_load((home / f"{name}.yaml").read_text())
        files = {
            split: write(folder / f"{split}.jsonl", rows_of(data, family, subject, split)) for split in ("dev", "test")
        }
    for key in ("include", "tag", "task_alias", "dataset_name"):
        found.pop(key, None)
    return found | {"task": name, "dataset_path": "json", "dataset_kwargs": {"data_files": files}}


class _Plain(yaml.SafeLoader):
    """Reads ``!function`` as text."""


_Plain.add_constructor("!function", lambda loader, node: loader.construct_scalar(node))


def rows_of(data: Path, family: str, subject: str, split: str) -> list[dict[str, Any]]:
    if family == "cmmlu":
        with (data / "cmmlu" / split / f"{subject}.csv").open(encoding="utf-8-sig") as handle:
            return [{k: v for k, v in row.items() if k} for row in csv.DictReader(handle)]
    with (data / "mmlu" / split / f"{subject}_{split}.csv").open(encoding="utf-8") as handle:
        return [
            {"question": r["question"], "choices": [r[f"choice{i}"] for i in range(4)], "answer": int(r["answer"])}
            for r in csv.DictReader(handle)
        ]


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def main() -> None:
    data, out = Path(sys.argv[1]), Path(sys.argv[2])
    path = resolve_model("language-model", "builtin:smollm2-135m-instruct").path
    model = HFLM(pretrained=str(path), dtype="float32", device="cpu", batch_size=1)
    found: dict[str, Any] = {}
    for name, n in TASKS.items():
        with tempfile.TemporaryDirectory() as folder:
            task = ConfigurableTask(config=config(name, data, Path(folder)))
            task.set_config("num_fewshot", 0 if name == "pubmedqa" else 5)
            task.build_all_requests(limit=n)
            scores = model.loglikelihood(task.instances, disable_tqdm=True)
            of_documents: dict[int, list[float]] = {}
            for instance, (value, _) in zip(task.instances, scores, strict=True):
                of_documents.setdefault(instance.doc_id, []).append(round(value, 6))
            found[name] = [of_documents[i] for i in sorted(of_documents)]
        print(name, found[name], flush=True)
    out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()

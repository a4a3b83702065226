"""The training line in one run: synthesis, joint sets, BFT, GRPO and evaluations, resumed after a stop in each step."""

from __future__ import annotations

import json

import pytest

from bftembed import pipeline
from bftembed.config import RunConfig
from bftembed.errors import BftembedError, UnknownNameError
from bftembed.pipeline import plan_pipeline, run_pipeline
from bftembed.report.manifest import Manifest
from bftembed.tasks.base import read_results

pytest.importorskip("trl")

STEPS = ["synthesis", "tuning", "GRPO", "evaluations"]


@pytest.fixture
def line(tiny_model, tmp_path, monkeypatch):
    """Give the keys of a run with a scripted teacher, a tiny model and questions of one's own."""
    from bftembed.llm import BACKENDS

    monkeypatch.setitem(BACKENDS.entries, "teacher", "synthesis_tools:Teacher")
    texts = ["symbol\tsummary", *(f"{gene}\t{letter * 300}." for gene, letter in (("TP53", "a"), ("EGFR", "b")))]
    (tmp_path / "texts.tsv").write_text("\n".join(texts) + "\n")
    (tmp_path / "data" / "questions").mkdir(parents=True)
    rows = [{"prompt": f"Is G{i} on?", "answer": ("yes", "no")[i % 2], "options": ["yes", "no"]} for i in range(8)]
    rows = [row | ({"split": "train"} if i < 4 else {}) for i, row in enumerate(rows)]
    questions = tmp_path / "data" / "questions" / "own.jsonl"
    questions.write_text("".join(json.dumps(row) + "\n" for row in rows))
    training = {"precision": "fp32", "threads": 1, "max_steps": 1, "batch_size": 4, "num_generations": 2}
    return {
        "out": str(tmp_path / "run"),
        "synthesize": {"source": str(tmp_path / "texts.tsv"), "teacher": f"teacher:{tmp_path / 'log'}"},
        "tune": {
            "model": str(tiny_model),
            "train": [{"path": "synthesized", "weight": 1}, {"path": "facts", "weight": 3}],
            "rows": 8,
            "steps": 2,
            "batch_size": 4,
            "max_length": 512,
        },
        "grpo": {
            "questions": str(questions),
            "held_out": 2,
            "rewards": {"coin": 1.0},
            "training": training | {"max_completion_length": 4},
        },
        "eval": {
            "evaluations": ["questions"],
            "data": str(tmp_path / "data"),
            "models": {
                name: f"{spec},max_new_tokens=4"
                for name, spec in (("base", f"transformers:{tiny_model}"), ("bft", "tuned"), ("bft + grpo", "grpo"))
            },
        },
    }


def test_a_run_that_stops_in_any_step_goes_on_and_asks_nothing_twice(line, tmp_path, monkeypatch):
    config = RunConfig.model_validate(line)
    assert [(step.name, step.done) for step in plan_pipeline(config)] == [(name, False) for name in STEPS]

    class Stopped(Exception):
        pass

    def stopping(verb):
        """Do the step, and stop before the run has noted it."""

        def stopped(*args, **options):
            verb(*args, **options)
            raise Stopped

        return stopped

    for name in ("synthesize", "tune", "grpo", "evaluate"):
        with monkeypatch.context() as patch, pytest.raises(Stopped):
            patch.setattr(pipeline, name, stopping(getattr(pipeline, name)))
            run_pipeline(config)
    asked = (tmp_path / "log").read_text()
    page = run_pipeline(config)
    assert (tmp_path / "log").read_text() == asked
    assert all(step.done for step in plan_pipeline(config))
    out = page.parent
    frame = read_results(out / "results.parquet")
    assert set(frame[frame["kind"] == "subject"]["subject"]) == {"base", "bft", "bft + grpo"}
    folders = {kind: next(out.glob(f"{kind}-*")) for kind in ("synthesis", "tuned", "grpo")}
    report = json.loads((folders["tuned"] / "model" / "bftembed.json").read_text())["report"]
    n_written = len((folders["synthesis"] / "pairs.jsonl").read_text().splitlines())
    assert {name: counts["train"] for name, counts in report["sets"].items()} == {"synthesized": n_written, "facts": 8}
    assert json.loads((folders["grpo"] / "bftembed.json").read_text())["config"]["model"] == f"{folders['tuned']}/model"
    assert {"tuning", "GRPO"} <= {step.name for step in Manifest.load(out).steps}


@pytest.mark.parametrize(
    ("changes", "error", "named"),
    [
        ({"synthesize": None}, ValueError, "synthesize"),
        ({"tune": None}, ValueError, "grpo.model"),
        ({"synthesize": {"source": "x.tsv"}}, BftembedError, "teacher"),
        ({"synthesize": {"source": "x.tsv", "teacher": "facts", "out": "y"}}, UnknownNameError, "out"),
        ({"grpo": {"questions": "perturbqa-de-wrd"}}, UnknownNameError, "perturbqa-de-word"),
        ({"grpo": None}, BftembedError, "'grpo'"),
    ],
)
def test_what_does_not_fit_is_said_before_anything_runs(line, changes, error, named):
    with pytest.raises(error, match=named):
        run_pipeline(RunConfig.model_validate(line | changes))

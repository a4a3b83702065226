"""Reinforcement learning from questions with right answers (GRPO), measured before and after on held-out ones."""

from __future__ import annotations

import json
import math
import os
import random
import shutil
import time
from collections import Counter
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bftembed.config import GrpoConfig, load_config, save_config
from bftembed.errors import BftembedError, require
from bftembed.io import canonical_json, exclusive_lock, sha256_text, write_json
from bftembed.llm import model_from_spec
from bftembed.llm.base import Answer, Sampling
from bftembed.llm.chat import request_tokens
from bftembed.llm.models import quiet_transformers
from bftembed.llm.reasoning import read_answer
from bftembed.progress import silent
from bftembed.registry import Registry
from bftembed.tasks.llm.base import balanced_by_answer, chosen
from bftembed.tasks.llm.own import OwnQuestions
from bftembed.tasks.llm.run import evaluate_questions, evaluations_of
from bftembed.tuning.run import RECORD, begun, export_model, load_trainable, precision_of, run_identity
from bftembed.tuning.tagging import connective_spans, gene_spans

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import pandas as pd

    from bftembed.progress import Progress
    from bftembed.tasks.llm.base import Evaluation, Question
    from bftembed.tuning.grpo import Rewarding

    #: Question, answer (text and reasoning), and what the evaluation's `grade` says of it → reward.
    Reward = Callable[[Question, Answer, Mapping[str, Any]], float]

REWARDS = Registry(
    "reward",
    {name: f"bftembed.tasks.llm.grpo:{name}" for name in ("exact", "format", "coin")},
    group="bftembed.rewards",
)
#: Questions to which the untuned model's answers are sampled before training.
_START_GROUPS = 16
_CARD = """\
---
base_model: {config.model}
{licence}tags: [bftembed, grpo]
library_name: transformers
---

# {config.model}, tuned by GRPO

Made by `bftembed tune grpo` from rewards ({rewards}) of its answers to {n} questions of {config.questions}, in {steps}
steps; every setting, and what it was made of, is in `bftembed.json`. Texts of this model are its own claims: nobody
checked them.
"""


@dataclass(frozen=True)
class GrpoReport:
    """Report of a run of GRPO.

    Attributes
    ----------
    out, model
        Folders of the run and of the tuned model; ``transformers:FOLDER`` generates with that.
    steps, seconds
        Optimizer steps in all, and seconds of this call (0 when it had been finished before).
    questions
        Numbers of training questions (``train``), held-out ones (``held_out``), those whose prompt is too long, which
        are left out (``too_long``), and of each right answer among the training questions (``labels``).
    start
        The untuned model on a batch of groups: ``reward``, ``parse_rate``, and ``frac_reward_zero_std``, the share of
        groups in which all answers have the same reward, so that nothing is learnt from them.
    before, after, difference
        Accuracy on the held-out questions of the untuned and the tuned model, and their difference: value and ends of
        the 95 % interval (bootstrap over clusters of questions). None where they were not asked.
    baselines
        Accuracy of what is no model, such as the frequency of the gene, on the same questions.
    final
        The last measures of training, by the names in the log.
    warnings
        Questions that were left out, rewards that were equal for long.
    """

    out: str
    model: str
    steps: int
    seconds: float
    questions: dict[str, Any]
    start: dict[str, float]
    before: tuple[float, ...] | None = None
    after: tuple[float, ...] | None = None
    difference: tuple[float, ...] | None = None
    baselines: dict[str, float] = field(default_factory=dict)
    final: dict[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


def grpo(config: GrpoConfig | str | os.PathLike[str], *, progress: Progress = silent) -> GrpoReport:
    """Tune a language model by rewards of its answers (GRPO). A stopped run goes on from its last checkpoint.

    Run under torchrun or accelerate launch it is one of several ranks; rank 0 alone writes.

    Parameters
    ----------
    config
        A YAML file of the recipe grpo; see bftembed config show grpo.

        Also a `bftembed.config.GrpoConfig`. In ``config.out``: ``config.yaml``, ``checkpoints/``, ``start.json`` (the
        questions and the untuned model), ``log.json``, ``eval/`` (answers to the held-out questions), ``model/`` and
        ``report.json``.

    Other Parameters
    ----------------
    progress
        Called with the number of answers or steps done.

    Returns
    -------
    GrpoReport
        Also of a run that had been finished before; then nothing is trained.

    Raises
    ------
    BftembedError
        For questions that cannot be learnt from, a reward that fails (by name and question), a folder that holds
        another run, and what the trainer rejects.
    KeyboardInterrupt
        After SIGINT or SIGTERM, once the step is done and its checkpoint written.

    Notes
    -----
    Logged per step: ``reward`` and ``rewards/NAME/mean``; ``frac_reward_zero_std`` (share of groups without a
    difference of rewards); ``completions/mean_length`` in tokens and ``completions/clipped_ratio``; ``entropy``;
    ``kl`` where beta > 0; ``parse_rate``; ``share_LABEL``, the share of answers that name each right answer (one that
    goes to 0 or 1 is a collapse); ``entities`` and ``connectives`` per answer (`bftembed.tuning.tagging`). With
    ``eval_`` the same on held-out questions, every ``training.eval_every`` steps.
    """
    given: GrpoConfig = config if isinstance(config, GrpoConfig) else load_config(config, GrpoConfig)
    require("torch", "local")
    require("trl", "train")
    for name in given.rewards:
        REWARDS.load(name)
    out, started = Path(given.out), time.monotonic()
    main = int(os.environ.get("RANK", "0")) == 0
    with exclusive_lock(out / ".lock", holder=str(out)) if main else nullcontext():
        evaluation, training, held_out = _questions(given)
        content = [[q.id, q.request.content(), q.answer] for q in (*training, *held_out)]
        identity = run_identity(given, {"questions": sha256_text(canonical_json(content))})
        if begun(out, identity, GrpoConfig) and (out / "report.json").exists():
            return replace(_read_report(out / "report.json"), seconds=0.0)
        if main:
            save_config(given, out / "config.yaml")
            write_json(out / RECORD, identity)
        if not (out / "model" / RECORD).exists():
            _train(given, identity, evaluation, training, held_out, out, progress)
        if not main:
            return _read_report(out / "model" / RECORD)
        report = _read_report(out / "model" / RECORD)
        if report.before is not None:
            frame = _evaluate(given, {"after": str(out / "model")}, evaluation, held_out, out, progress)
            rows = frame[frame["subject"] == "after"]
            value = rows.iloc[0]
            compared = rows[rows["reference"] == "before"].iloc[0]
            report = replace(
                report,
                after=(value["value"], value["low"], value["high"]),
                difference=tuple(compared[f"difference{end}"] for end in ("", "_low", "_high")),
            )
        report = replace(report, seconds=round(time.monotonic() - started, 1))
        write_json(out / "report.json", asdict(report))
        return report


def _questions(config: GrpoConfig) -> tuple[Evaluation, list[Question], list[Question]]:
    """Return the evaluation, training questions and held-out ones."""
    name, seed = config.questions, config.training.seed
    evaluation: Evaluation
    if name.endswith(".jsonl"):
        evaluation, home = OwnQuestions(name), Path()
    else:
        evaluation, home = next(iter(evaluations_of([name], data=config.data).items()))
    training = evaluation.training_questions(home, config.n_questions, seed=seed, balanced=config.balanced)
    if not training:
        raise BftembedError(f'{name} has no training question (a row of a file needs "split": "train").')
    if any(not q.request.messages for q in training):
        raise BftembedError(f"{name} has no generated answer that could be rewarded; take {name}-word or another.")
    if not config.held_out:
        return evaluation, training, []
    rest = evaluation.questions(home)
    if not rest:
        raise BftembedError(f"{name} has no question that is not for training. Add some, or set held_out: 0.")
    n = config.held_out
    held_out = balanced_by_answer(rest, n, seed) if config.balanced else chosen(rest, n, seed)
    held_out = evaluation.prepare(held_out, home, {})
    learnt = {canonical_json(q.request.content()) for q in training}
    if both := [q.id for q in held_out if canonical_json(q.request.content()) in learnt]:
        raise BftembedError(f"{len(both)} held-out questions of {name} are training questions too (first: {both[0]}).")
    return evaluation, training, held_out


def _train(
    config: GrpoConfig,
    identity: dict[str, Any],
    evaluation: Evaluation,
    training: Sequence[Question],
    held_out: Sequence[Question],
    out: Path,
    progress: Progress,
) -> None:
    """Train and export; the report so far stands in the record of the model."""
    from bftembed.tuning.grpo import policy_arguments, train_policy

    started, precision = time.monotonic(), precision_of(config)
    watched = held_out if config.training.eval_every else []
    arguments = policy_arguments(config, out / "checkpoints", bf16=precision == "bf16", evaluates=bool(watched))
    model, tokenizer, local = load_trainable(config, precision)
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None) or 10**9
    room = min(config.training.max_prompt_length or 10**9, context - config.training.max_completion_length)
    fitting = [q for q in training if len(request_tokens(tokenizer, q.request, {})) <= room]
    too_long = len(training) - len(fitting)
    if not fitting:
        raise BftembedError(f"All {too_long} questions are longer than {room} tokens (training.max_prompt_length).")
    rewarding = _rewarding(config, evaluation, [*fitting, *held_out])
    counts = {
        "train": len(fitting),
        "held_out": len(held_out),
        "too_long": too_long,
        "labels": dict(Counter(q.answer for q in fitting).most_common(10)),
    }
    report = GrpoReport(str(out), str(out / "model"), 0, 0.0, counts, {})
    if "RANK" not in os.environ:  # of several ranks none may be away for long
        report = _start(config, report, evaluation, fitting, held_out, rewarding, out, progress)
    trainer, flat = train_policy(
        config,
        model,
        tokenizer,
        [q.request.messages for q in fitting],
        [q.request.messages for q in watched],
        rewarding,
        arguments,
        progress=progress,
    )
    log = [line for line in trainer.state.log_history if "reward" in line or "eval_reward" in line]
    left_out = f"{too_long} questions are longer than {room} tokens and were left out" if too_long else ""
    report = replace(
        report,
        steps=trainer.state.global_step,
        seconds=round(time.monotonic() - started, 1),
        final={name: value for line in log for name, value in line.items() if name not in ("step", "epoch")},
        warnings=tuple(filter(None, (left_out, flat))),
    )
    with quiet_transformers():
        trainer.save_model(str(out / "trained"))  # on every rank: shards may have to be gathered
    trainer.accelerator.wait_for_everyone()
    if trainer.accelerator.is_main_process:
        write_json(out / "log.json", log)
        record = {**identity, "base_licence": local.licence, "precision": precision, "report": asdict(report)}
        card = _CARD.format(
            config=config,
            licence=f"license: {local.licence.lower()}\n" if local.licence else "",
            rewards=", ".join(f"{weight:g} x {name}" for name, weight in config.rewards.items()),
            n=len(fitting),
            steps=report.steps,
        )
        export_model(out / "trained", local.path, config.lora is not None, record, card, out / "model")
        shutil.rmtree(out / "trained")
    trainer.accelerator.wait_for_everyone()


def _start(
    config: GrpoConfig,
    report: GrpoReport,
    evaluation: Evaluation,
    training: Sequence[Question],
    held_out: Sequence[Question],
    rewarding: dict[str, Rewarding],
    out: Path,
    progress: Progress,
) -> GrpoReport:
    """Say what training starts from: questions, the untuned model's spread of rewards, accuracy and baselines."""
    if held_out:
        frame = _evaluate(config, {"before": config.model}, evaluation, held_out, out, progress)
        row = frame[frame["subject"] == "before"].iloc[0]
        others = frame[frame["kind"] != "subject"]
        report = replace(
            report,
            before=(row["value"], row["low"], row["high"]),
            baselines=dict(zip(others["subject"], others["value"], strict=True)),
        )
    if (out / "start.json").exists() and any((out / "checkpoints").glob("checkpoint-*")):
        return replace(report, start=json.loads((out / "start.json").read_text(encoding="utf-8"))["start"])
    options, groups = config.training, range(min(_START_GROUPS, len(training)))
    sampling = Sampling(options.max_completion_length, options.temperature, seed=options.seed)
    requests = {
        f"{i}/{k}": replace(training[i].request, id=f"{i}/{k}", sampling=sampling, sample=k)
        for i in groups
        for k in range(options.num_generations)
    }
    model = model_from_spec(_spec(config, config.model))[0]
    written = {c.id: c.text for c in model.generate(list(requests.values()))}
    index = [int(id.partition("/")[0]) for id in requests]
    totals = [0.0] * len(index)
    measured: dict[str, float] = {}
    for name, function in rewarding.items():
        values, measures = function(index, [written[id] for id in requests])
        totals = [t + config.rewards[name] * v for t, v in zip(totals, values, strict=True)]
        measured |= measures
    of_group = [{round(t, 9) for t, i in zip(totals, index, strict=True) if i == group} for group in groups]
    start = {
        "reward": sum(totals) / len(totals),
        "frac_reward_zero_std": sum(len(found) == 1 for found in of_group) / len(of_group),
        **measured,
    }
    report = replace(report, start={name: round(value, 4) for name, value in start.items()})
    write_json(
        out / "start.json",
        {n: v for n, v in asdict(report).items() if n in ("questions", "start", "before", "baselines")},
    )
    known = {"untuned": report.before[0], **report.baselines} if report.before else {}
    note = [
        f"{len(training)} questions ({', '.join(f'{n} {label}' for label, n in report.questions['labels'].items())})",
        *(f"accuracy of {name} {value:.3f}" for name, value in known.items()),
        *(f"{name} {report.start[name]:.3f}" for name in ("reward", "frac_reward_zero_std", "parse_rate")),
    ]
    progress(len(requests), len(requests), ", ".join(note))
    return report


def _rewarding(config: GrpoConfig, evaluation: Evaluation, questions: Sequence[Question]) -> dict[str, Rewarding]:
    """Return the functions of the config's rewards; the first gives the measures of the answers too."""
    labels = sorted({q.answer for q in questions})
    labels = labels if len(labels) <= 5 else []

    def function(name: str, reward: Reward, measuring: bool) -> Rewarding:
        def rewarded(index: Sequence[int], texts: Sequence[str]) -> tuple[list[float], dict[str, float]]:
            values, parsed, contents = [], [], []
            for i, written in zip(index, texts, strict=True):
                question, (text, reasoning) = questions[i], read_answer(written)
                answer = Answer("", question.id, "", text, "", (), "", "", reasoning=reasoning)
                grade = evaluation.grade(question, [answer])
                try:
                    values.append(float(reward(question, answer, grade)))
                except Exception as err:
                    raise BftembedError(f"The reward {name!r} failed at the question {question.id}: {err!r}.") from err
                if not math.isfinite(values[-1]):
                    raise BftembedError(f"The reward {name!r} of an answer to {question.id} is {values[-1]}.")
                parsed.append(str(grade.get("parsed", "")))
                contents.append(f"{reasoning}\n{text}")
            n = len(values)
            measures = {"parse_rate": sum(map(bool, parsed)) / n} if measuring else {}
            if measuring:
                measures |= {f"share_{label}": sum(p.lower() == label.lower() for p in parsed) / n for label in labels}
                measures["entities"] = sum(len(gene_spans(text)) for text in contents) / n
                measures["connectives"] = sum(len(connective_spans(text)) for text in contents) / n
            return values, measures

        return rewarded

    return {name: function(name, REWARDS.load(name), i == 0) for i, name in enumerate(config.rewards)}


def _evaluate(
    config: GrpoConfig,
    models: dict[str, str],
    evaluation: Evaluation,
    held_out: Sequence[Question],
    out: Path,
    progress: Progress,
) -> pd.DataFrame:
    """Return the rows of the main score over all held-out questions; `models` are those that are asked now."""
    specs = {name: _spec(config, model) for name, model in models.items()}
    frame = evaluate_questions(
        {evaluation: held_out}, model=specs, out=out / "eval", data=config.data, progress=progress
    )
    frame = frame[(frame["split"] == "all") & (frame["metric"] == evaluation.metrics[0].name)]
    if (n := frame["n"].iloc[0] + frame["n_missing"].iloc[0]) != len(held_out):
        raise BftembedError(
            f"{out / 'eval'} holds {n} questions in place of {len(held_out)}. Remove it, or change out."
        )
    return frame


def _spec(config: GrpoConfig, model: str) -> str:
    engine, options = "" if model.startswith("builtin:") else "transformers:", config.training
    return f"{engine}{model},dtype={options.precision},max_new_tokens={options.max_completion_length}"


def _read_report(path: Path) -> GrpoReport:
    held: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    held = held.get("report", held)
    values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in held.items()}
    return GrpoReport(**values)


# -- rewards ----------------------------------------------------------------------------------------------


def exact(question: Question, answer: Answer, grade: Mapping[str, Any]) -> float:
    """Return 1 for the right answer, else 0: the sparse binary reward."""
    return float(grade["accuracy"] == 1)


def format(question: Question, answer: Answer, grade: Mapping[str, Any]) -> float:
    """Return 1 for an answer that can be read, right or wrong, else 0."""
    return float(bool(grade.get("parsed")))


def coin(question: Question, answer: Answer, grade: Mapping[str, Any]) -> float:
    """Return 0 or 1 at random, as a control: there is nothing to learn from it."""
    return float(random.random() < 0.5)

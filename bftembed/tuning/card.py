"""The card of a tuned model: what it was made from, by what objective, and how training went."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from bftembed.config import TuneConfig

_SHOWN = 10


def model_card(config: TuneConfig, record: dict[str, Any], log: list[dict[str, Any]]) -> str:
    """Return the card as Markdown with the metadata block that model hubs read.

    Parameters
    ----------
    config
        Of the run.
    record
        What ``bftembed.json`` holds: data hashes, model revision, report.
    log
        Of the training; ten lines of it are shown.
    """
    objective, training = config.objective, config.training
    licence = f"license: {record['base_licence'].lower()}\n" if record.get("base_licence") else ""
    about = [
        ("base model", f"{config.model} ({record['model_revision']})"),
        ("objective", f"`{objective.name}` of Balanced Fine-Tuning, arXiv 2511.21075"),
        ("window g", f"{objective.window} tokens"),
        ("sample coefficient", objective.sample_coefficient),
        ("eps, clip, gamma", f"{objective.eps:g}, {objective.clip}, {objective.gamma:g}"),
        ("trained", "all weights" if config.lora is None else f"LoRA, rank {config.lora.rank}, merged"),
        ("rows", ", ".join(f"{n} {kind}" for kind, n in record["report"]["rows"].items())),
        *((f"sha256 of data.{name}", f"`{digest}`") for name, digest in record["data_sha256"].items()),
        ("steps", f"{record['report']['steps']} of {training.batch_size} x {training.accumulate} rows per device"),
        ("learning rate", f"{training.learning_rate:g}, {training.schedule}, warm-up {training.warmup_ratio:g}"),
        ("precision", record["precision"]),
    ]
    lines = [
        "---",
        f"base_model: {config.model}",
        f"{licence}tags: [bftembed, balanced-fine-tuning, {objective.name}]",
        "library_name: transformers",
        "---",
        "",
        f"# {config.model}, tuned with {objective.name}",
        "",
        "Made by `bftembed tune`; every setting is in `bftembed.json`. Texts of this model are its own claims: nobody "
        "checked them.",
        "",
        "| | |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in about),
        "",
        "## Training",
        "",
        "`loss` is the objective's and cannot be compared between objectives; `nll` is plain, in nats per token.",
        "",
        *_table(log),
        "",
        "![Curves](curves.png)",
    ]
    return "\n".join(lines) + "\n"


def _table(log: list[dict[str, Any]]) -> list[str]:
    columns = ("step", "loss", "nll", "eval_nll", "mean_token_weight", "mean_sample_coefficient", "sft_mass_kept")
    steps: dict[int, dict[str, Any]] = {}
    for line in log:
        steps.setdefault(line["step"], {}).update(line)
    numbers = sorted(steps)
    every = max(1, -(-len(numbers) // _SHOWN))
    shown = sorted({*numbers[::every], *numbers[-1:]})
    cell = {
        s: [f"{steps[s][c]:.4g}" if isinstance(steps[s].get(c), float) else str(steps[s].get(c, "")) for c in columns]
        for s in shown
    }
    return [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns), *(f"| {' | '.join(cell[s])} |" for s in shown)]


def draw_curves(log: list[dict[str, Any]], path: Path) -> None:
    """Draw loss and plain NLL over the steps as a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 2.6), layout="constrained")
    for axes, names in zip(figure.subplots(1, 2), (("loss",), ("nll", "eval_nll")), strict=True):
        for name in names:
            points = [(line["step"], line[name]) for line in log if name in line]
            if points:
                axes.plot(*zip(*points, strict=True), label=name, marker="." if len(points) < 30 else "")
        axes.set_xlabel("step")
        axes.legend(frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)

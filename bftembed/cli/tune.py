"""`bftembed tune …`."""

from __future__ import annotations

from typing import Any

from bftembed.cli._verbs import Shown, command, group


def _tuned(report: Any, _: Any) -> Shown:
    return Shown(errors=[f"warning: {warning}" for warning in report.warnings])


def _paired(pairs: list[Any], given: dict[str, Any]) -> Shown:
    return Shown(data={"pairs": len(pairs), "out": given["out"]})


def _diagnosed(report: Any, _: Any) -> Shown:
    def number(x: float | None, form: str) -> str:
        return "–" if x is None else format(x, form)

    lines = [f"{'tag':12}{'low in A':>10}{'low in B':>10}{'share A':>9}{'share B':>9}{'B / A':>8}   95 % interval"]
    for e in report.result.enrichment:
        shares = f"{number(e.share_sparse, '.2%'):>9}{number(e.share_dense, '.2%'):>9}{number(e.ratio, '.2f'):>8}"
        interval = f"{number(e.low, '.2f')} to {number(e.high, '.2f')}"
        lines.append(f"{e.tag:12}{e.low_sparse:>10,}{e.low_dense:>10,}{shares}   {interval}")
    counts = report.result.counts
    lines += [
        "",
        f"{counts['windows_sparse']:,} windows in A and {counts['windows_dense']:,} in B of {counts['windows']:,}, "
        f"from {counts['responses']:,} responses with {counts['tokens']:,} tokens",
        "low: distinct low-confidence tokens; shares count a token once per window",
        "interval: bootstrap over responses; –: unbounded or unknown",
    ]
    if report.too_long:
        lines.append(f"left out: {report.too_long} rows, longer than the model's context")
    return Shown([*lines, str(report.out)])


def _exported(done: Any, _: Any) -> Shown:
    files = [f.name for f in done.files]
    data = {"folder": str(done.folder), "files": files, "differences": list(done.differences)}
    return Shown([f"{done.folder}: {', '.join(files)}", *done.differences, f"run it there: {done.command}"], data)


_run = command("bftembed.tuning.stage:tune", _tuned, bar="tuning", bar_with_json=True)

app = group(
    "tune",
    _run,
    run=_run,
    pairs=command("bftembed.tuning.sources:gene_texts", _paired, required=("out",)),
    diagnose=command("bftembed.tasks.uncertainty:diagnose_responses", _diagnosed, bar="responses"),
    llamafactory=command("bftembed.tuning.llamafactory:export_llamafactory", _exported),
)

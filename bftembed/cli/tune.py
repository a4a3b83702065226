"""`bftembed tune …`."""

from __future__ import annotations

from typing import Any

from bftembed.cli._verbs import Shown, command, field_lines, group


def _tuned(report: Any, _: Any) -> Shown:
    return Shown(errors=[f"warning: {warning}" for warning in report.warnings])


def _paired(pairs: list[Any], given: dict[str, Any]) -> Shown:
    return Shown(data={"pairs": len(pairs), "out": given["out"]})


def _diagnosed(report: Any, _: Any) -> Shown:
    import pandas as pd

    table = pd.DataFrame([vars(one) for one in report.result.enrichment])
    lines = table.to_string(index=False, na_rep="–", float_format="{:.3g}".format).splitlines()
    counts = {**report.result.counts, "left_out_too_long": report.too_long, "out": str(report.out)}
    return Shown([*lines, "(low, high: 95 % bootstrap interval of the ratio over responses)", *field_lines(counts)])


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

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

    table = pd.DataFrame(report.result.enrichment)
    lines = table.to_string(index=False, na_rep="–", float_format="{:.3g}".format).splitlines()
    counts = {**report.result.counts, "left_out_too_long": report.too_long, "out": str(report.out)}
    lines.append("(low, high: 95 % bootstrap interval of the ratio over responses)")
    return Shown([*lines, *filter(None, [report.result.note]), *field_lines(counts)])


_run = command("bftembed.tuning.run:tune", _tuned, bar="tuning", bar_with_json=True)

app = group(
    "tune",
    _run,
    run=_run,
    grpo=command("bftembed.tasks.llm.grpo:grpo", _tuned, bar="grpo", bar_with_json=True),
    pairs=command("bftembed.tuning.data:gene_texts", _paired, required=("out",)),
    diagnose=command("bftembed.tasks.uncertainty:diagnose_responses", _diagnosed, bar="responses"),
)

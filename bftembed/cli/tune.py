"""`bftembed tune …`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from bftembed.cli._verbs import FAILED_ITEMS, Shown, command, field_lines, group


def _tuned(report: Any, _: Any) -> Shown:
    return Shown(errors=[f"warning: {warning}" for warning in report.warnings])


def _paired(pairs: list[Any], given: dict[str, Any]) -> Shown:
    return Shown(data={"pairs": len(pairs), "out": given["out"]})


def _synthesized(report: Any, _: Any) -> Shown:
    data = asdict(report)
    hints = [f"{n} failed, such as {where}: {message}" for message, n, where in report.failures[:5]]
    hints += [f"cannot be read: {file}: {why}" for file, why in report.unreadable.items()]
    hints += ["--retry-failed asks again where a request failed"] if report.failures else []
    lines = field_lines({name: value for name, value in data.items() if name not in ("failures", "unreadable")})
    return Shown(lines, data, FAILED_ITEMS if report.failures or report.unreadable else 0, hints)


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
    synthesize=command("bftembed.tuning.synthesis:synthesize", _synthesized, bar="synthesize", bar_with_json=True),
    diagnose=command("bftembed.tasks.uncertainty:diagnose_responses", _diagnosed, bar="responses"),
)

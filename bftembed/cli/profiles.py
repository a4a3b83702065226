"""`bftembed profiles …`."""

from __future__ import annotations

from typing import Any

from bftembed.cli._verbs import FAILED_ITEMS, Shown, command, field_lines, group
from bftembed.progress import duration


def _generated(report: Any, _: Any) -> Shown:
    if report.estimate is not None:
        data = report.estimate.to_dict()
        time = {"time": duration(report.estimate.seconds)}
        return Shown(field_lines({name: value for name, value in data.items() if name != "seconds"} | time), data)
    hints = ["bftembed genes resolve shows why names are skipped"] if report.skipped else []
    hints += ["--retry-failed tries failed profiles again"] if report.failed else []
    return Shown(code=FAILED_ITEMS if report.skipped or report.failed else 0, errors=hints)


def _shown(found: Any, _: Any) -> Shown:
    if not found.genes:
        return Shown()
    lines = []
    for p in found.profiles:
        lines += [f"{p.entity}  [{', '.join(p.marks) or 'ok'}]  {p.generator}  {p.prompt}", p.text or p.error, ""]
    lines += [f"no profile: {', '.join(found.missing)}"] if found.missing else []
    return Shown(lines, code=FAILED_ITEMS if found.missing else 0)


def _counted(found: dict[str, Any], _: Any) -> Shown:
    return Shown(code=FAILED_ITEMS if found["failed"] or found["without_profile"] else 0)


def _reported(report: Any, _: Any) -> Shown:
    lines = list(report.about)
    for heading, rows in report.blocks:
        lines += ["", heading, *(f"  {name:17}{value}" for name, value in rows)]
    return Shown([*lines, *(["", str(report.out)] if report.out else [])])


def _scored(found: Any, _: Any) -> Shown:
    from bftembed.tasks.profile_quality import source_of

    lines = [f"{found.genes:,} genes, covered by every origin; {found.left_out:,} left out"]
    for protocol in dict.fromkeys(s.protocol for s in found.scores):
        here = [s for s in found.scores if s.protocol == protocol]
        task = "names of the gene" if protocol == "names" else f"its summary among {found.candidates:,}, {protocol}"
        lines += ["", task]
        for who in dict.fromkeys(source_of(s) for s in here):
            lines.append(f"  {who}")
            for s in (s for s in here if source_of(s) == who):
                form = {"median-rank": ",.1f", "mean-reciprocal-rank": ".4f"}.get(s.metric, ".3f")
                told = f"{s.value:{form}}  ({s.low:{form}} to {s.high:{form}})" if s.n else "no gene has one"
                lines.append(f"    {s.metric:24}{told}  {s.n:,} genes")
    lines += ["", "in brackets: 95 % bootstrap interval over genes; shuffled: mean over the seeds"]
    return Shown([*lines, *([str(found.out)] if found.out else [])])


app = group(
    "profiles",
    generate=command("bftembed.profiles.runner:generate_profiles", _generated, bar="profiles", bar_with_json=True),
    export=command("bftembed.profiles.export:export_profiles"),
    show=command("bftembed.profiles.show:show_profiles", _shown, positional=2),
    merge=command("bftembed.profiles.merge:merge_stores"),
    status=command("bftembed.profiles.show:store_status", _counted),
    report=command("bftembed.profiles.report:report_profiles", _reported),
    quality=command("bftembed.tasks.profile_quality:score_profiles", _scored),
)

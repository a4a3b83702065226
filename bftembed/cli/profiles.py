"""`bftembed profiles …`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from bftembed.cli._verbs import FAILED_ITEMS, Shown, command, field_lines, group, scores_of, text_of
from bftembed.progress import duration


def _generated(report: Any, _: Any) -> Shown:
    if report.estimate is not None:
        data = asdict(report.estimate)
        return Shown(field_lines(data | {"seconds": duration(report.estimate.seconds)}), data)
    hints = ["bftembed genes resolve shows why names are skipped"] if report.skipped else []
    hints += [f"{n} failed, such as {entity}: {message}" for message, n, entity in report.failures[:5]]
    hints += ["--retry-failed tries failed profiles again"] if report.failed else []
    useless = report.entities > 0 and not report.marks["ok"]
    if useless:
        flags = ", ".join(f"{n} {flag}" for flag, n in report.marks.items() if n)
        hints.append(f"no profile can be used as it is ({flags}): bftembed profiles show {report.out} GENE shows one")
    return Shown(code=FAILED_ITEMS if report.skipped or report.failed or useless else 0, errors=hints)


def _shown(found: dict[str, Any], _: Any) -> Shown:
    lines = []
    for p in found["profiles"]:
        flags = ", ".join(p["marks"]) or "ok"
        lines += [f"{p['entity']}  [{flags}]  {p['generator']}  {p['prompt']}", p["text"] or p["error"], ""]
    lines += [f"no profile: {', '.join(found['missing'])}"] if found["missing"] else []
    return Shown(lines, code=FAILED_ITEMS if found["missing"] else 0)


def _counted(found: dict[str, Any], _: Any) -> Shown:
    return Shown(code=FAILED_ITEMS if found["failed"] or found["without_profile"] else 0)


def _reported(found: dict[str, Any], _: Any) -> Shown:
    lines = field_lines({"names": found["names"]})
    for o in found["origins"]:
        heading = f"{o['kind']}: {o['prompt']} by {o['generator']} ({o['generator_id']})"
        lines += ["", heading, *field_lines(dict(list(o.items())[4:]), "  ")]
    return Shown(lines)


def _scored(frame: Any, given: dict[str, Any]) -> Shown:
    lines = [text_of(frame)[1], *([str(given["out"])] if given.get("out") else [])]
    return Shown(lines, {"scores": scores_of(frame)})


app = group(
    "profiles",
    generate=command("bftembed.profiles.generate:generate_profiles", _generated, bar="profiles", bar_with_json=True),
    export=command("bftembed.profiles.selection:export_profiles"),
    show=command("bftembed.profiles.report:show_profiles", _shown, positional=2),
    merge=command("bftembed.profiles.generate:merge_stores"),
    status=command("bftembed.profiles.report:store_status", _counted),
    report=command("bftembed.profiles.report:report_profiles", _reported),
    quality=command("bftembed.tasks.profile_quality:score_profiles", _scored),
)

"""`bftembed profiles …`."""

from __future__ import annotations

from typing import Any

from bftembed.cli._verbs import FAILED_ITEMS, Shown, command, group
from bftembed.progress import duration


def _generated(report: Any, _: Any) -> Shown:
    if report.estimate is not None:
        return _estimated(report.estimate)
    resolution = ", ".join(f"{count} {status}" for status, count in report.resolution.items())
    marks = ", ".join(f"{count} {mark}" for mark, count in report.marks.items())
    lines = [
        f"names: {report.listed} ({resolution}; {report.duplicates} duplicates)",
        f"profiles: {report.entities} ({report.written} written now, {report.already_stored} from earlier runs)",
        f"screening: {marks}",
    ]
    if report.tokens and report.seconds:
        lines.append(f"speed: {report.tokens / report.seconds:.0f} tokens/s over {report.seconds:.0f} s")
    if report.skipped:
        lines.append(f"skipped, unresolved: {_some(report.skipped)} (bftembed genes resolve shows why)")
    if report.failed:
        lines.append(f"failed: {_some(report.failed)} (--retry-failed tries them again)")
    return Shown([*lines, f"store: {report.out}"], code=FAILED_ITEMS if report.skipped or report.failed else 0)


def _estimated(found: Any) -> Shown:
    most = found.most_completion_tokens
    answers = f"at most {most:,} of answers" if most is not None else "no limit on answers"
    cost = "no price known for this generator"
    if found.price is not None and found.most_cost is not None:
        cost = f"at most ${found.most_cost:,.2f} (${found.price[0]:g} and ${found.price[1]:g} per million tokens)"
    lines = [
        f"profiles: {found.entities} ({found.to_write} to write, {found.already_stored} stored already)",
        f"tokens: about {found.prompt_tokens:,} of prompts, {answers}",
        f"cost: {cost}",
        f"time: {duration(found.seconds)}",
    ]
    return Shown(lines, found.to_dict())


def _some(names: tuple[str, ...], n: int = 8) -> str:
    return ", ".join(names[:n]) + (f", … ({len(names)} in all)" if len(names) > n else "")


def _shown(found: Any, _: Any) -> Shown:
    if not found.genes:
        told = found.to_dict()
        lines = [f"names asked for: {found.listed}", f"profiles: {told['profiles']}"]
        lines += [f"  {mark}: {count}" for mark, count in told["marks"].items()]
        return Shown([*lines, *(f"generator: {spec}" for spec in found.generators)])
    lines = []
    for p in found.profiles:
        lines += [f"{p.entity}  [{', '.join(p.marks) or 'ok'}]  {p.generator}  {p.prompt}", p.text or p.error, ""]
    lines += [f"no profile: {', '.join(found.missing)}"] if found.missing else []
    return Shown(lines, code=FAILED_ITEMS if found.missing else 0)


def _counted(found: dict[str, Any], _: Any) -> Shown:
    lines = [
        f"names: {sum(found['names'].values())} ({', '.join(f'{n} {s}' for s, n in found['names'].items())})",
        f"profiles: {found['profiles']} of {found['entities']} entities, {found['failed']} failed, "
        f"{found['without_profile']} without one",
        f"tokens: {found['prompt_tokens']:,} of prompts, {found['completion_tokens']:,} of answers",
        *(f"{origin['prompt']} by {origin['generator']}: {origin['profiles']}" for origin in found["origins"]),
    ]
    return Shown(lines, code=FAILED_ITEMS if found["failed"] or found["without_profile"] else 0)


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
    export=command(
        "bftembed.profiles.export:export_profiles",
        lambda found, _: Shown([f"{found['profiles']} profiles: {found['out']}", f"card: {found['card']}"]),
    ),
    show=command("bftembed.profiles.show:show_profiles", _shown, positional=2),
    merge=command(
        "bftembed.profiles.merge:merge_stores",
        lambda found, _: Shown(
            [f"{found.added} profiles added, {found.same} were there already", f"store: {found.out}"]
        ),
    ),
    status=command("bftembed.profiles.show:store_status", _counted),
    report=command("bftembed.profiles.report:report_profiles", _reported),
    quality=command("bftembed.tasks.profile_quality:score_profiles", _scored),
)

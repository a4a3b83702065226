"""`bftembed export …`."""

from __future__ import annotations

from typing import Any

from bftembed.cli._verbs import FAILED_ITEMS, Shown, command, group


def _exported(done: Any, _: Any) -> Shown:
    from bftembed.export.state import summary

    return Shown([*summary(done), f"written: {done.out}"])


def _checked(found: list[Any], given: dict[str, Any]) -> Shown:
    from bftembed.export.check import has_failures, lines

    failed = has_failures(found)
    data = {"folder": given["folder"], "ok": not failed, "findings": [one.as_dict() for one in found]}
    return Shown(list(lines(found)), data, FAILED_ITEMS if failed else 0)


app = group(
    "export",
    state=command("bftembed.export.state:export_state", _exported, bar="cells"),
    check=command("bftembed.export.check:check_state", _checked),
)

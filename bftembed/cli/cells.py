"""`bftembed cells …`."""

from __future__ import annotations

from typing import Any

from bftembed.cli._verbs import ERROR, Shown, command, field_lines, group


def _checked(found: Any, _: Any) -> Shown:
    lines = field_lines({name: value for name, value in found.as_dict().items() if name != "problems"})
    return Shown(lines, code=0 if found.ok else ERROR, errors=[f"error: {problem}" for problem in found.problems])


def _sentences(report: Any, _: Any) -> Shown:
    return Shown(report, {"sentences": report}) if isinstance(report, list) else Shown()


app = group(
    "cells",
    embed=command("bftembed.cells.embed:embed_cells", bar="cells"),
    check=command("bftembed.cells.check:check_cells", _checked),
    merge=command("bftembed.cells.merge:merge_shards", bar="cells"),
    sentences=command("bftembed.cells.sentences:embed_cells_as_sentences", _sentences, bar="cells"),
    umap=command("bftembed.maps:map_cells", bar="maps"),
)

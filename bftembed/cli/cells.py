"""`bftembed cells …`."""

from __future__ import annotations

from typing import Any

from bftembed.cli._verbs import Shown, command, group


def _sentences(report: Any, _: Any) -> Shown:
    return Shown(report, {"sentences": report}) if isinstance(report, list) else Shown()


app = group(
    "cells",
    embed=command("bftembed.cells.embed:embed_cells", bar="cells"),
    merge=command("bftembed.cells.shards:merge_shards", bar="cells"),
    sentences=command("bftembed.cells.sentences:embed_cells_as_sentences", _sentences, bar="cells"),
    umap=command("bftembed.maps:map_cells", bar="maps"),
)

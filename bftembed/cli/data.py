"""`bftembed data …`."""

from __future__ import annotations

from typing import Any

from bftembed.cli._verbs import FAILED_ITEMS, Shown, columns, command, group


def _listed(files: list[Any], _: Any) -> Shown:
    table = [("NAME", "WHERE", "LICENSE", "WHAT")]
    for one in files:
        what = one.entry.description.partition(". ")[0].rstrip(".")
        table.append((one.entry.name, str(one.path or one.status), one.entry.licence, f"{what}."))
    return Shown(columns(table), {"files": [one.to_dict() for one in files]})


def _fetched(files: list[Any], _: Any) -> Shown:
    rows = [one.to_dict() for one in files]
    lines = []
    for row in rows:
        if row["path"] is not None:
            lines += [row["path"], *(f"  {key}: {row[key]}" for key in ("sha256", "licence", "citation"))]
    errors = [f"error: {row['error']}" for row in rows if row["error"]]
    return Shown(lines, {"files": rows}, FAILED_ITEMS if errors else 0, errors)


app = group(
    "data",
    list=command("bftembed.datasets.fetch:list_files", _listed),
    get=command("bftembed.datasets.fetch:fetch_files", _fetched, bar="download", bar_with_json=True),
    path=command("bftembed.datasets.fetch:locate_file", lambda file, _: Shown([str(file.path)])),
)

"""What an export is judged by: columns, control, output space, embeddings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Expected:
    """Columns of ``.obs``, the label of controls, the output space, keys of ``.obsm`` that must be there."""

    pert: str
    cell_type: str
    batch: str
    control: str
    output_space: str
    embed_keys: tuple[str, ...]


def expected_of(asked: dict[str, str | None], manifest: dict[str, Any], scripts: dict[str, dict[str, str]]) -> Expected:
    """Return what a folder is judged by: as asked, else as its manifest says, its scripts, or STATE's usual names."""
    columns = manifest.get("columns")
    columns = columns if isinstance(columns, dict) else {}
    known = {"pert_col": columns.get("pert"), "cell_type_key": columns.get("cell_type")}
    known |= {"batch_col": columns.get("batch"), "control_pert": columns.get("control")}
    known |= {"output_space": manifest.get("output_space")}
    usual = {
        "pert_col": "gene",
        "cell_type_key": "cell_type",
        "batch_col": "gem_group",
        "control_pert": "non-targeting",
    }
    usual |= {"output_space": "gene"}

    def value(name: str) -> str:
        told = [one.get(f"data.kwargs.{name}") for one in scripts.values()]
        choice = [asked[name], known[name], *told, usual[name]]
        return next(x for x in choice if isinstance(x, str) and x)

    keys = manifest.get("embed_keys") or [k for x in scripts.values() if (k := x.get("data.kwargs.embed_key"))]
    named = [str(key) for key in keys if "$" not in str(key)] if isinstance(keys, list) else []
    return Expected(
        pert=value("pert_col"),
        cell_type=value("cell_type_key"),
        batch=value("batch_col"),
        control=value("control_pert"),
        output_space=value("output_space"),
        embed_keys=tuple(dict.fromkeys(named)),
    )

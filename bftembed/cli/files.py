"""`bftembed config …`, `bftembed data …` and `bftembed export …`."""

from __future__ import annotations

from typing import Any

from bftembed.cli._verbs import FAILED_ITEMS, Shown, columns, command, group


def _init(made: Any, _: Any) -> Shown:
    if isinstance(made, dict):
        about = {name: file.read_text(encoding="utf-8").splitlines()[0].lstrip("# ") for name, file in made.items()}
        width = max(map(len, about))
        return Shown([f"{name:<{width}}  {line}" for name, line in about.items()], {"configs": list(about)})
    return Shown([str(made), f"next: bftembed run {made} --dry-run"], {"out": str(made)})


def _show(config: Any, _: Any) -> Shown:
    from bftembed.config import dump_config

    return Shown([dump_config(config).rstrip()], config if isinstance(config, dict) else config.model_dump())


def _check(config: Any, given: dict[str, Any]) -> Shown:
    recipe = config["recipe"] if isinstance(config, dict) else config.recipe
    return Shown([f"{given['path']}: valid"], {"file": given["path"], "recipe": recipe, "ok": True})


config = group(
    "config",
    init=command("bftembed.config.loading:init_config", _init),
    show=command("bftembed.config.loading:load_config", _show),
    check=command("bftembed.config.loading:load_config", _check),
)


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


def _found(path: Any, given: dict[str, Any]) -> Shown:
    return Shown([str(path)], {"name": given["name"], "path": str(path)})


data = group(
    "data",
    list=command("bftembed.datasets.fetch:list_files", _listed),
    get=command("bftembed.datasets.fetch:fetch_files", _fetched),
    path=command("bftembed.datasets.fetch:find_file", _found),
)


def _state_exported(done: Any, _: Any) -> Shown:
    return Shown([*done.lines(), f"written: {done.out}"])


def _state_checked(found: list[Any], given: dict[str, Any]) -> Shown:
    failed = any(one.level == "FAIL" for one in found)
    data = {"folder": given["folder"], "ok": not failed, "findings": [one.as_dict() for one in found]}
    lines = [str(one) for one in found] or ["ok: nothing that STATE would go wrong with silently"]
    return Shown(lines, data, FAILED_ITEMS if failed else 0)


export = group(
    "export",
    state=command("bftembed.export.state:export_state", _state_exported, bar="cells"),
    check=command("bftembed.export.check:check_state", _state_checked),
)

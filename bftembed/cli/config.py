"""`bftembed config …`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bftembed.cli._verbs import Shown, command, group

if TYPE_CHECKING:
    import os
    from pathlib import Path


def init(name: str | None = None, *, out: str | os.PathLike[str] | None = None) -> Path | dict[str, Path]:
    """Copy a commented config that comes with the package; without a name, list them.

    Parameters
    ----------
    name
        Name of the config: my_data for one's own h5ad, demo, profiles, bench_clustering, …
    out
        File to write. By default NAME.yaml.
    """
    from bftembed.config import init_config, templates

    return templates() if name is None else init_config(name, out=out)


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


app = group(
    "config",
    init=command("bftembed.cli.config:init", _init),
    show=command("bftembed.config.loading:load_config", _show),
    check=command("bftembed.config.loading:load_config", _check),
)

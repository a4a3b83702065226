"""`bftembed config …`."""

from __future__ import annotations

from typing import Any

from bftembed.cli._verbs import Shown, command, group


def _show(config: Any, _: Any) -> Shown:
    from bftembed.config import dump_config

    return Shown([dump_config(config).rstrip()], config.model_dump())


def _check(config: Any, given: dict[str, Any]) -> Shown:
    file = given["path"]
    return Shown([f"{file}: valid"], {"file": file, "recipe": config.recipe, "ok": True})


app = group(
    "config",
    show=command("bftembed.config.loading:show_config", _show),
    check=command("bftembed.config.loading:load_config", _check),
)

"""`bftembed config …`: look at and check YAML files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from bftembed.cli.common import JsonOption, finish

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Show and check config files.")

FileArgument = Annotated[Path, typer.Argument(metavar="FILE", help="A YAML file.")]


@app.command("show")
def show(file: FileArgument, as_json: JsonOption = False) -> None:
    """Print a config with every default written out; FILE may be the name of a recipe (demo, tune)."""
    from bftembed.config import RECIPES, TuneConfig, dump_config, load_config
    from bftembed.config.tune import DataConfig

    config: Any
    if str(file) == "tune" and not file.exists():
        config = TuneConfig(data=DataConfig(train="train.jsonl"))
    else:
        config = RECIPES[str(file)]() if str(file) in RECIPES and not file.exists() else load_config(file)
    finish(config.model_dump(), [dump_config(config).rstrip()], as_json=as_json)


@app.command("check")
def check(file: FileArgument, as_json: JsonOption = False) -> None:
    """Say whether a config is right, or what is wrong with which key."""
    from bftembed.config import load_config

    config = load_config(file)
    finish({"file": str(file), "recipe": config.recipe, "ok": True}, [f"{file}: right"], as_json=as_json)

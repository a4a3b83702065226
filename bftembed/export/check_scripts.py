"""Rules for shell scripts that call ``state tx train``."""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING

from bftembed.errors import examples
from bftembed.export.findings import FAIL, WARN, Finding

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from bftembed.export.check_cells import CellFile

#: An override → its value; where one occurs several times the last, as hydra takes it.
Overrides = dict[str, str]

_OVERRIDE = re.compile(
    r"""[("']*\+{0,2}((?:data|model|training)(?:\.\w+)+|model|use_wandb|output_dir)=(.*)""", re.DOTALL
)
_NEEDED = {
    "data.kwargs.output_space": "its default is all",
    "data.kwargs.embed_key": "its default is none: expression itself",
    "data.kwargs.control_pert": "its default is DMSO_TF, which would make controls a perturbation",
    "data.kwargs.toml_config_path": "without splits nothing is loaded",
}
_WANTED = {
    "data.kwargs.pert_col": "gene",
    "data.kwargs.cell_type_key": "cell_type",
    "data.kwargs.batch_col": "gem_group",
    "data.kwargs.num_workers": "12",
    "data.kwargs.perturbation_features_file": "none: one-hot",
    "model.kwargs.cell_set_len": "512 cells: shorter sets are filled up by repeats",
    "use_wandb": "true",
    "model": "state",
}


def overrides_in(text: str) -> Overrides:
    """Find the overrides of hydra in a script; nothing of it is run. Empty for one that does not train."""
    code = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    if not re.search(r"\btx\s+train\b", code):
        return {}
    code = code.replace("\\\n", " ")
    try:
        words = shlex.split(code)
    except ValueError:  # a quotation mark without its partner, in a line of another kind
        words = code.split()
    found = (_OVERRIDE.fullmatch(word) for word in words)
    return {match[1]: _bare(match[2]) for match in found if match}


def _bare(value: str) -> str:
    if value[:1] in ("'", '"') and value[:1] in value[1:]:
        return value[1 : value.rindex(value[0])].replace("\\'", "'")
    return value.strip("\"')")


def check_script(name: str, overrides: Overrides, root: Path, cells: Sequence[CellFile]) -> list[Finding]:
    """Check the overrides of one script against the cells."""
    found: list[Finding] = []
    if not overrides:
        return found

    def fail(what: str, remedy: str) -> None:
        found.append(Finding(FAIL, name, what, remedy))

    if overrides.get("data.kwargs.output_space") == "embedding":
        fail(
            "output_space=embedding: signed vectors go through a ReLU, and are scored clipped to [0, 14]",
            "Use gene or all",
        )
    for key, why in _NEEDED.items():
        if not overrides.get(key):
            fail(f"{key} is not given; {why}", f"Add {key}=…")
    for key, default in _WANTED.items():
        if key not in overrides:
            found.append(Finding(WARN, name, f"{key} is not given; STATE's default is {default}", f"Add {key}=…"))
    has_decoder = overrides.get("model.kwargs.gene_decoder_bool", "").lower()
    if (overrides.get("model") == "state_sm" and has_decoder != "true") or has_decoder == "false":
        fail("the model has no decoder to genes: predict will fail", "Use model=state, or gene_decoder_bool=true")
    control = overrides.get("data.kwargs.control_pert", "")
    if control and "$" not in control and cells and not any(control in one.labels for one in cells):
        fail(f"the control {control!r} is no label of the cells", "Write control_pert as it stands in the data")
    key = overrides.get("data.kwargs.embed_key", "")
    lacking = [one.name for one in cells if key not in one.obsm] if key and "$" not in key else []
    if lacking:
        fail(f"embed_key {key!r} is not in {examples(lacking)}", "Write a key of .obsm")
    for option in ("data.kwargs.perturbation_features_file", "data.kwargs.toml_config_path"):
        path = overrides.get(option, "")
        if path and path != "null" and "$" not in path and not (root / path).exists():
            fail(f"{option} does not exist: {path}", "Correct the path")
    return found

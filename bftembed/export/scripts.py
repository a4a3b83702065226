"""The scripts that train STATE on an export and predict with it, every override that matters written out."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bftembed.export.labels import Columns

#: Bounds of ``cell_set_len``; the upper one is STATE's own default.
_SHORTEST_SET, _LONGEST_SET = 8, 512
RUNS = "runs"


@dataclass(frozen=True)
class Recipe:
    """What the scripts say: `folder` absolute; `questions` the stems of the TOML files, the default first."""

    folder: str
    columns: Columns
    output_space: str
    cell_set_len: int
    questions: Sequence[str]
    embed_key: str
    hvg_key: str


def set_length(median_cells: float) -> int:
    """Return ``cell_set_len`` near the median cells of a perturbation: shorter sets are filled up by repeats."""
    return int(min(_LONGEST_SET, max(_SHORTEST_SET, round(median_cells))))


def train_script(recipe: Recipe) -> str:
    """Return ``train.sh``."""
    columns = recipe.columns
    overrides = [
        f"data.kwargs.output_space={recipe.output_space}",
        f"data.kwargs.pert_col={_hydra(columns.pert)}",
        f"data.kwargs.cell_type_key={_hydra(columns.cell_type)}",
        f"data.kwargs.batch_col={_hydra(columns.batch)}",
        f"data.kwargs.control_pert={_hydra(columns.control)}",
        "data.kwargs.num_workers=0",
        "model=state",
        "++model.kwargs.gene_decoder_bool=true",
        "++model.kwargs.decoder_weight=1.0",
        f"model.kwargs.cell_set_len={recipe.cell_set_len}",
        "training.train_seed=42",
        "use_wandb=false",
        "overwrite=true",
    ]
    fixed = "\n".join(f"  {_word(one)}" for one in overrides)
    return f"""{_head("train.sh", recipe, "[OVERRIDE…]")}
case "$features" in
  text) features_file="'$here/pert_features.pt'" ;;
  onehot) features_file=null ;;
  *) echo "error: features are text or onehot, not $features" >&2; exit 2 ;;
esac
shift $(( $# < 3 ? $# : 3 ))

# Each is written out, for STATE's own defaults are those of another data set. output_space=embedding is not offered: it
# passes signed vectors through a ReLU and scores them clipped. model=state has a decoder to genes; state_sm has none.
overrides=(
{fixed}
)
# What comes last counts: overrides of your own follow.
exec state tx train "${{overrides[@]}}" \\
  "data.kwargs.toml_config_path='$here/$question.toml'" \\
  "data.kwargs.embed_key=$embed_key" \\
  "data.kwargs.perturbation_features_file=$features_file" \\
  "output_dir='$here/{RUNS}'" "name=$run" "$@"
"""


def predict_script(recipe: Recipe) -> str:
    """Return ``predict.sh``."""
    return f"""{_head("predict.sh", recipe, "[CHECKPOINT] [OPTION…]")}
checkpoint=${{4:-final.ckpt}}
shift $(( $# < 4 ? $# : 4 ))

# X of adata_pred.h5ad has genes by number; their names, in order, are uns["hvg_names"] (output_space=gene) or var (all)
# of any file in cells.
exec state tx predict --output-dir "$here/{RUNS}/$run" --checkpoint "$checkpoint" --profile full "$@"
"""


def _head(name: str, recipe: Recipe, more: str) -> str:
    questions, keys = "|".join(recipe.questions), f"{recipe.embed_key}|{recipe.hvg_key}"
    return f"""#!/usr/bin/env bash
# bash {name} [{questions}] [{keys}] [text|onehot] {more}
# Needs arc-state 0.11 (licence CC BY-NC-SA 4.0) in an environment of its own.
set -euo pipefail
here=$(cd "$(dirname "${{BASH_SOURCE[0]}}")" && pwd)
question=${{1:-{recipe.questions[0]}}}
embed_key=${{2:-{recipe.embed_key}}}
features=${{3:-text}}
run="$question-$embed_key-$features"
if [ "$here" != {shlex.quote(recipe.folder)} ]; then
  echo "error: this export was made for" {shlex.quote(recipe.folder)} "and STATE keeps absolute paths: move it" \\
    "back, or change [datasets] in the .toml files and this line in both scripts." >&2
  exit 1
fi
if [ ! -f "$here/$question.toml" ]; then
  echo "error: no $question.toml here; the questions are {questions}" >&2
  exit 2
fi"""


def _word(argument: str) -> str:
    return shlex.quote(argument) if any(c in argument for c in '"\\$`!') else f'"{argument}"'


def _hydra(value: str) -> str:
    """Return a value as hydra's grammar quotes it: a bare null or 1 would be no text."""
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def readme(recipe: Recipe, lines: Sequence[str]) -> str:
    """Return ``README.md``: `lines` tell what is in the folder."""
    facts = "\n".join(f"- {line}" for line in lines)
    return f"""# Perturbation data for STATE, written by bftembed

{facts}

Train and predict, in an environment with arc-state 0.11 (CC BY-NC-SA 4.0):

    bash train.sh {recipe.questions[0]} {recipe.embed_key} text training.max_steps=2000
    bash predict.sh {recipe.questions[0]} {recipe.embed_key} text

`bftembed export check .` looks for every mistake that STATE would not tell you of. Say with each result which reading
was used: {recipe.embed_key} as cell embedding, text as perturbation features, or both. Paths are absolute: do not move.
"""

"""Export of a perturbation screen and gene embeddings to a folder that STATE (arc-state) takes unmodified."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from bftembed._version import __version__
from bftembed.embeddings import GeneEmbeddings
from bftembed.entities.genes import GeneIndex
from bftembed.errors import BftembedError, examples, require
from bftembed.export import _splits
from bftembed.export._cells import (
    EMBED_KEY,
    FEATURES,
    HVG_KEY,
    Columns,
    choose_genes,
    read_screen,
    resolve_label,
    write_cells,
    write_embeddings,
    write_features,
)
from bftembed.io import atomic_folder, canonical_json, sha256_file, write_json
from bftembed.progress import silent

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from bftembed.progress import Progress

#: Bounds of ``cell_set_len``; the upper one is STATE's own default.
_MIN_SET, _MAX_SET = 8, 512
_TRAIN = """\
#!/usr/bin/env bash
# bash train.sh [{questions}] [X_bft|X_hvg] [text|onehot] [OVERRIDE…]
# Needs arc-state 0.11 (licence CC BY-NC-SA 4.0) in an environment of its own. Then:
#   state tx predict --output-dir runs/QUESTION-X_bft-text --checkpoint final.ckpt --profile full
# Its adata_pred.h5ad has genes by number, in the order of uns["hvg_names"] of any file (output_space=all: of var).
set -euo pipefail
here='{folder}'
question=${{1:-{first}}} embed_key=${{2:-X_bft}} features=${{3:-text}}
if [ ! -f "$here/$question.toml" ]; then
  echo "error: no $here/$question.toml; the questions are {questions}. STATE keeps absolute paths: export a folder" \\
    "that was moved again, or change its path in all .toml and .sh files." >&2
  exit 2
fi
case "$features" in
  text) features_file="'$here/pert_features.pt'" ;;
  onehot) features_file=null ;;
  *) echo "error: features are text or onehot, not $features" >&2; exit 2 ;;
esac
shift $(( $# < 3 ? $# : 3 ))

# STATE's own defaults are those of another data set. model=state has a decoder to genes; state_sm has none.
overrides=(
{overrides}
)
# The last override counts: your own follow. data.kwargs.output_space=all predicts all of X; embedding would pass signed
# vectors through a ReLU and score them clipped.
exec state tx train "${{overrides[@]}}" \\
  "data.kwargs.toml_config_path='$here/$question.toml'" \\
  "data.kwargs.embed_key=$embed_key" \\
  "data.kwargs.perturbation_features_file=$features_file" \\
  "output_dir='$here/runs'" "name=$question-$embed_key-$features" "$@"
"""


@dataclass(frozen=True)
class StateExport:
    """Report of an export.

    Attributes
    ----------
    out
        The folder.
    files
        Names of the h5ad files in ``cells``.
    n_cells, n_perturbations, dim
        Cells, perturbations besides the control, dimensions of ``X_bft``.
    n_genes, n_hvg
        Genes of ``X`` and of ``X_hvg``.
    questions
        Question → how it was split, and its perturbed cells of ``train``, ``val`` and ``test``.
    mapped, missing
        Perturbations found under another name, and those without a vector (zeros).
    simulated
        Whether cells or embeddings are simulated.
    notes
        What the user should know.
    """

    out: Path
    files: tuple[str, ...]
    n_cells: int
    n_perturbations: int
    dim: int
    n_genes: int
    n_hvg: int
    questions: dict[str, dict[str, Any]]
    mapped: dict[str, str]
    missing: tuple[str, ...]
    simulated: bool
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return the fields for JSON."""
        return {**asdict(self), "out": str(self.out), "files": list(self.files)}

    def lines(self) -> list[str]:
        """Return the facts, one a line."""
        lines = ["SIMULATED data: nothing here was observed."] if self.simulated else []
        lines += [
            f"{self.n_cells:,} cells in {len(self.files)} files: X {self.n_genes:,} genes (log1p), {HVG_KEY} "
            f"{self.n_hvg:,}, {EMBED_KEY} {self.dim} dimensions",
            f"{self.n_perturbations} perturbations with text features, {len(self.mapped)} of them under another name, "
            f"{len(self.missing)} missing (zeros)",
        ]
        for name, one in self.questions.items():
            counts = ", ".join(f"{n:,} {split}" for split, n in one["n_cells"].items())
            lines.append(f"{name}: perturbed cells {counts}; {one['note']}")
        return [*lines, *self.notes]


def export_state(
    data: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    genes: GeneEmbeddings | str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    pert_col: str = "gene",
    cell_type_key: str = "cell_type",
    batch_col: str = "gem_group",
    control: str = "non-targeting",
    hvg: int = 2000,
    holdout_cell_types: Sequence[str] = (),
    val_cell_types: Sequence[str] = (),
    holdout_genes: Sequence[str] | None = None,
    allow_missing: bool = False,
    layer: str | None = None,
    use_raw: bool = False,
    gene_column: str | None = None,
    seed: int = 0,
    normalize: Literal["auto", "log1p-cp10k", "none"] = "auto",
    progress: Progress = silent,
) -> StateExport:
    """Write h5ad files, perturbation features, splits and scripts that STATE takes unmodified.

    The folder holds ``cells/*.h5ad`` (one per input, with cell embeddings in .obsm["X_bft"]), pert_features.pt (the
    gene embeddings of the perturbed genes), zeroshot_celltype.toml, unseen_gene.toml, train.sh and
    manifest.json. It is written atomically.

    Parameters
    ----------
    data
        Perturbed cells and controls: h5ad files with counts or logged values, or builtin:NAME. Values are written as
        log1p of counts per 10,000. Genes of a combination are separated by a plus sign; its vector is their sum.
    genes
        Gene embeddings (.safetensors).
    out
        Folder to create.
    pert_col
        Column of .obs with the perturbed gene.
    cell_type_key
        Column of .obs with the cell type.
    batch_col
        Column of .obs with the batch.
    control
        Label of control cells in `pert_col`. Each cell type of each file needs some.
    hvg
        Number of highly variable genes for X_hvg (flavor seurat of scanpy).
    holdout_cell_types
        Test cell types, separated by commas. By default one is drawn.
    val_cell_types
        Validation cell types, separated by commas. By default one is drawn.
    holdout_genes
        Test genes in any spelling, separated by commas. By default a share of 0.2 is drawn.
    allow_missing
        Give perturbations without a vector zeros, and list them. By default they are an error.
    layer
        Layer with the expression. By default .X.
    use_raw
        Take expression and genes from .raw.
    gene_column
        Column of .var with the gene names. By default the index.

    Other Parameters
    ----------------
    seed
        Seed of all draws.
    normalize
        ``"log1p-cp10k"`` or ``"none"`` where the values do not tell.
    progress
        Progress callback, called with the number of cells done, of twice as many: vectors, then expression.

    Returns
    -------
    StateExport
        The manifest, in short.

    Raises
    ------
    BftembedError
        For what STATE would fail on or go wrong with silently: missing labels, no controls, unknown perturbations,
        negative or unclear values, different genes, an empty split; for names that do not exist, and an output folder
        that is not empty. Nothing is written then.
    """
    target = _checked_out(out)
    require("torch", "local")
    vectors = GeneEmbeddings.of(genes)
    paths = [Path(one) for one in ([data] if isinstance(data, str) or hasattr(data, "__fspath__") else data)]
    if not paths or len({path.stem for path in paths}) < len(paths):
        raise BftembedError("Give one or more h5ad files, each with a name of its own.")
    columns = Columns(pert_col, cell_type_key, batch_col, control)
    choice = {"layer": layer, "use_raw": use_raw, "gene_column": gene_column}
    screens = [read_screen(path, columns, choice) for path in paths]
    labels = sorted({label for one in screens for label in one.perturbation})
    targets = {label: resolve_label(label, vectors, control) for label in labels}
    missing = {label: one.note for label, one in targets.items() if one.status == "missing"}
    if missing and (not allow_missing or len(missing) == len(targets) - 1):
        raise BftembedError(
            f"{len(missing)} of {len(targets) - 1} perturbations have no vector: {examples(missing.values(), 30)}. "
            "Embed profiles of them, rename or remove these cells, or give some zeros knowingly (--allow-missing). "
            "STATE cannot distinguish a perturbation of zeros from the control."
        )
    questions = _splits.questions_of(
        screens,
        [*targets.values()],
        control,
        test_cell_types=holdout_cell_types,
        val_cell_types=val_cell_types,
        test_genes=holdout_genes,
        seed=seed,
    )
    simulated = bool(vectors.provenance.get("simulated")) or any(one.simulated for one in screens)
    names, n_cells = [f"{one.path.stem}.h5ad" for one in screens], [len(one.names) for one in screens]
    perturbed = {gene for one in targets.values() for gene in one.genes}
    done_before = np.cumsum([0, *n_cells, *n_cells]).tolist()

    def part(i: int) -> Progress:
        return lambda done, _, note: progress(done_before[i] + done, done_before[-1], note)

    with atomic_folder(target) as folder:
        (folder / "cells").mkdir()
        files = [folder / "cells" / name for name in names]
        reports = [
            write_embeddings(one, file, vectors, normalize, part(i))
            for i, (one, file) in enumerate(zip(screens, files, strict=True))
        ]
        kept, how = choose_genes(screens, reports, hvg, perturbed, seed)
        about = {
            "bftembed": __version__,
            "format": "bftembed-state-export 2",
            "simulated": simulated,
            "readings": {
                "cell embedding": f"obsm[{EMBED_KEY!r}]: expression-weighted mean of gene embeddings, length 1",
                "perturbation features": f"{FEATURES}: gene embeddings as they are; combinations: sums; control: 0",
            },
            "embeddings": canonical_json(vectors.provenance),
            "embeddings_sha256": vectors.fingerprint(),
            "highly_variable": how,
        }
        for i, (one, report, file) in enumerate(zip(screens, reports, files, strict=True)):
            write_cells(file, one, report, columns, kept, about, part(len(files) + i))
        write_features(folder / FEATURES, targets, vectors)
        notes = [
            f"{one.path.name}: normalization {report.normalize} ({report.reason}); {report.coverage:.1%} of expression "
            "embedded"
            for one, report in zip(screens, reports, strict=True)
        ]
        if len({report.normalize for report in reports}) > 1:
            notes.append(
                "Some inputs were counts and others logged; all are log1p now. Were the logged ones made alike?"
            )
        if len(questions) == 1:
            notes.append("One cell type: there is no zeroshot_celltype.toml, for nothing would be left to train on.")
        measured = {found.entity for found in GeneIndex.default().resolve(list(kept.index))} | set(kept.index)
        if absent := sorted(perturbed - measured):
            notes.append(f"{len(absent)} perturbed genes are not measured: {examples(absent)}.")
        result = StateExport(
            out=target,
            files=tuple(names),
            n_cells=sum(n_cells),
            n_perturbations=len(targets) - 1,
            dim=reports[0].dim,
            n_genes=len(kept),
            n_hvg=int(kept.sum()),
            questions={one.name: {"note": one.note, "n_cells": one.n_cells} for one in questions},
            mapped={label: one.note for label, one in targets.items() if one.status == "mapped"},
            missing=tuple(missing),
            simulated=simulated,
            notes=tuple(notes),
        )
        # Shorter sets of cells are filled with repeats, so the length is near the median size of a condition.
        sizes = pd.concat(
            [pd.Series(zip(one.cell_type, one.perturbation, strict=True)).value_counts() for one in screens]
        )
        perturbed_sizes = sizes[[label != control for _, label in sizes.index]]
        set_length = int(np.clip(round(float(perturbed_sizes.median())), _MIN_SET, _MAX_SET))
        texts = {f"{one.name}.toml": _splits.toml_text(one, str(target / "cells")) for one in questions}
        texts["train.sh"] = _train_script(target, columns, set_length, [one.name for one in questions])
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8")
        (folder / "train.sh").chmod(0o755)
        left_out = ("out", "empty_cells")
        manifest = about | result.as_dict()
        manifest |= {
            "dataset": _splits.DATASET,
            "columns": asdict(columns),
            "cell_set_len": set_length,
            "cells": {
                name: {"source": one.path.name, "n_cells": len(one.names)}
                | {"embedding": {key: value for key, value in report.as_dict().items() if key not in left_out}}
                for name, one, report in zip(names, screens, reports, strict=True)
            },
            "perturbations": {label: asdict(one) for label, one in targets.items()},
            "hvg_names": list(kept.index[kept]),
            "sha256": {str(x.relative_to(folder)): sha256_file(x) for x in sorted(folder.rglob("*")) if x.is_file()},
        }
        write_json(folder / "manifest.json", manifest)
    return result


def _checked_out(out: str | os.PathLike[str]) -> Path:
    target = Path(out).absolute()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise BftembedError(f"{target} exists and is not empty. Choose a new folder (--out); nothing is replaced.")
    if not str(target).isprintable() or re.search(r"[*?\[\]{}\"'\\$`]", str(target)):
        raise BftembedError(
            f"{target} has letters that STATE, its TOML or a shell would expand. Choose another folder."
        )
    return target


def _train_script(folder: Path, columns: Columns, set_length: int, questions: Sequence[str]) -> str:
    """Return a script that trains STATE with every override that matters."""
    named = {"pert_col": columns.pert, "cell_type_key": columns.cell_type, "batch_col": columns.batch}
    named["control_pert"] = columns.control
    overrides = ["data.kwargs.output_space=gene"]
    for key, value in named.items():  # quoted as hydra has it: a bare null or 1 would be no text
        quoted = value.replace("\\", "\\\\").replace("'", "\\'")
        overrides.append(f"data.kwargs.{key}='{quoted}'")
    overrides += ["data.kwargs.num_workers=0", "model=state", "++model.kwargs.gene_decoder_bool=true"]
    overrides += ["++model.kwargs.decoder_weight=1.0", f"model.kwargs.cell_set_len={set_length}"]
    overrides += ["training.train_seed=42", "use_wandb=false", "overwrite=true"]
    words = "\n".join('  "{}"'.format(re.sub(r'(["\\$`])', r"\\\1", one)) for one in overrides)
    return _TRAIN.format(questions="|".join(questions), first=questions[0], folder=folder, overrides=words)

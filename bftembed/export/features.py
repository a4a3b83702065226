"""Perturbation labels of any spelling → vectors, and the two files that hold them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bftembed.entities.genes import GeneIndex
from bftembed.errors import BftembedError, require

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from bftembed.embeddings import GeneEmbeddings

FEATURES = "pert_features.pt"
FEATURES_SAFETENSORS = "pert_features.safetensors"


@dataclass(frozen=True)
class Target:
    """What a perturbation label means.

    Attributes
    ----------
    label
        As it stands in the data; the key of its vector.
    genes
        Ids of the perturbed genes: of embeddings, approved symbols, or the name as it is where nothing is known. None
        for the control.
    status
        ``"control"``, ``"used"`` (ids of embeddings as they stand), ``"mapped"`` (by another name) or ``"missing"``.
    note
        By what it was mapped, or why it is missing.
    """

    label: str
    genes: tuple[str, ...]
    status: str
    note: str = ""

    @property
    def combination(self) -> bool:
        """Whether several genes are perturbed at once."""
        return len(self.genes) > 1


def resolve_labels(
    labels: Iterable[str], embeddings: GeneEmbeddings, *, control: str, separator: str = "+"
) -> dict[str, Target]:
    """Find the genes of every perturbation label.

    A label that is the id of an embedding is taken as it stands; else it is resolved by `GeneIndex` (aliases, previous
    symbols, Ensembl ids, case). A label that means nothing as a whole is split at `separator`; a part that is the
    control is no gene: ``"TP53+ctrl"`` is TP53. An ambiguous name is not guessed.

    Returns
    -------
    dict
        Label → `Target`, sorted by label.
    """
    return {label: _target(label, embeddings, control, separator) for label in sorted(set(labels))}


def _target(label: str, embeddings: GeneEmbeddings, control: str, separator: str) -> Target:
    if label == control:
        return Target(label, (), "control")
    gene, status, note = _gene(label, embeddings)
    parts = [part.strip() for part in label.split(separator)] if separator else [label]
    if status != "missing" or len(parts) < 2:
        return Target(label, (gene,), status, note)
    found = [_gene(part, embeddings) for part in parts if part != control]
    genes = tuple(dict.fromkeys(gene for gene, _, _ in found)) or (label,)
    statuses = [status for _, status, _ in found] or ["missing"]
    notes = "; ".join(note for _, _, note in found if note)
    worst = next(s for s in ("missing", "mapped", "used") if s in statuses)
    return Target(label, genes, worst, notes)


def _gene(name: str, embeddings: GeneEmbeddings) -> tuple[str, str, str]:
    if name in embeddings:
        return name, "used", ""
    (found,) = GeneIndex.default().resolve([name])
    if found.status == "ambiguous":
        return name, "missing", f"{name} is ambiguous ({', '.join(found.candidates)})"
    if found.symbol is None:
        return name, "missing", f"{name} is no known gene" + (f" ({found.note})" if found.note else "")
    if found.symbol not in embeddings:
        return found.symbol, "missing", f"{found.symbol} has no embedding"
    return found.symbol, "mapped", f"{name} is {found.symbol} ({found.via})"


def refuse_missing(targets: Mapping[str, Target], *, allow: bool) -> tuple[str, ...]:
    """Return the labels without a vector.

    Raises
    ------
    BftembedError
        Lists them with the reasons, unless they are allowed; and always where none has a vector.
    """
    absent = [t for t in targets.values() if t.status == "missing"]
    if absent and len(absent) == sum(t.status != "control" for t in targets.values()):
        reasons = "; ".join(t.note for t in absent[:10])
        raise BftembedError(f"None of the {len(absent)} perturbations has a vector: {reasons}.")
    if absent and not allow:
        shown = "; ".join(f"{t.label!r}: {t.note}" for t in absent[:30]) + ("; …" if len(absent) > 30 else "")
        raise BftembedError(
            f"{len(absent)} of {len(targets) - 1} perturbations have no vector: {shown}. Embed profiles of them, "
            "rename or remove these cells, or give them zero vectors knowingly: allow_missing=True (--allow-missing). "
            "STATE cannot tell a perturbation of zeros from the control."
        )
    return tuple(t.label for t in absent)


def vectors_of(targets: Mapping[str, Target], embeddings: GeneEmbeddings) -> dict[str, NDArray[np.float32]]:
    """Return the vector of every label, float32 (d,).

    That of a combination is the sum of its genes' vectors: effects of two genes add, to first order, and the control,
    which perturbs nothing, is the empty sum: the zero vector that cell-load itself would give it. (A mean would make a
    double perturbation half of two single ones.) What is missing is zero too.
    """
    found = {}
    for label, target in targets.items():
        vector = np.zeros(embeddings.dim, dtype=np.float32)
        for gene in target.genes if target.status != "missing" else ():
            vector += embeddings.vector(gene)
        found[label] = vector
    return found


def write_features(folder: Path, vectors: Mapping[str, NDArray[np.float32]], about: str) -> None:
    """Write `vectors` as `FEATURES` (torch) and `FEATURES_SAFETENSORS`.

    The first holds a dict of str → contiguous float32 tensor (d,) with a storage of its own, and loads with
    ``weights_only=True``. `about` is metadata of the second.

    Raises
    ------
    MissingExtraError
        Without torch.
    """
    from safetensors.numpy import save_file

    torch: Any = require("torch", "local")
    tensors = {str(label): torch.from_numpy(vector.copy()).clone() for label, vector in vectors.items()}
    torch.save(tensors, folder / FEATURES)
    save_file(
        {str(label): v.copy() for label, v in vectors.items()}, folder / FEATURES_SAFETENSORS, {"bftembed": about}
    )

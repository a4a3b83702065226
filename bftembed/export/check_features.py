"""Rules for the ``.pt`` file of perturbation features."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from bftembed.errors import examples, require
from bftembed.export.findings import FAIL, WARN, Finding

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_WRITE = "Write {str: float32 tensor (d,)} with torch.save: torch.from_numpy(v).float().clone() under str(label)"


def check_features(path: Path, labels: set[str], control: str) -> list[Finding]:
    """Check a dict of label → vector against the labels of the cells.

    It is loaded by torch's reader that makes tensors and plain values alone and runs nothing of the file.

    Raises
    ------
    MissingExtraError
        Without torch.
    """
    require("torch", "local")
    import torch

    try:
        table = torch.load(path, weights_only=True)
    except Exception as err:  # noqa: BLE001  torch raises many kinds
        why = (str(err) or type(err).__name__).splitlines()[0][:160]
        what = f"STATE cannot load it ({type(err).__name__}: {why}): NumPy values, np.str_ keys, or no torch file"
        return [Finding(FAIL, path.name, what, _WRITE)]
    if not isinstance(table, dict) or not table:
        what = (
            f"it holds a {type(table).__name__} of {len(table) if hasattr(table, '__len__') else 1}, not a filled dict"
        )
        return [Finding(FAIL, path.name, what, _WRITE)]
    return [Finding(level, path.name, what, remedy) for level, what, remedy in _rules(table, labels, control)]  # type: ignore[arg-type]


def _rules(table: dict[Any, Any], labels: set[str], control: str) -> Iterator[tuple[str, str, str]]:
    import torch

    odd_keys = [key for key in table if type(key) is not str]
    if odd_keys:
        yield FAIL, f"keys that are no text: {examples(odd_keys)}", _WRITE
    no_tensors = [key for key, value in table.items() if not isinstance(value, torch.Tensor)]
    if no_tensors:
        yield FAIL, f"values that are no tensors: {examples(no_tensors)}", _WRITE
    tensors = {key: value for key, value in table.items() if isinstance(value, torch.Tensor)}
    wrong = {key: str(v.dtype).removeprefix("torch.") for key, v in tensors.items() if v.dtype != torch.float32}
    if wrong:
        kinds = ", ".join(sorted(set(wrong.values())))
        yield FAIL, f"{len(wrong)} vectors are {kinds}, which STATE cannot multiply: {examples(wrong)}", _WRITE
    shaped = {key: tuple(v.shape) for key, v in tensors.items() if v.ndim != 1}
    if shaped:
        first = next(iter(shaped.values()))
        yield (
            FAIL,
            f"{len(shaped)} vectors have shape {first}: cell-load takes {first[0] if first else 0} for their length",
            _WRITE,
        )
    lengths = Counter(len(v) for v in tensors.values() if v.ndim == 1)
    if len(lengths) > 1:
        yield FAIL, f"vectors of different length: {sorted(lengths)}", "All are of one embedding"
    views = [key for key, v in tensors.items() if v.untyped_storage().nbytes() > v.numel() * v.element_size()]
    if views:
        yield (
            FAIL,
            f"{len(views)} vectors are views of a larger storage, all of it in the file: {examples(views)}",
            _WRITE,
        )
    loose = [key for key, v in tensors.items() if not v.is_contiguous()]
    if loose:
        yield FAIL, f"{len(loose)} vectors are not contiguous: {examples(loose)}", _WRITE
    numbers = {key: v for key, v in tensors.items() if v.is_floating_point()}
    bad = [key for key, v in numbers.items() if not bool(torch.isfinite(v).all())]
    if bad:
        yield FAIL, f"{len(bad)} vectors have NaN or infinite values: {examples(bad)}", "Embed these genes again"
    if labels and control not in table:
        yield FAIL, f"no vector for the control {control!r}", "Add a zero vector under its label, as cell-load would do"
    absent = sorted(labels - {key for key in table if isinstance(key, str)} - {control})
    if absent:
        yield (
            FAIL,
            f"{len(absent)} of {len(labels - {control})} perturbations have no vector: {examples(absent)}",
            "cell-load gives them zeros without a word: add them, or leave these cells out",
        )
    zero = [key for key, v in numbers.items() if key != control and key in labels and not bool(v.any())]
    if zero:
        yield (
            WARN,
            f"{len(zero)} perturbations are zero vectors, like the control: {examples(zero)}",
            "Embed these genes",
        )

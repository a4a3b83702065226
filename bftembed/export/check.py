"""Whether STATE can use a folder, and would not go wrong silently: every rule of its contract, one line each.

It takes a folder that `export_state` wrote, or one made by hand: TOML files, h5ad files, a ``.pt`` of perturbation
features, scripts. What is needed to judge is taken from the caller, the manifest, the scripts, or STATE's usual names.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bftembed.errors import BftembedError, examples
from bftembed.export.check_cells import CellFile, check_files, read_cell_file
from bftembed.export.check_features import check_features
from bftembed.export.check_scripts import check_script, overrides_in
from bftembed.export.check_splits import check_toml, read_toml
from bftembed.export.expected import Expected, expected_of
from bftembed.export.findings import FAIL, WARN, Finding

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

#: Where the scripts of an export write: nothing of it is looked at.
_RUNS = "runs"


def check_state(
    folder: str | os.PathLike[str],
    *,
    pert_col: str | None = None,
    cell_type_key: str | None = None,
    batch_col: str | None = None,
    control: str | None = None,
    output_space: str | None = None,
) -> list[Finding]:
    """Find everything in a folder that STATE fails on, or goes wrong with silently.

    Every value is read, in blocks; a .pt file is loaded by torch with weights_only=True. The command exits with 3 when
    there is a FAIL.

    Parameters
    ----------
    folder
        Folder made by bftembed export state or by hand, with .toml, .h5ad, .pt and .sh files.
    pert_col
        Column of .obs with the perturbed gene. By default as in manifest.json or the scripts, or gene.
    cell_type_key
        Column of .obs with the cell type. By default likewise, or cell_type.
    batch_col
        Column of .obs with the batch. By default likewise, or gem_group.
    control
        Label of control cells. By default likewise, or non-targeting.

    Other Parameters
    ----------------
    output_space
        ``"gene"`` or ``"all"``. By default likewise, or ``"gene"``.

    Returns
    -------
    list of Finding
        None when all is well.

    Raises
    ------
    BftembedError
        When there is no such folder.
    """
    root = Path(folder)
    if not root.is_dir():
        raise BftembedError(
            f"No such folder: {root}. Make one with: bftembed export state DATA.h5ad --genes G --out DIR"
        )
    found: list[Finding] = []
    scripts = {path.name: overrides_in(path.read_text("utf-8", "replace")) for path in sorted(root.glob("*.sh"))}
    manifest = _manifest(root, found)
    asked = {"pert_col": pert_col, "cell_type_key": cell_type_key, "batch_col": batch_col, "control_pert": control}
    expected = expected_of(asked | {"output_space": output_space}, manifest, scripts)
    paths = [p for p in sorted(root.rglob("*.h5ad")) if _RUNS not in p.relative_to(root).parts]
    tomls = {path.name: read_toml(path, found) for path in sorted(root.glob("*.toml"))}
    for config in tomls.values():
        paths += [p for p in (config.files if config else ()) if p.resolve() not in {q.resolve() for q in paths}]
    if not paths:
        found.append(Finding(FAIL, "", "there is no h5ad file", "Export again, or copy the cells here"))
    files = [read_cell_file(path, _shown(path, root), expected, found) for path in paths]
    cells = [one for one in files if one is not None]
    check_files(cells, expected, found)
    _check_tomls(tomls, cells, paths, root, expected, found)
    for name, overrides in scripts.items():
        found += check_script(name, overrides, root, cells)
    if not scripts:
        found.append(Finding(WARN, "", "there is no script", "Without every override STATE trains on its own defaults"))
    labels = {label for one in cells for label in one.labels}
    features = sorted(root.glob("*.pt"))
    for path in features:
        found += check_features(path, labels, expected.control)
    if not features:
        level = FAIL if any("perturbation_features_file" in str(x) for x in scripts.values()) else WARN
        found.append(Finding(level, "", "there is no .pt file of perturbation features", "Unseen genes need one"))
    return sorted(found, key=lambda one: (one.level, one.file))


def _manifest(root: Path, found: list[Finding]) -> dict[str, Any]:
    path = root / "manifest.json"
    if not path.exists():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as err:
        found.append(Finding(WARN, path.name, f"it is no JSON ({err})", "Export again"))
        return {}
    return value if isinstance(value, dict) else {}


def _check_tomls(
    tomls: dict[str, Any],
    cells: list[CellFile],
    paths: list[Path],
    root: Path,
    expected: Expected,
    found: list[Finding],
) -> None:
    if not tomls:
        found.append(Finding(FAIL, "", "there is no TOML file of splits", "Export again, or write one"))
    used = set()
    for name, config in tomls.items():
        if config is None:
            continue
        here = {path.resolve() for path in config.files}
        used |= here
        check_toml(name, config, [one for one in cells if one.path.resolve() in here], expected.control, found)
    left = [_shown(path, root) for path in paths if path.resolve() not in used]
    if left and any(config is not None and config.files for config in tomls.values()):
        found.append(
            Finding(WARN, left[0], f"no TOML file names {examples(left)}", "Add the folder to [datasets], or remove it")
        )


def _shown(path: Path, root: Path) -> str:
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)


def has_failures(found: list[Finding]) -> bool:
    """Return whether anything is a FAIL."""
    return any(one.level == FAIL for one in found)


def lines(found: list[Finding]) -> Iterator[str]:
    """Yield one line per finding, and one that counts them."""
    yield from map(str, found)
    n = sum(one.level == FAIL for one in found)
    yield f"{n} FAIL, {len(found) - n} WARN" if found else "ok: nothing that STATE would fail on or go wrong with"

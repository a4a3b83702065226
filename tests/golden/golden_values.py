"""Golden values: vectors in a few numbers, files of them, and what differs."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parent
#: Parts of a key that stand once in a file, as the heading of the others.
HEAD = 5
#: Rows of a matrix that are kept, columns of the projection, and mixes of all rows.
ROWS, COLUMNS, MIXES = 6, 10, 2


def digest(text):
    """Return the sha256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


def sketch(matrix, names):
    """Return what tells a matrix (n, d): a projection of some rows, and of two random mixes of all rows."""
    matrix = np.asarray(matrix, dtype=np.float64)
    n, d = matrix.shape
    draw = np.random.RandomState(0)  # its stream is frozen
    projected = matrix @ (draw.standard_normal((d, COLUMNS)) / np.sqrt(d))
    mixes = draw.standard_normal((MIXES, n)) @ projected / np.sqrt(n)
    found = {"rows": n, "columns": d, "names": digest("\n".join(map(str, names)))}
    # The norm is of the whole row: the projection alone has not all of it.
    for i in dict.fromkeys(np.linspace(0, n - 1, ROWS).astype(int).tolist()):
        found[str(names[i])] = projected[i].tolist()
        found[f"{names[i]}|norm"] = float(np.linalg.norm(matrix[i]))
    return found | {f"mix {i}": mix.tolist() for i, mix in enumerate(mixes)}


def rounded(value):
    """Return a value as it is written: floats with nine digits."""
    if isinstance(value, (list, tuple, np.ndarray)):
        return [rounded(x) for x in value]
    if isinstance(value, (bool, str)) or value is None:
        return value
    if isinstance(value, (int, np.integer)):
        return int(value)
    return None if math.isnan(value) else float(f"{value:.9g}")


def flat(tree, key=""):
    """Return nested dictionaries as one, keys joined by "|"."""
    found = {}
    for name, value in tree.items():
        path = f"{key}|{name}" if key else str(name)
        found |= flat(value, path) if isinstance(value, dict) else {path: value}
    return found


def read(command):
    """Return case → key → value of a command's file; empty without one."""
    path = FOLDER / f"{command}.json"
    cases = json.loads(path.read_text()) if path.exists() else {}
    return {case: flat(values) for case, values in cases.items()}


def write(command, cases):
    """Write the file of a command."""
    nested = {}
    for case in sorted(cases):
        headed = nested.setdefault(case, {})
        for key, value in sorted(cases[case].items()):
            parts = key.split("|")
            head, tail = "|".join(parts[:HEAD]), "|".join(parts[HEAD:])
            if tail:
                headed.setdefault(head, {})[tail] = rounded(value)
            else:
                headed[head] = rounded(value)
    text = json.dumps(nested, indent=0, ensure_ascii=False)
    (FOLDER / f"{command}.json").write_text(_joined_lists(text) + "\n")


def _joined_lists(text):
    """Put each list on one line."""
    lines, inside = [], False
    for line in text.splitlines():
        if inside:
            lines[-1] += line if line.startswith("]") else f" {line}" if not lines[-1].endswith("[") else line
        else:
            lines.append(line)
        inside = (inside and not line.startswith("]")) or line.endswith("[")
    return "\n".join(lines)


def differences(golden, found, tolerance, loose=None):
    """Return a line for every key that is missing, new, or has another value.

    Numbers agree to `tolerance` of the golden one (and of .001, near zero); `loose` has another tolerance for keys that
    hold a text. Lists are vectors: their norms agree so, and their cosine is at least 1 - 1e-6. Whole numbers and texts
    are equal.
    """
    found = {key: rounded(value) for key, value in found.items()}
    lines, loose = [], (loose or {}).items()
    for key in sorted(golden.keys() | found.keys()):
        if key not in found:
            lines.append(f"{key}: is missing, {golden[key]} expected")
        elif key not in golden:
            # The middle of an interval, where earlier there were its ends alone, is no other value.
            if not (key.endswith("|value") and f"{key.removesuffix('value')}low" in golden):
                lines.append(f"{key}: is new, {found[key]}")
        elif not _agree(golden[key], found[key], max([tolerance, *(t for part, t in loose if part in key)])):
            lines.append(f"{key}: {found[key]}, {golden[key]} expected")
    return lines


def _agree(golden, found, tolerance):
    if isinstance(golden, list) and isinstance(found, list) and len(golden) == len(found):
        a, b = np.array(golden, dtype=np.float64), np.array(found, dtype=np.float64)
        if np.isnan(a).any() or np.isnan(b).any():  # the row of a cell without a vector
            return golden == found
        norms = np.linalg.norm(a), np.linalg.norm(b)
        cosine = 1.0 if max(norms) == 0 else a @ b / max(norms[0] * norms[1], 1e-300)
        return bool(abs(norms[0] - norms[1]) <= tolerance * norms[0] and cosine >= 1 - 1e-6)
    if isinstance(golden, float) and isinstance(found, (int, float)):
        return abs(golden - found) <= tolerance * max(abs(golden), 1e-3)
    return golden == found

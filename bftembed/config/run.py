"""The recipe ``run``: cells, profiles, encoders, aggregations and benchmarks of one pipeline."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from bftembed.config.base import Strict
from bftembed.config.tune import ObjectiveConfig


class ProfileSet(Strict):
    """Profiles by one generator.

    Attributes
    ----------
    name
        Name in tables.
    generator
        Generator spec; ``tuned`` (with options such as ``tuned,max_new_tokens=64``) is the model tuned in this run.
    prompt
        Name of the prompt, or a YAML file (`bftembed.profiles.prompts.read_prompt`); default that of the kind.
    allow_marks
        Quality flags that do not keep a profile from being embedded.
    baseline
        Whether the set is shown as a baseline, such as texts without a language model.
    """

    name: str = Field(min_length=1)
    generator: str = Field(min_length=1)
    prompt: str | None = None
    allow_marks: list[str] = Field(default=[])
    baseline: bool = False


class RunTune(Strict):
    """A tuning before the profiles.

    Attributes
    ----------
    model
        Language model: ``builtin:NAME``, a folder or a hub name.
    objective
        See `ObjectiveConfig`.
    train
        File of conversations; default the HGNC facts of genes that are not profiled in the run, as answers to the
        question of the profiles.
    rows
        Number of instruction pairs that are made of HGNC facts.
    steps, batch_size, learning_rate
        Optimizer steps, pairs per step, and the peak of the learning rate.
    max_length
        Length of the longest pair, in tokens.
    seed
        Seed of the genes drawn for the pairs, and of their order.
    """

    model: str = Field(default="builtin:smollm2-135m-instruct", min_length=1)
    objective: ObjectiveConfig = ObjectiveConfig(name="bft", window=16)
    train: str | None = None
    rows: int = Field(default=320, ge=1)
    steps: int = Field(default=40, ge=1)
    batch_size: int = Field(default=8, ge=1)
    learning_rate: float = Field(default=2e-5, gt=0)
    max_length: int = Field(default=256, ge=2)
    seed: int = Field(default=0, ge=0)


class Aggregation(BaseModel):
    """How cells are made of genes: a name for tables, and options of `bftembed.embed_cells`."""

    model_config = ConfigDict(extra="allow", frozen=True)
    name: str = ""


class Benchmark(BaseModel):
    """A benchmark: its name, and options of the verb ``bftembed.bench.NAME``, its label and batch among them."""

    model_config = ConfigDict(extra="allow", frozen=True)
    task: Literal["clustering", "integration", "genes"]


_OF_CELLS = ("data", "keys", "texts", "genes", "layer", "use_raw", "out", "run", "progress")
#: Options that the pipeline itself gives to a verb.
OWN_OPTIONS = {
    "cells embed": ("data", "genes", "key", "out", "sidecar", "shard", "layer", "use_raw", "overwrite", "progress"),
    "bench clustering": _OF_CELLS,
    "bench integration": _OF_CELLS,
    "bench genes": ("embeddings", "texts", "out", "progress"),
}


class RunConfig(Strict):
    """The main job from one file: what ``bftembed run`` does.

    Attributes
    ----------
    recipe
        Which model the file is checked against.
    title
        Title of the report.
    out
        Folder for everything that is written.
    cells
        ``builtin:NAME`` or the path of a h5ad.
    use_raw, layer
        Take expression and genes from ``.raw``, or expression from a layer.
    reference
        Key of ``obsm`` that is scored with the others as a reference, or None.
    n_genes
        Profile only so many genes, those with the highest mean expression; None profiles all.
    tune
        How the model of the generator ``tuned`` comes about, or None.
    profiles
        Sets of profiles. Cells are made of the genes that all of them cover, so that rows differ by vectors alone.
    encoders
        Encoder specs, for all of them.
    aggregations
        How cells are made of genes; default GenePT-w.
    benchmarks
        What is scored.
    maps
        Whether the report shows UMAPs of cells and genes.
    """

    recipe: Literal["run"] = "run"
    title: str = "bftembed: profiles, embeddings and their baselines"
    out: str = Field(default="runs/run", min_length=1)
    cells: str = Field(min_length=1)
    use_raw: bool = False
    layer: str | None = None
    reference: str | None = None
    n_genes: int | None = Field(default=None, ge=2)
    tune: RunTune | None = None
    profiles: list[ProfileSet] = Field(min_length=1)
    encoders: list[str] = Field(default=["builtin:all-minilm-l6-v2"], min_length=1)
    aggregations: list[Aggregation] = Field(default=[Aggregation()], min_length=1)
    benchmarks: list[Benchmark] = Field(default=[])
    maps: bool = True

    @model_validator(mode="after")
    def _names_differ(self) -> RunConfig:
        for what, names in (
            ("profiles", [p.name for p in self.profiles]),
            ("aggregations", [a.name for a in self.aggregations]),
            ("encoders", self.encoders),
        ):
            twice = [n for i, n in enumerate(names) if n in names[:i]]
            if twice:
                raise ValueError(f"two {what} are called {twice[0]!r}")
        return self

    def options_of(self, part: Aggregation | Benchmark) -> dict[str, Any]:
        """Return the options of a verb that an aggregation or a benchmark names."""
        return dict(part.model_extra or {})

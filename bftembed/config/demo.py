"""The recipe ``demo``: the main job on packaged models and cells."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from bftembed.config.strict import Strict
from bftembed.config.tune import ObjectiveConfig


class ProfileSet(Strict):
    """Profiles by one generator, as one row of a benchmark.

    Attributes
    ----------
    name
        How tables call the embedding made from them.
    generator
        Generator spec; ``tuned`` (with options such as ``tuned,max_new_tokens=64``) is the model tuned in this run.
    prompt
        Name of the prompt; None is the default of the kind.
    allow_marks
        Marks of screening that do not keep a profile from being embedded.
    """

    name: str = Field(min_length=1)
    generator: str = Field(min_length=1)
    prompt: str | None = None
    allow_marks: list[str] = Field(default=[])


class DemoTune(Strict):
    """A short tuning before the profiles: facts of genes that are not profiled, as answers to the profiles' question.

    Attributes
    ----------
    model
        Language model: ``builtin:NAME``, a folder or a hub name.
    objective
        See `ObjectiveConfig`. The facts have about 50 tokens; a window above that would do nothing.
    rows
        Instruction pairs, one per gene.
    steps, batch_size, learning_rate
        Optimiser steps, pairs per step, and the peak of the learning rate.
    max_length
        Longest pair, in tokens.
    seed
        Of the genes drawn for the pairs, and of their order.
    """

    model: str = Field(default="builtin:smollm2-135m-instruct", min_length=1)
    objective: ObjectiveConfig = ObjectiveConfig(name="bft", window=16)
    rows: int = Field(default=320, ge=1)
    steps: int = Field(default=40, ge=1)
    batch_size: int = Field(default=8, ge=1)
    learning_rate: float = Field(default=2e-5, gt=0)
    max_length: int = Field(default=256, ge=2)
    seed: int = Field(default=0, ge=0)


class DemoConfig(Strict):
    """The main job on real models and real cells: what ``bftembed demo`` runs.

    Attributes
    ----------
    recipe
        Which model of this module the file is checked against.
    out
        Folder for everything that is written.
    cells
        ``builtin:NAME`` or the path of a h5ad.
    use_raw
        Take expression and genes from ``.raw``.
    label
        Column of ``obs`` with the true labels.
    reference
        Key of ``obsm`` that is shown as the reference embedding, or None.
    genes
        Take only so many genes, those with the highest mean expression; None takes all.
    tune
        How the model of the generator ``tuned`` comes about, or None. Nothing is tuned where no set uses it.
    profiles
        Sets of profiles; floors are made of the last.
    encoder
        Encoder spec for all of them.
    seeds
        K-means seeds, and draws of every random floor.
    """

    recipe: Literal["demo"] = "demo"
    out: str = "runs/demo"
    cells: str = "builtin:pbmc68k_reduced"
    use_raw: bool = True
    label: str = "bulk_labels"
    reference: str | None = "X_pca"
    genes: int | None = Field(default=None, ge=2)
    tune: DemoTune | None = DemoTune()
    profiles: list[ProfileSet] = Field(
        default=[
            ProfileSet(
                name="SmolLM2-135M profiles",
                generator="builtin:smollm2-135m-instruct,max_new_tokens=64",
                allow_marks=["truncated"],
            ),
            ProfileSet(
                name="SmolLM2-135M tuned with bft",
                generator="tuned,max_new_tokens=64",
                allow_marks=["truncated"],
            ),
            ProfileSet(name="HGNC facts", generator="facts"),
        ],
        min_length=1,
    )
    encoder: str = "builtin:all-minilm-l6-v2"
    seeds: int = Field(default=5, ge=2, le=100)

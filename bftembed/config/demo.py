"""The recipe ``demo``: the main job on packaged models and cells."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from bftembed.config.strict import Strict


class ProfileSet(Strict):
    """Profiles by one generator, as one row of a benchmark.

    Attributes
    ----------
    name
        How tables call the embedding made from them.
    generator
        Generator spec.
    prompt
        Name of the prompt; None is the default of the kind.
    allow_marks
        Marks of screening that do not keep a profile from being embedded.
    """

    name: str = Field(min_length=1)
    generator: str = Field(min_length=1)
    prompt: str | None = None
    allow_marks: list[str] = Field(default=[])


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
    profiles
        Sets of profiles.
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
    profiles: list[ProfileSet] = Field(
        default=[
            ProfileSet(
                name="SmolLM2-135M profiles",
                generator="builtin:smollm2-135m-instruct,max_new_tokens=64",
                allow_marks=["truncated"],
            ),
            ProfileSet(name="HGNC facts", generator="facts"),
        ],
        min_length=1,
    )
    encoder: str = "builtin:all-minilm-l6-v2"
    seeds: int = Field(default=5, ge=2, le=100)

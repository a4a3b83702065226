"""`bench perturbation`: whether embeddings of the perturbed genes tell what perturbing them does."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from bftembed.bench.reading import listed
from bftembed.bench.screens import highly_variable, is_simulated, read_predictions, read_screen
from bftembed.embeddings import GeneEmbeddings
from bftembed.errors import BftembedError, examples
from bftembed.io import refuse_input_as_output
from bftembed.progress import Progress, silent

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import anndata
    import pandas as pd

    from bftembed.tasks.perturbation.data import Screen

    Source: TypeAlias = "anndata.AnnData | str | os.PathLike[str]"
    Embedding = GeneEmbeddings | str | os.PathLike[str]


def perturbation(
    data: Source | Sequence[Source],
    genes: Mapping[str, Embedding | Sequence[Embedding]] | Sequence[str],
    *,
    pert_col: str = "gene",
    cell_type_key: str = "cell_type",
    control: str = "non-targeting",
    split: str | Iterable[str] = ("unseen-gene", "unseen-cell-type"),
    seeds: int | Iterable[int] = 5,
    state: Source | None = None,
    allow_missing: bool = False,
    layer: str | None = None,
    use_raw: bool = False,
    gene_column: str | None = None,
    draws: int = 4,
    pca_dim: int = 10,
    ridge: float = 0.1,
    top: int | None = None,
    second_scorer: str | None = None,
    out: str | os.PathLike[str] | None = None,
    run: str | None = None,
    progress: Progress = silent,
) -> pd.DataFrame:
    """Score linear predictors of perturbation effects with embeddings of the perturbed genes, and without.

    Parameters
    ----------
    data
        AnnData or paths of h5ad files, one screen together.
    genes
        Name → gene embeddings, or ``"NAME=FILE"``, or files named by their stem. Several of one name are draws of one
        embedding: seed s uses draw s modulo their number.
    pert_col, cell_type_key
        Columns of ``.obs``: perturbed gene (also ``"A+B"``) and cell type.
    control
        Label of control cells.
    split
        ``"unseen-gene"`` (`bftembed.tasks.perturbation.splits.unseen_gene`), ``"unseen-cell-type"``, or both.
    seeds
        Number of seeds (0, 1, …), or the seeds.
    state
        ``adata_pred.h5ad`` of ``state tx predict`` on these data: one more row, beside our predictors trained on all
        conditions that it does not hold (protocol ``"held-out-by-state"``).
    allow_missing
        Leave out perturbations without a vector, and count them; else they are an error.
    layer, use_raw, gene_column
        Which expression, and which column of ``.var`` holds gene names.
    draws
        Draws of random and of shuffled vectors for each seed, at least 2.
    pca_dim, ridge
        Of the bilinear model.
    top
        At most so many changed genes of a condition count for ``de_overlap``; None takes all significant ones.
    second_scorer
        ``"cell-eval2"`` (extra ``perturb``) scores MAE and discrimination once more, as ``cell_eval2_mae`` and so on.
    out
        Results file to write (Parquet), whole or not at all; None writes nothing.
    run
        Name of the run; default the stem of the first file, ``"simulated: STEM"`` for simulated data.
    progress
        Called for every block of cells, then for every seed.

    Returns
    -------
    pandas.DataFrame
        The long results table; see `bftembed.tasks.perturbation.suite.run` for what its rows mean.

    Raises
    ------
    BftembedError
        For files that cannot be read, unknown columns, no control at all or in a cell type, cells without a label,
        values that are no expression, files with other genes, fewer than two perturbations, perturbations without a
        vector (unless `allow_missing`), embeddings without any of the genes, draws of other dimensions, and
        predictions that do not fit.
    """
    from bftembed.results import to_frame, write_results
    from bftembed.tasks.perturbation import Predictions, Settings
    from bftembed.tasks.perturbation import run as run_task

    sources = _sources(data)
    named = _named(genes)
    settings = Settings(
        splits=tuple(listed(split)),
        seeds=tuple(range(seeds)) if isinstance(seeds, int) else tuple(seeds),
        draws=draws,
        pca_dim=pca_dim,
        ridge=ridge,
        top=top,
        second_scorer=second_scorer,
    )
    if out is not None:
        given = [*sources, state, *(x for draws_of in named.values() for x in draws_of)]
        refuse_input_as_output(out, *(x for x in given if isinstance(x, (str, os.PathLike))))
    embeddings = {name: [GeneEmbeddings.of(x) for x in draws_of] for name, draws_of in named.items()}
    columns = (cell_type_key, pert_col)
    screen, notes = read_screen(
        sources,
        columns,
        control,
        layer=layer,
        use_raw=use_raw,
        gene_column=gene_column,
        progress=progress,
    )
    screen = _with_vectors(screen, embeddings, allow_missing=allow_missing)
    simulated = any(is_simulated(source) for source in sources) or any(
        e.provenance.get("simulated") for draws_of in embeddings.values() for e in draws_of
    )
    predictions: list[Predictions] = []
    if state is not None:
        found = read_predictions(state, columns, screen, control, highly_variable(sources[0]))
        predictions.append(Predictions(f"STATE: {_stem(state)}", *found))
    stem = _stem(sources[0])
    results = run_task(
        screen,
        embeddings,
        settings,
        run=run or (f"simulated: {stem}" if simulated else stem),
        note="; ".join([*(["simulated data"] if simulated else []), *notes, *_left_out(screen)]),
        predictions=predictions,
        progress=progress,
    )
    frame = to_frame(results)
    if out is not None:
        write_results(frame, out)
    return frame


def _sources(data: Source | Sequence[Source]) -> list[Source]:
    one = isinstance(data, (str, os.PathLike)) or hasattr(data, "obs")
    sources: list[Source] = [data] if one else list(data)  # type: ignore[arg-type]
    if not sources:
        raise BftembedError("No data were given: name at least one h5ad file.")
    return sources


def _stem(source: Source) -> str:
    if isinstance(source, (str, os.PathLike)):
        return Path(source).stem
    return Path(source.filename).stem if source.filename else "cells"


def _named(genes: Mapping[str, Embedding | Sequence[Embedding]] | Sequence[str]) -> dict[str, list[Embedding]]:
    """Return name → draws."""
    found: dict[str, list[Embedding]] = {}
    if isinstance(genes, Mapping):
        for name, given in genes.items():
            found[name] = list(given) if isinstance(given, (list, tuple)) else [given]  # type: ignore[list-item]
    else:
        for text in [genes] if isinstance(genes, (str, os.PathLike)) else genes:
            name, sign, file = str(text).partition("=")
            if not sign or Path(str(text)).exists():
                name, file = Path(str(text)).stem, str(text)
            found.setdefault(name, []).append(file)
    if not any(found.values()):
        raise BftembedError("No gene embeddings were given: genes=, --genes NAME=FILE.")
    return found


def _with_vectors(screen: Screen, embeddings: Mapping[str, Sequence[GeneEmbeddings]], *, allow_missing: bool) -> Screen:
    """Return the screen with the perturbations that have a vector in every embedding, or refuse."""
    from bftembed.tasks.perturbation.candidates import lacking

    absent = lacking(screen, embeddings)
    for name, labels in absent.items():
        if len(labels) == len(screen.labels):
            raise BftembedError(
                f"The embedding {name!r} has a vector for none of the {len(labels)} perturbations (such as "
                f"{examples(labels, 3)}; it has {examples(embeddings[name][0].ids, 3)}). Are these other genes, or "
                "another kind of names?"
            )
    if absent and not allow_missing:
        told = "; ".join(f"{name!r} lacks {examples(labels, 20)}" for name, labels in absent.items())
        raise BftembedError(
            f"Perturbations without a vector: {told}. Embed these genes too, or leave the perturbations out: "
            "allow_missing=True (--allow-missing)."
        )
    left = sorted({label for labels in absent.values() for label in labels})
    if len(screen.labels) - len(left) < 2:
        raise BftembedError(
            f"{len(screen.labels) - len(left)} perturbation has a vector in every embedding; two are needed. Without "
            f"one: {examples(left)}."
        )
    return screen.without(left) if left else screen


def _left_out(screen: Screen) -> list[str]:
    n = len(screen.left_out)
    return [f"{n} perturbations left out, without a vector: {examples(screen.left_out)}"] if n else []

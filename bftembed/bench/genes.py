"""Benchmarks of gene embeddings: vectors of any origin and tasks in, the results table out."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bftembed.bench.texts import read_texts
from bftembed.embeddings import GeneEmbeddings, GeneVectors, embed_genes, read_vectors
from bftembed.errors import BftembedError, examples
from bftembed.io import refuse_input_as_output
from bftembed.progress import Progress, silent

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import pandas as pd

    from bftembed.bench.texts import Texts
    from bftembed.encoders.base import Encoder
    from bftembed.tasks.genes.definition import GeneTask

    Vectors = str | os.PathLike[str] | GeneEmbeddings | GeneVectors


def genes(
    embeddings: Mapping[str, Vectors] | Sequence[str | os.PathLike[str]],
    tasks: str | os.PathLike[str] | Iterable[str | os.PathLike[str] | GeneTask],
    *,
    protocols: str | Sequence[str] = "strict",
    probes: str | Sequence[str] = "logistic",
    seeds: int | Iterable[int] = 5,
    floors: bool = True,
    own: bool = True,
    texts: Texts | Mapping[str, Texts] | None = None,
    encoder: str | None = None,
    allow_pickle: bool = False,
    key: str | None = None,
    out: str | os.PathLike[str] | None = None,
    cache: str | os.PathLike[str] | None = None,
    jobs: int = 1,
    progress: Progress = silent,
) -> pd.DataFrame:
    """Score gene embeddings on tasks about genes and gene pairs, beside the floors that they have to beat.

    Parameters
    ----------
    embeddings
        Name → file (see `bftembed.embeddings.read_vectors`) or vectors; or files, ``"NAME=FILE"`` or named by their
        stem.
    tasks
        Names (``bftembed.tasks.genes.builtin.TASKS``), folders of your own
        (`bftembed.tasks.genes.folder.load_task`), or tasks; one string is split at its commas.
    protocols
        ``"strict"`` (`bftembed.tasks.genes.splits.plan_strict`, `bftembed.tasks.genes.probes`) and ``"genept"``
        (`bftembed.tasks.genes.genept`).
    probes
        For ``strict``: ``"logistic"``, ``"mlp"``.
    seeds
        Number of divisions of ``strict``, or their seeds.
    floors
        Whether to score floors and ceilings too.
    own
        Whether to score each embedding also on all genes that it has, not only on those that all have.
    texts
        What the vectors were made from, for the floors of text (length, TF-IDF) and the leak check: gene → text, a
        profile store or its Parquet export, a table of gene and text, or ``"dataset:NAME"``; one for all embeddings,
        or one for each name.
    encoder
        Spec of the encoder that made the embeddings: texts that state a label are encoded again without the words, and
        scored as ``"NAME, label words masked"``; a text of which nothing is left gets a zero vector. TF-IDF encodes all
        texts again. An embedding whose provenance names another encoder is left as it is. None leaves that out.
    allow_pickle, key
        As in `bftembed.embeddings.read_vectors`.
    out
        Results file to write (Parquet), whole or not at all; None writes nothing.
    cache
        Folder where the scores of fits are kept, so that a rerun with one more embedding fits only that; None keeps
        nothing.
    jobs
        Processes that fit side by side. Above 1, a script needs ``if __name__ == "__main__":``.
    progress
        Called for every task and protocol.

    Returns
    -------
    pandas.DataFrame
        The long results table; see `bftembed.tasks.genes.suite.run` for what its rows mean.

    Raises
    ------
    BftembedError
        For files that cannot be read, unknown tasks or protocols, two embeddings of one name, vectors that are not
        finite, texts of none of the genes or of an embedding that is not there, data that are not at hand, and when no
        embedding has a gene of any task.
    """
    from bftembed.results import to_frame, write_results
    from bftembed.tasks.genes import suite
    from bftembed.tasks.genes.builtin import get_task
    from bftembed.tasks.genes.cache import ScoreCache
    from bftembed.tasks.genes.definition import GeneTask
    from bftembed.tasks.genes.setup import Embedding, Settings

    named = _named(embeddings)
    wanted = _listed(tasks)
    if not wanted:
        raise BftembedError("No task was named. See the names with: bftembed bench genes --list-tasks")
    if out is not None:
        read_from = [texts, *(texts.values() if isinstance(texts, Mapping) else ())]
        refuse_input_as_output(out, *(v for v in (*named.values(), *read_from) if isinstance(v, (str, os.PathLike))))
    settings = Settings(
        protocols=_listed(protocols),
        probes=_listed(probes),
        seeds=_seeds(seeds),
        floors=floors,
        own=own,
        jobs=jobs,
    )
    vectors = {name: _vectors(v, allow_pickle, key) for name, v in named.items()}
    sources = _texts_by_name(texts, vectors)
    found = [t if isinstance(t, GeneTask) else get_task(t) for t in wanted]
    read = {
        name: read_texts(source, vectors[name].provenance.get("allowed_marks", ())) for name, source in sources.items()
    }
    scored = {
        name: Embedding(v, read.get(name, {}), _masked(v, read.get(name, {}), found, encoder, progress))
        for name, v in vectors.items()
    }
    results = suite.run(scored, found, settings, cache=ScoreCache(cache), progress=progress)
    frame = to_frame(results)
    if frame["value"].isna().all():
        raise BftembedError(f"No embedding could be scored on any task. The first reason: {frame['note'].iloc[0]}")
    if out is not None:
        write_results(frame, out)
    return frame


def _named(embeddings: Mapping[str, Vectors] | Sequence[str | os.PathLike[str]]) -> dict[str, Vectors]:
    if isinstance(embeddings, Mapping):
        return dict(embeddings)
    found: dict[str, Vectors] = {}
    for given in [embeddings] if isinstance(embeddings, (str, os.PathLike)) else embeddings:
        name, sign, file = str(given).partition("=")
        if not sign or Path(str(given)).exists():
            name, file = Path(str(given)).stem, str(given)
        if not name:
            raise BftembedError(f"{given}: an embedding needs a name before the '='.")
        if name in found:
            raise BftembedError(f"Two embeddings are called {name!r}. Name them: NAME={given}")
        found[name] = file
    return found


def _listed(given: Any) -> tuple[Any, ...]:
    if isinstance(given, str):
        return tuple(dict.fromkeys(part.strip() for part in given.split(",") if part.strip()))
    return (given,) if isinstance(given, os.PathLike) or not hasattr(given, "__iter__") else tuple(given)


def _seeds(given: int | Iterable[int]) -> tuple[int, ...]:
    """Return the seeds, each once."""
    found = tuple(range(given)) if isinstance(given, int) else tuple(dict.fromkeys(int(seed) for seed in given))
    wrong = [seed for seed in found if not 0 <= seed < 2**24]  # probes make seeds of their own from these
    if wrong:
        raise BftembedError(f"The seed {wrong[0]} is not a whole number from 0 to {2**24 - 1}.")
    return found


def _vectors(given: Vectors, allow_pickle: bool, key: str | None) -> GeneVectors:
    if isinstance(given, GeneVectors):
        wrong = ~np.isfinite(given.matrix).all(axis=1)
        if wrong.any():
            named = examples(name for name, w in zip(given.ids, wrong, strict=True) if w)
            raise BftembedError(f"{given.source}: {int(wrong.sum())} genes have a NaN or infinite value ({named}).")
        return given
    if isinstance(given, GeneEmbeddings):
        return GeneVectors(tuple(given.ids), given.matrix, "memory", "bftembed", given.provenance)
    return read_vectors(given, allow_pickle=allow_pickle, key=key)


def _texts_by_name(texts: Texts | Mapping[str, Texts] | None, vectors: Mapping[str, GeneVectors]) -> dict[str, Texts]:
    """Return embedding → source of its texts. A mapping is one of genes, unless its keys are names of embeddings."""
    if texts is None:
        return {}
    if not isinstance(texts, Mapping):
        return dict.fromkeys(vectors, texts)
    if texts.keys() <= vectors.keys():
        return dict(texts)
    of_genes = any(gene in texts for v in vectors.values() for gene in v.ids)
    if not of_genes or any(not isinstance(t, str) for t in texts.values()):
        raise BftembedError(
            f"texts are given for {examples(texts)}; these are neither embeddings ({examples(vectors)}) nor genes of "
            f"theirs ({examples(next(iter(vectors.values())).ids)})."
        )
    return dict.fromkeys(vectors, texts)  # type: ignore[arg-type]


def _masked(
    vectors: GeneVectors, texts: Mapping[str, str], tasks: list[GeneTask], encoder: str | None, progress: Progress
) -> dict[str, GeneVectors]:
    """Encode again, for every task, the texts that state its label, without the words that do."""
    from bftembed.encoders.base import encoder_from_spec
    from bftembed.tasks.genes.leaks import mask_texts
    from bftembed.tasks.genes.matching import match_rows

    if encoder is None or not texts:
        return {}
    row_of = {gene: i for i, gene in enumerate(vectors.ids)}
    known = {gene: text for gene, text in texts.items() if gene in row_of and text.strip()}
    found: dict[str, GeneVectors] = {}
    engine: Encoder | None = None
    for task in tasks:
        # A task may spell a gene by another of its names.
        rows = match_rows(task.genes, vectors.ids)
        spelt = {gene: vectors.ids[row] for gene, row in zip(task.genes, rows.tolist(), strict=True) if row >= 0}
        of_task = {gene: known[own] for gene, own in spelt.items() if own in known}
        changed = {spelt[gene]: text for gene, text in mask_texts(task, of_task).items()}
        if not changed:
            continue
        engine = engine or encoder_from_spec(encoder)
        if vectors.provenance.get("encoder", {}).get("name", engine.spec.name) != engine.spec.name:
            return {}  # another encoder made these: vectors of two would be mixed
        wanted = {**known, **changed} if engine.spec.name == "tfidf" else changed
        matrix = np.zeros((len(wanted), vectors.dim), np.float32)
        rest = {gene: text for gene, text in wanted.items() if text.strip()}
        if rest:
            made = embed_genes(rest, engine, progress=progress)
            if made.dim != vectors.dim:
                raise BftembedError(
                    f"The encoder {encoder} gives {made.dim} dimensions, the embedding {vectors.source} has "
                    f"{vectors.dim}. Name the encoder that made the embedding."
                )
            place = {gene: i for i, gene in enumerate(wanted)}
            matrix[[place[gene] for gene in made.ids]] = made.matrix
        found[task.info.name] = GeneVectors(tuple(wanted), matrix, "memory", "bftembed")
    return found

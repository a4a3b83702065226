"""What stands beside the profiles in the demo's table: the floors, on the same genes and by the same aggregation."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from bftembed.embeddings import GeneEmbeddings, embed_genes
from bftembed.registry import parse_spec
from bftembed.runrecord import EmbeddingNote

if TYPE_CHECKING:
    from anndata import AnnData

    from bftembed.config import DemoConfig
    from bftembed.results import Result


@dataclass(frozen=True)
class Row:
    """A row of the table: what it is, and its gene vectors, one set per draw."""

    note: EmbeddingNote
    draws: tuple[GeneEmbeddings, ...]


def genes_of(cells: AnnData, *, use_raw: bool, most_expressed: int | None) -> list[str]:
    """Return the genes of the expression matrix, or those with the highest mean, in the file's order."""
    source = cells.raw if use_raw else cells
    names = [str(name) for name in source.var_names]
    if most_expressed is None or most_expressed >= len(names):
        return names
    means = np.asarray(source.X.mean(axis=0)).ravel()
    chosen = np.sort(np.argsort(-means, kind="stable")[:most_expressed])
    return [names[i] for i in chosen]


def shared_ids(embeddings: list[GeneEmbeddings]) -> list[str]:
    """Return the ids that all embeddings have, in the order of the first."""
    return [entity for entity in embeddings[0].ids if all(entity in other for other in embeddings[1:])]


SYMBOLS, RANDOM = "gene symbols alone", "random gene vectors"


def reference_name(key: str) -> str:
    """Return how the table calls the embedding `key` of the file."""
    return f"{key} of the file"


def names(config: DemoConfig) -> list[str]:
    """Return the names of the rows that are not sets of profiles."""
    last = config.profiles[-1].name
    found = [_tfidf(last), SYMBOLS, _shuffled_name(last), RANDOM]
    return found if config.reference is None else [*found, reference_name(config.reference)]


def _tfidf(last: str) -> str:
    return f"TF-IDF of {last}"


def _shuffled_name(last: str) -> str:
    return f"{last}, shuffled genes"


def rows(embeddings: dict[str, GeneEmbeddings], config: DemoConfig, *, texts: dict[str, str]) -> list[Row]:
    """Return the rows of the table: the sets of profiles, then the floors.

    Parameters
    ----------
    embeddings
        Set of profiles → its gene embeddings, all with the same ids.
    config
        Of the demo: generators, encoder, and the number of draws for floors that are drawn.
    texts
        Gene → its profile in the last set, for the floors made of texts.
    """
    ids = next(iter(embeddings.values())).ids
    dim = next(iter(embeddings.values())).dim
    found = []
    for profile_set in config.profiles:
        facts = parse_spec(profile_set.generator).engine == "facts"
        about = f"{profile_set.generator}, encoded by {config.encoder}"
        note = EmbeddingNote(name=profile_set.name, kind="floor" if facts else "profile", description=about)
        found.append(Row(note, (embeddings[profile_set.name],)))

    last = config.profiles[-1].name
    by_name = {entity: entity for entity in ids}
    found.append(_floor(_tfidf(last), "the same texts, words counted, no model", embed_genes(texts, encoder="tfidf")))
    symbols = embed_genes(by_name, encoder=config.encoder)
    found.append(_floor(SYMBOLS, f"{config.encoder} on the symbol, no profile", symbols))
    dealt = [_shuffled(embeddings[last], seed) for seed in range(config.seeds)]
    about = f"the vectors of {last}, each given to another gene at random; {config.seeds} draws"
    found.append(_floor(_shuffled_name(last), about, *dealt))
    drawn = [embed_genes(by_name, encoder=f"random:dim={dim},seed={seed}") for seed in range(config.seeds)]
    about = f"a Gaussian vector per gene, {dim} dimensions; {config.seeds} draws"
    found.append(_floor(RANDOM, about, *drawn))
    return found


def _floor(name: str, about: str, *draws: GeneEmbeddings) -> Row:
    return Row(EmbeddingNote(name=name, kind="floor", description=about), draws)


def _shuffled(embeddings: GeneEmbeddings, seed: int) -> GeneEmbeddings:
    order = np.random.default_rng(seed).permutation(len(embeddings))
    return GeneEmbeddings(embeddings.ids, embeddings.matrix[order], {"shuffled": seed, **embeddings.provenance})


def merge_draws(results: list[Result], keys: dict[str, list[str]]) -> list[Result]:
    """Name results by their row of the table; draw i of a floor is scored with seed i.

    Parameters
    ----------
    results
        Of the clustering task, with keys of ``.obsm`` as embeddings.
    keys
        Row of the table → its keys, several for a floor with several draws.
    """
    merged = []
    row_of = {key: (name, i, len(of_row)) for name, of_row in keys.items() for i, key in enumerate(of_row)}
    for result in results:
        name, draw, draws = row_of[result.embedding]
        if draws > 1:
            # The spread over draws replaces the bootstrap over cells, whose ends have no seed.
            if result.seed is None and result.split != "all":
                continue
            if result.seed not in (None, draw):
                continue
            result = replace(result, seed=draw)
        merged.append(replace(result, embedding=name))
    return merged

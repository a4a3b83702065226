"""Profiles to gene embeddings: `embed_genes`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bftembed.embeddings.table import GeneEmbeddings, checked_ids
from bftembed.errors import BftembedError
from bftembed.progress import Progress, silent

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence

    from bftembed.encoders.base import Encoder
    from bftembed.llm.base import Answer
    from bftembed.profiles.generate import GenerationReport


def embed_genes(
    profiles: str | os.PathLike[str] | Mapping[str, str] | Sequence[Answer] | GenerationReport,
    encoder: str | Encoder = "builtin:all-minilm-l6-v2",
    *,
    allow_marks: Sequence[str] = (),
    prompt: str | None = None,
    generator: str | None = None,
    keys: Sequence[str] | None = None,
    out: str | os.PathLike[str] | None = None,
    cache: str | os.PathLike[str] | None = None,
    progress: Progress = silent,
) -> GeneEmbeddings:
    """Encode profiles into one vector per gene. Profiles with a quality flag are left out and counted.

    Parameters
    ----------
    profiles
        Folder of a profile store, or the Parquet file of profiles export.

        Also a mapping of gene to text, a list of `Answer`, or what `bftembed.generate_profiles` returned (the profiles
        of that run's list alone).
    encoder
        Encoder, with its options: builtin:NAME, st:FOLDER_OR_HUB_NAME,option=value, bert:…, openai:MODEL, tfidf.

        Also an encoder object, see `bftembed.encoders.base`.
    allow_marks
        Quality flags that do not exclude a profile, separated by commas: truncated,looping.
    prompt
        Prompt of the profiles (bft-gene or bft-gene@1), where there are several.
    generator
        Generator of the profiles (its spec, the beginning of one, or its id), where there are several.
    out
        Gene embeddings to write (.safetensors).
    cache
        SQLite file of vectors, so that a killed run resumes. For openai: by default DIR/vectors.sqlite.

    Other Parameters
    ----------------
    keys
        Keys (`Answer.key`) of the profiles.
    progress
        Called with the number of texts done.

    Returns
    -------
    GeneEmbeddings
        Sorted by id. ``provenance`` holds ``bftembed`` (version), ``encoder`` (its spec), ``encoding`` (texts, chunks,
        dropped tokens), ``counts`` (profiles, embedded, left_out, unique_texts), ``left_out`` (mark → ids; a mark
        ``"zero vector"`` is a text that the encoder could not place), ``allowed_marks``, ``prompts``,
        ``generators`` and ``texts_sha256``; with a cache, ``cache`` holds the texts ``encoded`` and ``reused``.

    Raises
    ------
    BftembedError
        When there are no profiles, nothing is left to embed, or an entity has several profiles (says how to choose).
    """
    from bftembed._version import __version__
    from bftembed.encoders.base import encoder_from_spec
    from bftembed.encoders.cache import CachedEncoder, cached
    from bftembed.io import canonical_json, refuse_input_as_output, sha256_text
    from bftembed.profiles.selection import select_profiles

    if out is not None:
        refuse_input_as_output(out, profiles, cache)
    chosen = select_profiles(profiles, allow_marks=allow_marks, prompt=prompt, generator=generator, keys=keys)
    ids = checked_ids(list(chosen.texts))
    engine = encoder_from_spec(encoder) if isinstance(encoder, str) else encoder
    inputs = {name: name if engine.spec.uses_ids else text for name, text in chosen.texts.items()}
    unique = list(dict.fromkeys(inputs.values()))
    row = {text: i for i, text in enumerate(unique)}
    with cached(engine, cache, profiles) as asked:
        vectors = asked.encode(unique, progress)[[row[inputs[name]] for name in ids]]
    filled = np.asarray(vectors.any(axis=1))
    left_out = dict(chosen.left_out)
    if not filled.all():
        left_out["zero vector"] = [name for name, has in zip(ids, filled, strict=True) if not has]
    if not filled.any():
        raise BftembedError(f"The encoder {engine.spec.name} gave no vector for any of {len(ids)} texts.")
    n_embedded = int(filled.sum())
    counts = {"profiles": chosen.n_read, "embedded": n_embedded, "left_out": chosen.n_read - n_embedded}
    provenance = {
        "bftembed": __version__,
        "encoder": engine.spec.to_dict(),
        "encoding": asked.report.to_dict(),
        "counts": {**counts, "unique_texts": len(unique)},
        "left_out": left_out,
        "allowed_marks": list(chosen.allowed_marks),
        "prompts": list(chosen.prompts),
        "generators": list(chosen.generators),
        "texts_sha256": sha256_text(canonical_json(sorted(chosen.texts.items()))),
    }
    if isinstance(asked, CachedEncoder):
        provenance["cache"] = {"encoded": asked.n_encoded, "reused": asked.n_reused}
    kept = [name for name, has in zip(ids, filled, strict=True) if has]
    result = GeneEmbeddings(kept, vectors[filled], provenance)
    if out is not None:
        result.save(out)
    return result

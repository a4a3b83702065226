"""Identity of a profile: the same key means the same stored text, never generated twice."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bftembed.io import canonical_json, sha256_text
from bftembed.profiles.screening import POSTPROCESSING_VERSION

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bftembed.profiles.records import Message


def profile_key(
    *, entity: str, kind: str, messages: Sequence[Message], fingerprint: dict[str, Any], species: str = "human"
) -> str:
    """Return the sha256 (64 hexadecimal digits) of everything that decides a profile.

    Parameters
    ----------
    entity, kind, species
        What is profiled.
    messages
        The full chat: system text and prompt text with the entity filled in.
    fingerprint
        The generator's: model and revision, backend and version, dtype, device, sampling parameters.

    Notes
    -----
    The version of the post-processing is part of the key, batch size and thread count are not: the promise is
    the stored text, not bit-equal regeneration.
    """
    return sha256_text(
        canonical_json(
            {
                "entity": entity,
                "kind": kind,
                "species": species,
                "messages": [dict(m) for m in messages],
                "generator": fingerprint,
                "postprocessing": POSTPROCESSING_VERSION,
            }
        )
    )

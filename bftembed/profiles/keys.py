"""Identity of a profile: the same key means the same stored text, never generated twice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, overload

from bftembed.io import canonical_json, sha256_text
from bftembed.profiles.screening import POSTPROCESSING_VERSION

if TYPE_CHECKING:
    from collections.abc import Iterable

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


class Keys(Sequence[str]):
    """Keys of profiles in 32 bytes each: a million of them are 32 MB instead of 120."""

    def __init__(self, keys: Iterable[str] = ()) -> None:
        self._bytes = bytearray()
        for key in keys:
            self.append(key)

    def append(self, key: str) -> None:
        """Add a key of 64 hexadecimal digits."""
        self._bytes += bytes.fromhex(key)

    def __len__(self) -> int:
        return len(self._bytes) // 32

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Keys: ...
    def __getitem__(self, index: int | slice) -> str | Keys:
        if isinstance(index, slice):
            return Keys(self[i] for i in range(*index.indices(len(self))))
        at = range(len(self))[index]
        return self._bytes[32 * at : 32 * at + 32].hex()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

"""The content of a profile store: its profiles, and its counts."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from bftembed.llm.store import AnswerStore
from bftembed.profiles.export import mark_counts
from bftembed.profiles.selection import chosen

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from bftembed.llm.base import Answer


@dataclass(frozen=True)
class ShownProfiles:
    """Profiles of a store.

    Attributes
    ----------
    listed
        Number of names that the store was asked for.
    profiles
        Profiles of the genes that were asked for; by default all.
    genes
        Genes that were asked for.
    missing
        Those without a profile.
    generators
        Spec of each generator of the store.
    """

    listed: int
    profiles: tuple[Answer, ...]
    genes: tuple[str, ...]
    missing: tuple[str, ...]
    generators: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the profiles and missing genes, or without genes a summary, as JSON values."""
        if self.genes:
            return {"profiles": [asdict(p) for p in self.profiles], "missing": list(self.missing)}
        marks = mark_counts(list(self.profiles))
        return {
            "listed": self.listed,
            "profiles": len(self.profiles),
            "marks": marks,
            "generators": list(self.generators),
        }


def show_profiles(
    folder: str | os.PathLike[str],
    genes: Sequence[str] = (),
    *,
    prompt: str | None = None,
    generator: str | None = None,
) -> ShownProfiles:
    """Print the profiles of genes with their quality flags, or a summary of the store.

    The command exits with 3 when a gene has no profile.

    Parameters
    ----------
    folder
        Folder of the profile store.
    genes
        Genes, by any of the names that the store was asked for. None prints a summary.
    prompt
        Prompt of the profiles.
    generator
        Generator of the profiles: its spec, the beginning of one, or its id.
    """
    with AnswerStore.open(folder) as store:
        entity_of = {e.name: e.entity for e in store.entities()}
        wanted = tuple(dict.fromkeys(entity_of.get(g, g) for g in genes))
        profiles = store.answers(entities=wanted or None)
        generators = tuple(str(g["spec"]) for g in store.generators())
    if profiles:
        profiles = chosen(
            profiles, prompts=[prompt] if prompt else (), generators=[generator] if generator else (), where=str(folder)
        )
    missing = tuple(g for g in wanted if g not in {p.entity for p in profiles})
    return ShownProfiles(len(entity_of), tuple(profiles), wanted, missing, generators)


def store_status(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Count names, profiles, failures and tokens of a store. The command exits with 3 when profiles are missing.

    Parameters
    ----------
    folder
        Folder of the profile store. A run may be writing to it.
    """
    with AnswerStore.open(folder) as store:
        return store.status()

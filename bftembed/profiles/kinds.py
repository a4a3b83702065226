"""What can be profiled: how its names are understood, what a prompt calls it, and what its text may call it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bftembed.entities.genes import GeneIndex
from bftembed.entities.proteins import ProteinIndex
from bftembed.profiles.screening import valid_text
from bftembed.profiles.store import ListedEntity

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Kinds whose names are looked up; names of the others are taken as they are.
RESOLVED = ("gene", "protein")
KINDS = (*RESOLVED, "cell-type", "drug")


@dataclass(frozen=True)
class Subject:
    """An entity to profile.

    Attributes
    ----------
    entity
        Identifier that its profile carries, and what the prompt calls it.
    genes
        Of a protein: symbols of the genes that encode it.
    names
        What a text may call it: symbol, aliases, full name.
    """

    entity: str
    genes: tuple[str, ...]
    names: tuple[str, ...]


def listed(names: Sequence[str], kind: str) -> list[ListedEntity]:
    """Return what becomes of every name, in their order.

    Parameters
    ----------
    names
        As people wrote them.
    kind
        One of `KINDS`. Cell types and drugs have no register here: every name is used, with its spaces tidied.
    """
    if kind == "protein":
        proteins = ProteinIndex.default().resolve(names)
        return [ListedEntity(kind, valid_text(p.name), valid_text(p.entity), p.status, p.note) for p in proteins]
    if kind == "gene":
        genes = GeneIndex.default().resolve(names)
        return [ListedEntity(kind, valid_text(g.name), valid_text(g.entity), g.status, g.note) for g in genes]
    return [ListedEntity(kind, valid_text(name), " ".join(valid_text(name).split()), "used") for name in names]


def subject_of(entry: ListedEntity) -> Subject:
    """Return what is needed to ask for an entity and to judge the answer."""
    genes: tuple[str, ...] = ()
    symbols: tuple[str, ...] = (entry.entity,) if entry.kind == "gene" else ()
    if entry.kind == "protein":
        genes = symbols = ProteinIndex.default().resolve([entry.entity])[0].genes
    names = [entry.entity, entry.name]
    for symbol in symbols:
        record = GeneIndex.default().get(symbol)
        if record is not None:
            names += [record.symbol, record.name, *record.alias_symbols, *record.prev_symbols]
    return Subject(entry.entity, genes, tuple(dict.fromkeys(names)))

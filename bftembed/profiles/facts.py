"""Profiles from the packaged HGNC table: no model, the same text everywhere, true as far as HGNC goes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bftembed.entities.genes import GeneIndex, hgnc_version
from bftembed.llm.base import Capabilities, Completion

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from bftembed.entities.genes import GeneRecord
    from bftembed.llm.base import Request

#: Wording of the sentences below; part of the fingerprint.
_TEMPLATE_VERSION = 2


class Facts:
    """Writes names, aliases and locus type of a gene as sentences, of a protein those of its genes.

    Accession numbers are left out on purpose: digits are noise to a text encoder.
    """

    batch_size = 512
    sampling = None

    def fingerprint(self) -> dict[str, Any]:
        """Return the version of the wording and of the HGNC table."""
        return {"engine": "facts", "template": _TEMPLATE_VERSION, "hgnc": hgnc_version()}

    def capabilities(self) -> Capabilities:
        """Return chat: the entity of a profile's request (and its genes) is all that is read."""
        return Capabilities()

    def generate(self, requests: Sequence[Request]) -> Iterator[Completion]:
        """Yield a profile per request; an entity without an HGNC record is an error completion."""
        for request in requests:
            about, index = request.metadata, GeneIndex.default()
            symbols = about["genes"].split(",") if "genes" in about else [about["entity"]]
            records = [record for symbol in symbols if (record := index.get(symbol)) is not None]
            if not records:
                error = f"no HGNC record for {about['entity']!r}"
                yield Completion(request.id, finish_reason="error", error=error)
                continue
            text = " ".join(map(_sentences, records))
            if about["kind"] == "protein":
                # The protein is named, since it may share its genes with others (CD45RA and CD45RO); and the same
                # sentence about the locus for each of its genes would be a loop.
                opening = f"{about['entity']} is a protein encoded by {_listed([r.symbol for r in records])}."
                text = f"{opening} {text.replace(' Locus type: gene with protein product.', '')}"
            yield Completion(request.id, text)


def _sentences(record: GeneRecord) -> str:
    text = f"{record.symbol} is a human gene. Its full name is {record.name}. Locus type: {record.locus_type}."
    if record.alias_symbols:
        text += f" It is also known as {_listed(record.alias_symbols)}."
    if record.prev_symbols:
        text += f" Earlier symbols were {_listed(record.prev_symbols)}."
    return text


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"

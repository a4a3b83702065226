"""Prompts by name and version. A changed wording is a new version, so that old profiles keep their key."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bftembed.errors import BftembedError, unknown_name

if TYPE_CHECKING:
    from bftembed.profiles.records import Message


@dataclass(frozen=True)
class Prompt:
    """A prompt template.

    Attributes
    ----------
    name, version
        Identity; shown as ``name@version``.
    kind
        The kind of entity it is for, see `bftembed.profiles.kinds`.
    system
        The system message.
    user
        The user message, with ``{name}`` (for proteins ``{genes}``, for others ``{context}``) filled in per entity.
    source
        Where its idea comes from.
    """

    name: str
    version: int
    kind: str
    system: str
    user: str
    source: str

    @property
    def id(self) -> str:
        """Return ``name@version``."""
        return f"{self.name}@{self.version}"

    def messages(self, name: str, genes: tuple[str, ...] = (), context: str = "") -> tuple[Message, ...]:
        """Return the chat for one entity.

        Parameters
        ----------
        name
            The entity as the prompt should call it. It is data: braces in it are not interpreted.
        genes
            Symbols of the genes that encode a protein.
        context
            Free text to pass on. It is data as well.

        Raises
        ------
        BftembedError
            For a context where the prompt has no place for one.
        """
        if context and "{context}" not in self.user:
            raise BftembedError(f"The prompt {self.id} has no place for a context ({context[:40]!r}).")
        encoded = f", encoded by {' and '.join(genes)}" if genes and genes != (name,) else ""
        given = {"{genes}": encoded, "{name}": name, "{context}": f" Context: {context}" if context else ""}
        user = re.sub("{(?:genes|name|context)}", lambda place: given[place[0]], self.user)
        return ({"role": "system", "content": self.system}, {"role": "user", "content": user})


_ROLE = (
    "You are an assistant with deep knowledge of biology. Answer from what you know, in plain prose. "
    "The complete answer, spaces included, has to stay within 2000 characters."
)

PROMPTS = {
    "bft-gene": Prompt(
        "bft-gene",
        1,
        "gene",
        _ROLE,
        "Tell me about the gene {name}.",
        "the inference prompt of the BFT authors' released code (v1), in our words",
    ),
    "bft-protein": Prompt(
        "bft-protein",
        1,
        "protein",
        _ROLE,
        "Tell me about the protein {name}{genes}.",
        "bft-gene, asked of a protein",
    ),
    "bft-cell-type": Prompt(
        "bft-cell-type",
        1,
        "cell-type",
        _ROLE,
        "Tell me about the cell type {name}.{context}",
        "bft-gene, asked of a cell type",
    ),
    "bft-drug": Prompt(
        "bft-drug",
        1,
        "drug",
        _ROLE,
        "Tell me about the drug {name}: its targets, mechanism and effects on cells.{context}",
        "bft-gene, asked of a drug",
    ),
}


def get_prompt(name: str | None, kind: str) -> Prompt:
    """Return a prompt by name, or the default of a kind.

    Raises
    ------
    UnknownNameError
        For a name that is not known.
    BftembedError
        For a prompt of another kind.
    """
    if name is None:
        name = f"bft-{kind}"
    if name not in PROMPTS:
        raise unknown_name("prompt", name, PROMPTS)
    prompt = PROMPTS[name]
    if prompt.kind != kind:
        raise BftembedError(f"The prompt {name!r} is for kind {prompt.kind!r}, but the run is of kind {kind!r}.")
    return prompt

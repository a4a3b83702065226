"""Prompts by name and version. A changed wording is a new version, so that old profiles keep their key."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bftembed.errors import BftembedError, require, unknown_name
from bftembed.io import canonical_json, sha256_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bftembed.llm.base import Message


_PLACES = ("name", "genes", "aliases", "summary", "context")
_PLACE = re.compile("{(" + "|".join(_PLACES) + ")}")


@dataclass(frozen=True)
class Prompt:
    """A prompt template.

    Attributes
    ----------
    name, version
        Identity; shown as ``name@version``.
    kind
        The kind of entity it is for, see `bftembed.profiles.generate`.
    system
        The system message.
    user
        The user message, with ``{name}``, ``{genes}``, ``{aliases}``, ``{summary}`` and ``{context}`` filled in per
        entity.
    own
        From a file of the user (`read_prompt`).
    """

    name: str
    version: int | str
    kind: str
    system: str
    user: str
    own: bool = False

    @property
    def id(self) -> str:
        """Return ``name@version``."""
        return f"{self.name}@{self.version}"

    def messages(
        self, name: str, genes: Sequence[str] = (), context: str = "", aliases: Sequence[str] = (), summary: str = ""
    ) -> tuple[Message, ...]:
        """Return the chat for one entity. Braces in what is filled in are not interpreted.

        Parameters
        ----------
        name
            Name of the entity.
        genes
            Symbols of the genes that encode a protein.
        context
            Free text to pass on; an error where the prompt has no place for it.
        aliases
            Other names of the entity.
        summary
            RefSeq summary of the gene.
        """
        if context and not self.has("context"):
            raise BftembedError(f"The prompt {self.id} has no place for a context ({context[:40]!r}).")
        encoded = f", encoded by {' and '.join(genes)}" if genes and tuple(genes) != (name,) else ""
        others = ", ".join(alias for alias in aliases if alias != name)
        context = context if self.own or not context else f" Context: {context}"
        given = {"name": name, "genes": encoded, "aliases": others, "summary": summary, "context": context}
        texts = {"system": self.system, "user": self.user}
        filled = {role: _PLACE.sub(lambda place: given[place[1]], text) for role, text in texts.items()}
        return tuple({"role": role, "content": text} for role, text in filled.items() if text)

    def has(self, place: str) -> bool:
        """Return whether the prompt has a place for a value."""
        return f"{{{place}}}" in self.system + self.user


_ROLE = (
    "You are an assistant with deep knowledge of biology. Answer from what you know, in plain prose. "
    "The complete answer, spaces included, has to stay within 2000 characters."
)

#: The first is the inference prompt of the BFT authors' released code (v1), in our words; the others follow it.
PROMPTS = {
    prompt.name: prompt
    for prompt in (
        Prompt("bft-gene", 1, "gene", _ROLE, "Tell me about the gene {name}."),
        Prompt("bft-protein", 1, "protein", _ROLE, "Tell me about the protein {name}{genes}."),
        Prompt("bft-cell-type", 1, "cell-type", _ROLE, "Tell me about the cell type {name}.{context}"),
        Prompt(
            "bft-drug",
            1,
            "drug",
            _ROLE,
            "Tell me about the drug {name}: its targets, mechanism and effects on cells.{context}",
        ),
    )
}


def get_prompt(name: str | None, kind: str) -> Prompt:
    """Return a prompt by name, from a YAML file, or the default of a kind.

    Raises
    ------
    UnknownNameError
        For a name that is not known.
    BftembedError
        For a prompt of another kind, or a file that is no prompt.
    """
    name = name or f"bft-{kind}"
    if name.endswith((".yaml", ".yml")):
        return read_prompt(Path(name), kind)
    if name not in PROMPTS:
        raise unknown_name("prompt", name, PROMPTS)
    prompt = PROMPTS[name]
    if prompt.kind != kind:
        raise BftembedError(f"The prompt {name!r} is for kind {prompt.kind!r}, but the run is of kind {kind!r}.")
    return prompt


def read_prompt(path: Path, kind: str) -> Prompt:
    """Read a prompt from a YAML file with the keys ``user`` and, optionally, ``system``.

    Its version is the hash of its content, so that profiles of another wording are other profiles.

    Raises
    ------
    BftembedError
        For a file that cannot be read, another key, a place other than ``{name}``, ``{genes}``, ``{aliases}``,
        ``{summary}`` and ``{context}``, or a user message without ``{name}``.
    """
    yaml = require("yaml", "core")
    try:
        texts = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as err:
        raise BftembedError(f"{path} cannot be read as a prompt: {err}") from err
    if not isinstance(texts, Mapping) or set(texts) - {"system", "user"}:
        raise BftembedError(f"{path} must hold the keys user and, optionally, system.")
    user, system = str(texts.get("user", "")).strip(), str(texts.get("system", "")).strip()
    if others := set(re.findall(r"{(\w+)}", f"{system} {user}")) - set(_PLACES):
        raise unknown_name("place", min(others), _PLACES, where=str(path))
    if "{name}" not in user:
        raise BftembedError(f"{path} has no {{name}} in its user message.")
    version = sha256_text(canonical_json({"system": system, "user": user}))[:8]
    return Prompt(path.stem, version, kind, system, user, own=True)

"""What configs share: strict models, and YAML that may come from anyone."""

from __future__ import annotations

import re
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict

from bftembed.errors import BftembedError


class Strict(BaseModel):
    """Unknown keys are errors, values keep their type, and nothing changes after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class _Loader(yaml.SafeLoader):
    """YAML as people write it: ``1e-5`` is a number (YAML 1.1 wants ``1.0e-5`` and reads a string).

    Without aliases: no file here needs one, and a few lines of them unfold to more than the memory holds.
    """

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event = self.get_event()
            raise yaml.composer.ComposerError(None, None, "an alias (*); write the value itself", event.start_mark)
        return super().compose_node(parent, index)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def yaml_keys(text: str, *, where: str, expected: str) -> dict[str, Any]:
    """Return the keys and values of a YAML text.

    Parameters
    ----------
    text
        The text.
    where
        Its file, for the error.
    expected
        What such a file holds, for the error, for example ``"lines such as 'recipe: demo'"``.

    Raises
    ------
    BftembedError
        For what is no YAML, names a Python object or has an alias (with line and column), and for a text without keys.
    """
    try:
        values = yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as err:
        mark = getattr(err, "problem_mark", None)
        at = f" line {mark.line + 1}, column {mark.column + 1}:" if mark else ""
        raise BftembedError(f"{where}:{at} not valid YAML ({getattr(err, 'problem', None) or err}).") from err
    if not isinstance(values, dict):
        raise BftembedError(f"{where} holds no keys; expected {expected}.")
    return values

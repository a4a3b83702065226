"""What went wrong, said so that a user can act on it.

Every error that a user can cause is a `BftembedError`: the command line prints its message alone and
exits with 1, a library user catches one class.
"""

from __future__ import annotations

import difflib
import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import ModuleType


class BftembedError(Exception):
    """An error with a cause that the user can mend. The message names what, where and the remedy."""


class MissingExtraError(BftembedError):
    """A package that belongs to an optional extra is not installed."""


class UnknownNameError(BftembedError):
    """A name (generator, encoder, prompt, config key, obs column …) that is not among the known ones."""


def unknown_name(what: str, name: str, known: Iterable[str], *, where: str = "") -> UnknownNameError:
    """Return the error for a name that is not known: the nearest names first, then the list.

    Parameters
    ----------
    what, where
        What kind of name it is, for example ``"generator"``, and the file or table in which it was found.
    name, known
        The name that was given, and those that would have been accepted.
    """
    names = [str(k) for k in known]
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    place = f" in {where}" if where else ""
    hint = f" Did you mean {' or '.join(repr(n) for n in near)}?" if near else ""
    listed = ", ".join(names[:30]) + (f", … ({len(names)} in all)" if len(names) > 30 else "")
    return UnknownNameError(f"Unknown {what} {name!r}{place}.{hint} Known: {listed or '(none)'}.")


def require(module: str, extra: str) -> ModuleType:
    """Import an optional module that an extra of ``pyproject.toml`` brings.

    Raises
    ------
    MissingExtraError
        With the install line.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as err:
        raise MissingExtraError(
            f"The package {err.name or module!r} is not installed; it comes with an extra. "
            f'Install it with: pip install "bftembed[{extra}]"'
        ) from err


def examples(names: Iterable[object], n: int = 5) -> str:
    """Format the first `n` names for a message: ``"'A', 'B', 'C' … (12 in all)"``."""
    listed = list(names)
    shown = ", ".join(repr(str(x)) for x in listed[:n])
    return shown + (f" … ({len(listed)} in all)" if len(listed) > n else "")

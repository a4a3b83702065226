"""Replacing a whole folder: what was there stays until its successor is complete."""

from __future__ import annotations

import contextlib
import ctypes
import os
import secrets
import shutil
import sys
from typing import TYPE_CHECKING

from bftembed.errors import BftembedError
from bftembed.io import atomic_folder

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


@contextlib.contextmanager
def replaced_folder(folder: Path) -> Iterator[Path]:
    """Give a temporary folder that takes the place of `folder` in the end, whether that is there or not.

    `bftembed.io.atomic_folder` leaves a folder that is there as it is. Where the system can exchange two names (Linux)
    there is no moment without either; elsewhere there is one between two renames, and a killed process leaves the old
    folder beside its place, under a hidden name.

    Raises
    ------
    BftembedError
        When the disk is full or the place cannot be written; `folder` is untouched.
    """
    staged = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
    try:
        with atomic_folder(staged) as temporary:
            yield temporary
        _put(staged, folder)
    except OSError as err:
        raise BftembedError(f"Cannot write {folder}: {err}.") from err
    except BftembedError as err:
        if str(staged) not in str(err):
            raise
        raise BftembedError(str(err).replace(str(staged), str(folder))) from err.__cause__
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def _put(staged: Path, folder: Path) -> None:
    if not folder.exists():
        staged.rename(folder)
    elif not _exchanged(staged, folder):
        old = folder.with_name(f"{staged.name}.old")
        folder.rename(old)
        staged.rename(folder)
        shutil.rmtree(old, ignore_errors=True)


def _exchanged(one: Path, other: Path) -> bool:
    if not sys.platform.startswith("linux"):
        return False
    exchange = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if exchange is None:
        return False
    return bool(exchange(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0)

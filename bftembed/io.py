"""Files written atomically, hashes, and locks. The only place that replaces a file."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bftembed.errors import BftembedError

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path in the folder of `path`; on success it replaces `path`, on failure it is removed.

    The file is flushed to disk before the replacement, so `path` is at every moment either the old file or the whole
    new one. The folder is made when it is missing; the temporary path has the same suffix and does not exist yet.

    Raises
    ------
    BftembedError
        When the disk is full or the folder cannot be written; `path` is untouched.
    """
    final = Path(path)
    temporary: Path | None = None
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{final.name}.", suffix=final.suffix, dir=final.parent)
        os.close(handle)
        temporary = Path(name)
        temporary.unlink()
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(final)
        with contextlib.suppress(OSError):
            _fsync(final.parent)
    except OSError as err:
        raise BftembedError(_write_failure(final, err)) from err
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary folder beside `folder`; on success it becomes `folder`, on failure it is removed.

    For files that must appear together. All of them are flushed to disk first. A `folder` that exists by then stays,
    and ours is removed.

    Raises
    ------
    BftembedError
        When the disk is full or the place cannot be written.
    """
    final = Path(folder)
    temporary: Path | None = None
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{final.name}.", dir=final.parent))
        yield temporary
        for written in (*temporary.rglob("*"), temporary):
            _fsync(written)
        temporary.chmod(0o777 & ~_umask())
        with contextlib.suppress(OSError):
            temporary.rename(final)
        if not final.is_dir():
            raise OSError(errno.EACCES, "the folder cannot be put in place")
        with contextlib.suppress(OSError):
            _fsync(final.parent)
    except OSError as err:
        raise BftembedError(_write_failure(final, err)) from err
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def refuse_input_as_output(out: str | os.PathLike[str] | None, *inputs: object) -> None:
    """Raise when the file to be written is one of the inputs, by any name; what is no path of a file is passed over."""
    if out is None:
        return
    target = Path(out)
    for source in inputs:
        there = isinstance(source, str | os.PathLike) and target.exists() and Path(source).exists()
        if there and target.samefile(str(source)):
            raise BftembedError(
                f"{target} is the input {source} itself and would be overwritten. Choose another path for the output."
            )


def _write_failure(path: Path, err: OSError) -> str:
    if err.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT) or "File too large" in str(err):
        return f"Cannot write {path}: the disk is full. Free some space and run again; nothing was replaced."
    if err.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"Cannot write {path}: {err.strerror}. Choose a folder that you may write to."
    return f"Cannot write {path}: {err}."


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write `text` as UTF-8, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write `value` as indented JSON with a final newline, atomically."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, sort_keys=False) + "\n")


def json_lines(path: str | os.PathLike[str]) -> Iterator[dict[str, Any]]:
    """Yield the rows of a file of JSON lines.

    Raises
    ------
    BftembedError
        For a file that cannot be read, and a line that is not JSON.
    """
    try:
        with Path(path).open(encoding="utf-8") as handle:
            for line in handle:
                if line.strip():
                    yield json.loads(line)
    except (OSError, ValueError) as err:
        raise BftembedError(f"{path} is not a file of JSON lines ({err}).") from err


def canonical_json(value: Any) -> str:
    """Return the one JSON text of `value`: keys sorted, no spaces, UTF-8 kept, NaN refused."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def sha256_text(text: str) -> str:
    """Return the hexadecimal sha256 of `text` in UTF-8 (lone surrogates are kept apart, not refused)."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def sha256_file(path: str | os.PathLike[str]) -> str:
    """Return the hexadecimal sha256 of a file's bytes."""
    with Path(path).open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


@contextlib.contextmanager
def exclusive_lock(path: str | os.PathLike[str], *, holder: str) -> Iterator[None]:
    """Hold an exclusive lock on the file `path` (made when missing), released when the process ends.

    The file is left in place: the kernel owns the lock. `holder` is what it protects, for the error.

    Raises
    ------
    BftembedError
        When another process holds it.
    """
    import fcntl

    lock = Path(path)
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as err:
        raise BftembedError(_write_failure(lock, err)) from err
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as err:
            owner = os.pread(handle, 64, 0).decode(errors="replace").strip() or "unknown"
            raise BftembedError(
                f"Another process (pid {owner}) is working on {holder}. Wait for it, or choose another folder."
            ) from err
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(handle)

"""Public files by name: where they lie on this machine, and the one place that downloads them, when asked.

Looked for in the folders of ``$BFTEMBED_DATA``, then among earlier downloads. A file counts by its content: gzipped or
not, it must have the checksum of its entry.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bftembed.datasets.reading import DAMAGED_GZIP, open_content
from bftembed.datasets.registry import FILES, DataFile
from bftembed.errors import BftembedError, examples, unknown_name
from bftembed.io import atomic_path
from bftembed.llm.models import cache_folder
from bftembed.progress import silent

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from bftembed.progress import Progress

_CHUNK = 2**16


class DataNotFoundError(BftembedError):
    """A known file that does not lie on this machine."""


class DataMismatchError(BftembedError):
    """A file in the place of a known one, with other content.

    Parameters
    ----------
    message
        What is wrong, and what to do.
    path
        The file.
    """

    def __init__(self, message: str, path: Path) -> None:
        super().__init__(message)
        self.path = path


@dataclass(frozen=True)
class _Tree:
    """A data folder. Its files are listed once, and only when one is not at its own place."""

    root: Path

    @functools.cached_property
    def files(self) -> dict[str, list[Path]]:
        files: dict[str, list[Path]] = {}
        for folder, subfolders, names in os.walk(self.root):
            subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
            for name in sorted(names):
                files.setdefault(name, []).append(Path(folder, name))
        return files


@dataclass(frozen=True)
class FileStatus:
    """A known file and where it lies, or why not."""

    entry: DataFile
    found: Path | BftembedError

    @property
    def path(self) -> Path | None:
        """Where it lies."""
        return self.found if isinstance(self.found, Path) else None

    @property
    def status(self) -> str:
        """``"here"``, ``"not here"`` or ``"failed"``."""
        if self.path is not None:
            return "here"
        return "not here" if isinstance(self.found, DataNotFoundError) else "failed"

    def to_dict(self) -> dict[str, Any]:
        """Return name, status, path, checksum, error, and what the file is, as JSON values."""
        about = {name: getattr(self.entry, name) for name in ("url", "licence", "citation", "description")}
        return {
            "name": self.entry.name,
            "status": self.status,
            "path": None if self.path is None else str(self.path),
            "sha256": None if self.path is None else content_sha256(self.path),
            "error": None if self.path is not None else str(self.found),
            **about,
        }


def list_files() -> list[FileStatus]:
    """List the known files: name, place on this machine, license and content. Nothing is downloaded."""
    return [FileStatus(FILES[name], found) for name, found in find_files().items()]


def fetch_files(names: Sequence[str], *, progress: Progress = silent) -> list[FileStatus]:
    """Download known files that are not on this machine, and check their content.

    The command exits with 3 when some of several files fail.

    Parameters
    ----------
    names
        Names that bftembed data list shows.

    Other Parameters
    ----------------
    progress
        As for `fetch_file`.

    Raises
    ------
    BftembedError
        For an unknown name, before any download; and for a single file as `fetch_file`. Of several files a failure is
        in the status.
    """
    entries = [_entry(name) for name in dict.fromkeys(names)]
    files = []
    for entry in entries:
        try:
            files.append(FileStatus(entry, fetch_file(entry.name, progress)))
        except BftembedError as err:
            if len(entries) == 1:
                raise
            files.append(FileStatus(entry, err))
    return files


def locate_file(name: str) -> FileStatus:
    """Print the place of a known file on this machine; an error when it is not here.

    Parameters
    ----------
    name
        A name that bftembed data list shows.
    """
    return FileStatus(_entry(name), find_file(name))


def find_file(name: str) -> Path:
    """Return where a known file lies on this machine; nothing is downloaded.

    Looked for, in this order: its relative path, as it is or with ``.gz``, in every folder of ``$BFTEMBED_DATA``
    (several with ``:`` between them); a file of its name and its content anywhere below them; earlier downloads.

    Parameters
    ----------
    name
        A key of `FILES`.

    Raises
    ------
    UnknownNameError
        For a name that is not known.
    DataMismatchError
        When the file at its place has another content, or is a damaged gzip.
    DataNotFoundError
        When it lies nowhere; says how to get it.
    BftembedError
        When a folder of ``$BFTEMBED_DATA`` does not exist.
    """
    return _find(_entry(name), _trees())


def find_files() -> dict[str, Path | BftembedError]:
    """Return where every known file lies, or why not: `find_file` for all of them, in the order of `FILES`.

    Raises
    ------
    BftembedError
        When a folder of ``$BFTEMBED_DATA`` does not exist.
    """
    trees = _trees()
    found: dict[str, Path | BftembedError] = {}
    for name, entry in FILES.items():
        try:
            found[name] = _find(entry, trees)
        except BftembedError as err:
            found[name] = err
    return found


def fetch_file(name: str, progress: Progress = silent) -> Path:
    """Return where a known file lies, downloading it when it is not on this machine.

    A download lands in the cache folder, whole and with the right content or not at all; it replaces an earlier one
    that was damaged since.

    Parameters
    ----------
    name
        A key of `FILES`.
    progress
        Called with bytes received, bytes in all and the name, where the server says how many there are.

    Raises
    ------
    BftembedError
        As `find_file`; for a file that was derived and can be downloaded nowhere; when the address cannot be reached,
        answers with an error, breaks off, or gives another content.
    """
    entry = _entry(name)
    try:
        return _find(entry, _trees())
    except DataNotFoundError:
        pass
    except DataMismatchError as err:
        if err.path.parent != cache_path(entry).parent:
            raise
    if not entry.url:
        raise BftembedError(
            f"{name} cannot be downloaded: this content was made from another file. {entry.description} "
            f"Set BFTEMBED_DATA to a folder that holds {entry.path}."
        )
    return _download(entry, progress)


def load(name: str) -> Any:
    """Find a known file and read it with its parser.

    Parameters
    ----------
    name
        A key of `FILES`.

    Returns
    -------
    object
        What the parser of the entry returns; see `bftembed.datasets.parsers`.

    Raises
    ------
    BftembedError
        As `find_file`, and as the parser.
    """
    path = find_file(name)
    module, _, function = FILES[name].parser.partition(":")
    return getattr(importlib.import_module(module), function)(path)


def content_sha256(path: str | os.PathLike[str]) -> str:
    """Return the hexadecimal sha256 of a file's content, decompressed for a ``.gz``.

    It is computed once in a process for as long as size and time of the file stay.

    Raises
    ------
    DataMismatchError
        For a damaged gzip file.
    BftembedError
        For a file that cannot be read.
    """
    file = Path(path)
    try:
        state = file.stat()
        return _sha256(str(file.resolve()), state.st_size, state.st_mtime_ns)
    except DAMAGED_GZIP as err:
        raise DataMismatchError(f"{file} is a damaged gzip file ({err}). Remove it, or copy it again.", file) from err
    except OSError as err:
        raise BftembedError(f"{file} cannot be read: {err.strerror or err}. Check its permissions.") from err


@functools.lru_cache(maxsize=1024)
def _sha256(path: str, size: int, mtime_ns: int) -> str:
    digest = hashlib.sha256()
    with open_content(Path(path)) as handle:
        while piece := handle.read(2**20):
            digest.update(piece)
    return digest.hexdigest()


def cache_path(entry: DataFile) -> Path:
    """Return where a download of `entry` lies, or would lie."""
    return cache_folder() / "data" / entry.path


def _entry(name: str) -> DataFile:
    if name not in FILES:
        raise unknown_name("data file", name, FILES)
    return FILES[name]


def _trees() -> list[_Tree]:
    trees = []
    for part in os.environ.get("BFTEMBED_DATA", "").split(os.pathsep):
        if part:
            folder = Path(part).expanduser()
            if not folder.is_dir():
                raise BftembedError(f"BFTEMBED_DATA names {part}, which is no folder. Correct it, or unset it.")
            trees.append(_Tree(folder))
    return trees


def _find(entry: DataFile, trees: list[_Tree]) -> Path:
    for tree in trees:
        for path in _spellings(tree.root / entry.path):
            if path.is_file():
                return _checked(entry, path)
    others = []
    for tree in trees:
        for spelling in _spellings(Path(entry.path)):
            for path in tree.files.get(spelling.name, []):
                if _is(entry, path):
                    return path
                others.append(path)
    for path in _spellings(cache_path(entry)):
        if path.is_file():
            return _checked(entry, path)
    raise DataNotFoundError(_not_here(entry, trees, others))


def _spellings(path: Path) -> Iterator[Path]:
    yield path
    yield path.with_name(f"{path.name}.gz")


def _is(entry: DataFile, path: Path) -> bool:
    try:
        return content_sha256(path) in entry.checksums
    except BftembedError:
        return False


def _checked(entry: DataFile, path: Path) -> Path:
    found = content_sha256(path)
    if found in entry.checksums:
        return path
    again = f", then get it: bftembed data get {entry.name}" if entry.url else ""
    raise DataMismatchError(
        f"{path} is not {entry.name}: its content has sha256 {found}, expected {' or '.join(entry.checksums)}. "
        f"Remove or rename it{again}.",
        path,
    )


def _not_here(entry: DataFile, trees: list[_Tree], others: list[Path]) -> str:
    places = ", ".join([*(str(tree.root) for tree in trees), str(cache_folder() / "data")])
    hint = f" Of its name, but with another content: {examples(others, 3)}." if others else ""
    folder = f"set BFTEMBED_DATA to a folder that holds {entry.path}"
    if entry.url:
        way = f"Run `bftembed data get {entry.name}` ({entry.url}; licence: {entry.licence}), or {folder}."
    else:
        way = f"{folder[0].upper()}{folder[1:]}; it cannot be downloaded in this form. {entry.description}"
    return f"The data file {entry.name} is not on this machine (looked in {places}).{hint} {way}"


class _Received:
    """Bytes received, told to a `Progress`; the interface is that of tqdm, which pooch calls."""

    def __init__(self, name: str, progress: Progress) -> None:
        self.name, self.progress = name, progress
        self.done = self.total = 0

    def update(self, n: int) -> None:
        # Beyond the total when the server compresses what it sends; the end is told once, by close.
        self.done += n
        if self.done < self.total:
            self.progress(self.done, self.total, self.name)

    def reset(self) -> None:
        self.done = 0

    def close(self) -> None:
        if self.total:
            self.progress(self.total, self.total, self.name)


def _download(entry: DataFile, progress: Progress) -> Path:
    import pooch
    import requests

    target = cache_path(entry)
    by_hand = f"Try again later, or download {entry.url} by hand to {target}."
    receive = pooch.HTTPDownloader(progressbar=_Received(entry.name, progress), chunk_size=_CHUNK)
    with atomic_path(target) as temporary:
        try:
            receive(entry.url, str(temporary), None)
        except requests.HTTPError as err:
            answer = "with an error" if err.response is None else f"{err.response.status_code} {err.response.reason}"
            raise BftembedError(f"{entry.name}: {entry.url} answers {answer}. {by_hand}") from err
        except (requests.exceptions.ChunkedEncodingError, requests.exceptions.ContentDecodingError) as err:
            raise BftembedError(f"{entry.name}: the download of {entry.url} broke off. {by_hand}") from err
        except requests.RequestException as err:
            reason = type(err).__name__
            raise BftembedError(f"{entry.name}: {entry.url} cannot be reached ({reason}). {by_hand}") from err
        found = content_sha256(temporary)
        if found not in entry.checksums:
            raise BftembedError(
                f"{entry.name}: {entry.url} gave a file with sha256 {found}, expected {' or '.join(entry.checksums)}; "
                f"it was not kept. The address may have answered with a page, or the file changed. "
                f"If you have the right file, put it at {target}."
            )
    return target

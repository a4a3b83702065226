"""Public files by name (``files.yaml``): found on this machine, and downloaded by pooch on request.

A file counts by its content: gzipped or not, it must have the checksum of its entry.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import importlib.util
import os
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from bftembed.errors import BftembedError, unknown_name
from bftembed.llm.models import cache_folder

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Cells inside Python packages: name → package and file.
_CELLS = {"pbmc68k_reduced": ("scanpy", "datasets/10x_pbmc68k_reduced.h5ad")}


class DataNotFoundError(BftembedError):
    """A known file is not on this machine."""


class DataMismatchError(BftembedError):
    """A file in the place of a known one has another content."""


@dataclass(frozen=True)
class DataFile:
    """A public file, known by its content.

    Attributes
    ----------
    name, path
        Its name, and its relative path in a data folder (without ``.gz``).
    sha256
        Of the uncompressed content, so that a gzipped copy is the same file: 64 hexadecimal digits.
    licence, citation
        As the owners state them, and what was not verified.
    description
        Its content. The first sentence stands alone.
    parser
        Key of `bftembed.datasets.parsers.PARSERS`.
    url
        Address of exactly this content; ``""`` when it was derived from a source, as the description says.
    """

    name: str
    path: str
    sha256: str
    licence: str
    citation: str
    description: str
    parser: str
    url: str = ""


#: Every file, by name.
FILES: dict[str, DataFile] = {
    name: DataFile(name, **fields)
    for name, fields in yaml.safe_load(Path(__file__).with_name("files.yaml").read_text(encoding="utf-8")).items()
}


@dataclass(frozen=True)
class FileStatus:
    """A known file and its place on this machine, or the error."""

    entry: DataFile
    found: Path | BftembedError

    @property
    def path(self) -> Path | None:
        """Its place."""
        return self.found if isinstance(self.found, Path) else None

    @property
    def status(self) -> str:
        """``"here"``, ``"not here"`` or ``"failed"``."""
        if self.path is not None:
            return "here"
        return "not here" if isinstance(self.found, DataNotFoundError) else "failed"

    def to_dict(self) -> dict[str, Any]:
        """Return name, status, path, checksum, error and the entry's fields as JSON values."""
        about = {key: value for key, value in asdict(self.entry).items() if key not in ("path", "parser")}
        place = {"status": self.status, "path": None, "sha256": None, "error": str(self.found)}
        if self.path is not None:
            place |= {"path": str(self.path), "sha256": self.entry.sha256, "error": None}
        return about | place


def list_files() -> list[FileStatus]:
    """List the known files: name, place on this machine, license and content. Nothing is downloaded."""
    return [FileStatus(FILES[name], found) for name, found in find_files().items()]


def fetch_files(names: Sequence[str]) -> list[FileStatus]:
    """Download known files that are not on this machine, and check their content.

    A download is moved to its place in the cache folder when its content is right; it replaces one that was damaged
    since. The command exits with 3 when some of several files fail.

    Parameters
    ----------
    names
        Names that bftembed data list shows.

    Raises
    ------
    BftembedError
        For an unknown name, before any download; and for a single file that fails. Of several files a failure is in
        the status.
    """
    entries = [_entry(name) for name in dict.fromkeys(names)]
    files = []
    for entry in entries:
        try:
            found = _at_place(entry, data_folders())
            if found is None:
                found = _download(entry) if entry.url else find_file(entry.name)
            files.append(FileStatus(entry, found))
        except BftembedError as err:
            if len(entries) == 1:
                raise
            files.append(FileStatus(entry, err))
    return files


def find_file(name: str) -> Path:
    """Print the place of a known file on this machine; an error when it is not here. Nothing is downloaded.

    Searched at its relative path, as it is or with ``.gz``, in every folder of ``$BFTEMBED_DATA`` (separated by ``:``)
    and among earlier downloads, in this order.

    Parameters
    ----------
    name
        A name that bftembed data list shows.

    Raises
    ------
    UnknownNameError
        For an unknown name.
    DataMismatchError
        When the file at its place has another content, or is a damaged gzip file.
    DataNotFoundError
        When it is missing; says how to get it.
    BftembedError
        When a folder of ``$BFTEMBED_DATA`` does not exist.
    """
    entry, folders = _entry(name), [*data_folders(), cache_folder() / "data"]
    found = _at_place(entry, folders)
    if found is not None:
        return found
    way = f"Set BFTEMBED_DATA to a folder that holds {entry.path}"
    if entry.url:
        way += f", or run `bftembed data get {name}` ({entry.url}; license: {entry.licence})."
    else:
        way += f"; it cannot be downloaded, since it was made from another file. {entry.description}"
    searched = ", ".join(map(str, folders))
    raise DataNotFoundError(f"The data file {name} is not on this machine (searched {searched}). {way}")


def find_files() -> dict[str, Path | BftembedError]:
    """Return the place of every known file, or the error of `find_file`, in the order of `FILES`."""
    data_folders()
    found: dict[str, Path | BftembedError] = {}
    for name in FILES:
        try:
            found[name] = find_file(name)
        except BftembedError as err:
            found[name] = err
    return found


def load(name: str) -> Any:
    """Find a known file and read it with its parser, one of `bftembed.datasets.parsers.PARSERS`.

    Parameters
    ----------
    name
        A key of `FILES`.

    Raises
    ------
    BftembedError
        As `find_file`.
    """
    from bftembed.datasets.parsers import PARSERS

    return PARSERS[_entry(name).parser](find_file(name))


def data_path(name: str) -> str:
    """Return the file of ``builtin:NAME``, cells inside a Python package; anything else as it is.

    Raises
    ------
    UnknownNameError
        For an unknown builtin name.
    BftembedError
        When the package is not installed.
    """
    if not name.startswith("builtin:"):
        return name
    key = name.removeprefix("builtin:")
    if key not in _CELLS:
        raise unknown_name("builtin data set", key, _CELLS)
    package, file = _CELLS[key]
    found = importlib.util.find_spec(package)
    if found is None or not found.origin:
        raise BftembedError(f"builtin:{key} comes with {package}; install it: pip install {package}")
    return str(Path(found.origin).parent / file)


def data_folders() -> list[Path]:
    """Return the folders of ``$BFTEMBED_DATA``; an error where one does not exist."""
    found = [Path(part).expanduser() for part in os.environ.get("BFTEMBED_DATA", "").split(os.pathsep) if part]
    for folder in found:
        if not folder.is_dir():
            raise BftembedError(f"BFTEMBED_DATA names {folder}, which is not a folder. Correct it, or unset it.")
    return found


def find_data(data: str | os.PathLike[str] | None, folder: str) -> Path:
    """Return a folder of the data: below `data`, else below a folder of ``$BFTEMBED_DATA``.

    Raises
    ------
    BftembedError
        When it is in none of them.
    """
    roots = [Path(data)] if data else data_folders()
    for root in roots:
        if (root / folder).exists():
            return root / folder
    places = ", ".join(map(str, roots)) or "--data and BFTEMBED_DATA are not given"
    raise BftembedError(f"No {folder} in the data folder ({places}); bftembed eval list says what is needed.")


def _entry(name: str) -> DataFile:
    if name not in FILES:
        raise unknown_name("data file", name, FILES)
    return FILES[name]


def _at_place(entry: DataFile, folders: Sequence[Path]) -> Path | None:
    """Return the first file at the place of an entry; None for none, an error where its content is another."""
    places = (folder / f"{entry.path}{suffix}" for folder in folders for suffix in ("", ".gz"))
    path = next((path for path in places if path.is_file()), None)
    if path is None:
        return None
    try:
        state = path.stat()
        found = f"sha256 {_sha256(path, state.st_size, state.st_mtime_ns)}"
    except (OSError, EOFError, zlib.error) as err:
        found = f"no readable content ({err})"
    if found == f"sha256 {entry.sha256}":
        return path
    again = f", then get it: bftembed data get {entry.name}" if entry.url else ""
    raise DataMismatchError(
        f"{path} is not {entry.name}: it has {found}, expected sha256 {entry.sha256}. Remove or rename it{again}."
    )


@functools.lru_cache(maxsize=1024)
def _sha256(path: Path, size: int, mtime_ns: int) -> str:
    """Return the checksum of a file's uncompressed content, computed once while its size and time stay."""
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()  # type: ignore[arg-type, unused-ignore]


def _download(entry: DataFile) -> Path:
    import pooch

    pooch.get_logger().setLevel("WARNING")
    folder = cache_folder() / "data"
    registry, urls = {entry.path: f"sha256:{entry.sha256}"}, {entry.path: entry.url}
    try:
        path = Path(pooch.create(folder, base_url="", registry=registry, urls=urls).fetch(entry.path))
        path.chmod(0o644)  # pooch leaves it readable by its owner alone
    except (OSError, ValueError) as err:
        raise BftembedError(
            f"{entry.name}: the download of {entry.url} failed ({err}). Try again later, or put the file at "
            f"{folder / entry.path} by hand."
        ) from err
    return path

"""Gene vectors out of a pickle, without running it: a dict of gene → list of numbers or flat NumPy array (GenePT)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bftembed.embeddings.pickle_machine import Damaged, run_pickle
from bftembed.embeddings.pickle_values import NumberList, Refused, Vector
from bftembed.embeddings.raw import MOST_BYTES, RawVectors
from bftembed.errors import BftembedError

if TYPE_CHECKING:
    from pathlib import Path


def pickled_numbers(file: Path) -> RawVectors:
    """Read a pickled dict of gene → list of numbers, or flat NumPy array of numbers, without running it.

    Parameters
    ----------
    file
        A pickle of any protocol, of one object.

    Returns
    -------
    RawVectors
        float64 where any vector is a list, or an array of float64; float32 otherwise.

    Raises
    ------
    BftembedError
        When it asks for anything else (names it; nothing was run), is truncated or damaged, holds other objects,
        vectors of different length, or more numbers than the file has room for.
    """
    if file.stat().st_size > MOST_BYTES:
        raise BftembedError(f"{file} has {file.stat().st_size:,} bytes; more than {MOST_BYTES:,} are refused.")
    data = file.read_bytes()
    try:
        table = run_pickle(data)
    except Refused as err:
        raise BftembedError(
            f"{file} is a pickle that is not read: {err}. Nothing of it was run. A dict of gene → list of numbers, or "
            "of gene → flat NumPy array, is read; convert it to .npz or .tsv in a place you trust."
        ) from err
    except Damaged as err:
        raise BftembedError(
            f"{file} is a truncated or damaged pickle ({err}). Nothing of it was run. Copy it again."
        ) from err
    return _as_matrix(file, table, len(data))


def _as_matrix(file: Path, table: dict[str, NumberList | Vector], size: int) -> RawVectors:
    if not table:
        raise BftembedError(f"{file} is a pickle of an empty dict: there are no genes in it.")
    rows = {}
    for gene, value in table.items():
        flat = np.asarray(value.packed) if isinstance(value, NumberList) else value.values
        if flat is None:
            raise BftembedError(f"{file} is damaged: the NumPy array of {gene!r} has no content. Copy it again.")
        rows[gene] = flat
    first = next(iter(rows))
    dim = len(rows[first])
    for gene, flat in rows.items():
        if len(flat) != dim:
            raise BftembedError(
                f"{file}: the vector of {gene!r} has {len(flat)} numbers, that of {first!r} has {dim}. "
                "All must be of one length; leave out what does not belong."
            )
    # A number takes 2 bytes or more (arrays of int8 one); a list that many genes share may claim many times the file.
    claimed = sum(dim * min(2, flat.dtype.itemsize) for flat in rows.values())
    if claimed > size:
        raise BftembedError(
            f"{file}: {len(rows)} genes × {dim} numbers do not fit a pickle of {size:,} bytes: genes share one vector. "
            "Refused; save one vector per gene."
        )
    wide = any(flat.dtype.kind == "f" and flat.dtype.itemsize > 4 for flat in rows.values())
    matrix = np.empty((len(rows), dim), dtype=np.float64 if wide else np.float32)
    for i, flat in enumerate(rows.values()):
        matrix[i] = flat
    return RawVectors(list(rows), matrix)

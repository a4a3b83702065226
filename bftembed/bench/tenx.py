"""10x matrices with feature types: the .h5 of version 3, and the folder with matrix.mtx.gz."""

from __future__ import annotations

import contextlib
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from bftembed.bench.expression import check_fits
from bftembed.cells.feature_types import GENE_WORDS, PROTEIN_WORDS, is_of
from bftembed.cells.preflight import check_declared_size
from bftembed.errors import BftembedError
from bftembed.hdf5 import is_group, open_h5ad

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_MATRICES = ("matrix.mtx.gz", "matrix.mtx")


def is_tenx_file(handle: Any) -> bool:
    """Return whether an open HDF5 file is a 10x matrix, of any version."""
    if is_group(handle.get("matrix")):
        return True
    groups = [member for member in handle.values() if is_group(member)]
    return "obs" not in handle and any({"barcodes", "indptr", "gene_names"} <= set(group) for group in groups)


def is_tenx_folder(path: Path) -> bool:
    """Return whether a folder holds a 10x matrix."""
    return any((path / name).is_file() for name in _MATRICES)


def read_tenx(path: Path) -> Any:
    """Read a 10x matrix with scanpy.

    Parameters
    ----------
    path
        The .h5 file, or the folder.

    Returns
    -------
    AnnData
        All features, names as they are, ``.var["feature_types"]``, X sparse by cell.

    Raises
    ------
    BftembedError
        For a damaged file, one that leads out of itself, a matrix without feature types, or one that does not fit
        into the memory.
    """
    import scanpy

    typeless = f"{path} tells no feature types (10x version 2), so RNA and proteins cannot be told apart. "
    remedy = "Give the proteins in a file of their own (--protein-data), the RNA as h5ad."
    if not path.is_dir():
        with open_h5ad(path) as handle:
            if not is_group(handle.get("matrix")) or "features" not in handle["matrix"]:
                raise BftembedError(typeless + remedy)
            check_declared_size(handle["matrix"], str(path))
            try:
                (n_features, n_cells), n_values = handle["matrix/shape"][:].tolist(), len(handle["matrix/data"])
            except Exception as err:  # h5py raises whatever a damaged file leads it to
                raise _damaged(path, err) from err
            check_fits(n_cells, n_features, n_values, str(path))
    elif not any((path / name).is_file() for name in ("features.tsv.gz", "features.tsv")):
        raise BftembedError(typeless + "There is no features.tsv.gz in it. " + remedy)
    else:
        n_features, n_cells, n_values = _mtx_size(path)
        check_fits(n_cells, n_features, n_values, str(path))
    try:
        with names_may_repeat():
            if path.is_dir():
                found = scanpy.read_10x_mtx(path, gex_only=False, make_unique=False)
            else:
                found = scanpy.read_10x_h5(path, gex_only=False)
        found.X = found.X.tocsr()
        found.X.check_format(full_check=True)  # an index beyond the matrix would crash what comes
    except Exception as err:  # scanpy, pandas and SciPy each raise their own for a damaged file
        raise _damaged(path, err) from err
    return found


def _damaged(path: Path, err: Exception) -> BftembedError:
    told = (str(err) or type(err).__name__).splitlines()[0]
    return BftembedError(f"{path} cannot be read as a 10x matrix ({told}). Copy or download it again.")


def _mtx_size(folder: Path) -> tuple[int, int, int]:
    """Return features, cells and values as the head of a matrix declares them."""
    from scipy.io import mminfo

    file = next(folder / name for name in _MATRICES if (folder / name).is_file())
    try:
        features, cells, values = mminfo(file)[:3]
    except Exception as err:  # SciPy, gzip and zlib each raise their own for a damaged file
        raise BftembedError(f"{file} has no line with its size, so it is damaged. Copy or download it again.") from err
    return features, cells, values


def split_by_type(adata: Any, where: str) -> tuple[Any, Any]:
    """Divide an AnnData by ``.var["feature_types"]``.

    Parameters
    ----------
    adata
        In memory.
    where
        What messages call it.

    Returns
    -------
    tuple of AnnData
        The genes and the antibodies, of the same cells.

    Raises
    ------
    BftembedError
        When one of the two types is missing; names those that are there.
    """
    types = [str(x) for x in adata.var["feature_types"]]
    parts = [is_of(types, words) for words in (GENE_WORDS, PROTEIN_WORDS)]
    for part, wanted, what in zip(parts, ("Gene Expression", "Antibody Capture"), ("RNA", "proteins"), strict=True):
        if not part.any():
            names, counts = np.unique(types, return_counts=True)
            listed = ", ".join(f"{n} of {str(name)!r}" for name, n in zip(names, counts, strict=True)) or "none"
            raise BftembedError(
                f"{where} has no {what}: no feature is of the type {wanted!r}; its features are {listed}. Both "
                "modalities are needed; proteins that are elsewhere are given in a file of their own (--protein-data)."
            )
    with names_may_repeat():
        return adata[:, parts[0]].copy(), adata[:, parts[1]].copy()


@contextlib.contextmanager
def names_may_repeat() -> Iterator[None]:
    """Keep anndata silent about names that occur twice: columns of one gene are summed, and CD4 is also an antibody."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*names are not unique")
        yield

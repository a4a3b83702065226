"""Cell embeddings as a Parquet file: a row per cell, its vector a list of fixed length."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import numpy as np

from bftembed.cells.sinks import Spool
from bftembed.cells.writing import UNS, as_json, coverage_column

if TYPE_CHECKING:
    import contextlib
    from collections.abc import Sequence
    from pathlib import Path

    from bftembed.cells.aggregate import Sink
    from bftembed.cells.names import Table

#: Numbers of a row group: 8 MB.
_NUMBERS = 2**21


class ParquetSidecar:
    """A `bftembed.cells.sidecar.Sidecar` with the columns ``cell``, ``file`` (of several), ``KEY_coverage`` and KEY.

    Parameters
    ----------
    temporary
        The file to write.
    key, files
        See `bftembed.cells.sidecar.sidecar_of`.
    folder
        For a nameless file: rows are written once, in order.
    stack
        Closes what is open.
    """

    def __init__(
        self, temporary: Path, key: str, files: Sequence[str], folder: Path, stack: contextlib.ExitStack
    ) -> None:
        self._temporary, self._key, self._files, self._folder, self._stack = temporary, key, files, folder, stack
        self._writer: Any = None
        self._spool: Spool | None = None
        self._number = 0

    def sink(self, shape: tuple[int, int]) -> Sink:
        """Return a nameless file."""
        if self._writer is None:
            import pyarrow as pa
            import pyarrow.parquet as pq

            columns = [("cell", pa.string())]
            if self._files:
                columns.append(("file", pa.dictionary(pa.int32(), pa.string())))
            columns += [(coverage_column(self._key), pa.float64()), (self._key, pa.list_(pa.float32(), shape[1]))]
            self._schema = pa.schema(columns)
            coded = ["file"] if self._files else False  # values of vectors hardly repeat
            writer = pq.ParquetWriter(self._temporary, self._schema, use_dictionary=coded)
            self._writer = self._stack.enter_context(writer)
        self._spool = self._stack.enter_context(Spool(*shape, self._folder))
        return self._spool

    def take(self, table: Table) -> None:
        """Write the rows of one input."""
        import pyarrow as pa

        assert self._spool is not None
        rows = max(1, _NUMBERS // self._spool.dim)
        spooled = self._spool.parts(rows)
        for (names, coverage, keep), (_, vectors) in zip(table.parts(rows), spooled, strict=True):
            columns = [pa.array(names, pa.string())]
            if self._files:
                codes = pa.array(np.full(len(names), self._number, dtype=np.int32))
                columns.append(pa.DictionaryArray.from_arrays(codes, pa.array(self._files, pa.string())))
            flat = pa.array(vectors[keep].reshape(-1))
            columns += [pa.array(coverage), pa.FixedSizeListArray.from_arrays(flat, self._spool.dim)]
            self._writer.write_table(pa.Table.from_arrays(columns, schema=self._schema))
        self._spool.close()
        self._number += 1

    def finish(self, provenance: dict[str, Any]) -> None:
        """Put the provenance into the metadata of the schema, and close the file."""
        told = {UNS: as_json(provenance)}
        # Written already, without what was not known then: the schema as Arrow reads it from the file's metadata.
        schema = base64.b64encode(self._schema.with_metadata(told).serialize()).decode()
        self._writer.add_key_value_metadata({"ARROW:schema": schema, **told})
        self._writer.close()

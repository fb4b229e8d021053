"""The index of a data set: the labels and frame counts of all tracklets as columns, in one memory-mapped file.

``index.arrow`` is an Arrow IPC file with the columns of ``INDEX_SCHEMA``, one row a tracklet: those of the first shard,
then those of the second, and so on. Who opens the data set reads this file alone, so that neither time nor memory goes
into the shards. There is one file for all shards, because a thousand small ones take several times as long to open, and
so does every choice of rows from as many pieces; each shard's part is kept in its record until the manifest is written.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from data_tools.arrow_compression import is_compressed
from data_tools.columnar_rows import LABELS, ColumnarRows
from data_tools.errors import InputError
from data_tools.files import sha256_of
from data_tools.manifest import INDEX_NAME, IndexEntry, ShardEntry, wrong_checksum
from data_tools.storage import StorageFolder
from data_tools.tracklet import SPLITS, Split
from data_tools.wording import one_line, shown

INDEX_SCHEMA = pa.schema({**LABELS, "frame_count": pa.int32()})
_BYTES_OF_A_FRAME = 4
"""In a shard, at least: its offset."""


@dataclass(frozen=True, slots=True)
class ShardRow:
    """One stored tracklet without its frames. ``clothes`` is unique only within its person."""

    id: str
    person: str | None
    clothes: str | None
    camera: str
    split: Split
    attributes: Mapping[str, str]
    frame_count: int
    shard: int
    batch: int


class ShardRows(ColumnarRows[ShardRow]):
    """N stored tracklets, as columns.

    Attributes:
        frame_count_N: frames of each, int32 (N,).
        shard_N, batch_N: the shard that holds the frames and the record batch in it, int32 (N,).
    """

    schema = pa.schema([*INDEX_SCHEMA, pa.field("shard", pa.int32()), pa.field("batch", pa.int32())])

    def __init__(self, columns: pa.Table) -> None:
        super().__init__(columns)
        self.frame_count_N, self.shard_N, self.batch_N = (
            self.columns[name].to_numpy() for name in ("frame_count", "shard", "batch")
        )

    @staticmethod
    def row(*values: Any) -> ShardRow:
        return ShardRow(*values)


def pack_index(rows: ShardRows) -> bytes:
    """The part of an index for some rows, as the content of an Arrow file without labels of other rows."""
    plain = rows.plain().select(INDEX_SCHEMA.names)
    sink = pa.BufferOutputStream()
    _write(plain.cast(INDEX_SCHEMA), sink)
    content: bytes = sink.getvalue().to_pybytes()
    return content


def write_index(
    parts: Sequence[bytes], shards: Sequence[ShardEntry], folder: StorageFolder, name: str = INDEX_NAME
) -> IndexEntry:
    """Write the index of all shards, atomically, from what ``pack_index`` returned for each.

    Raises:
        InputError: a part does not fit its shard.
        OSError: the folder cannot be written.
    """
    place = str(folder / name)
    tables = [
        parse_index(pa.py_buffer(part), place, [shard]).columns for part, shard in zip(parts, shards, strict=True)
    ]
    rows = ShardRows(pa.concat_tables([ShardRows.schema.empty_table(), *tables]))
    with folder.new_file(name) as path:
        with path.open("wb") as file:
            _write(rows.columns.select(INDEX_SCHEMA.names), file)
        return IndexEntry(file=name, size_bytes=path.stat().st_size, sha256=sha256_of(path))


def read_index(path: Path, entry: IndexEntry, shards: Sequence[ShardEntry]) -> ShardRows:
    """The rows of an index, mapped: compared with the manifest's checksum and checked as a whole, but not copied.

    Raises:
        InputError: it cannot be read, or does not fit the manifest; names the row.
    """
    try:
        content = pa.memory_map(str(path)).read_buffer()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InputError(f"{path}: not readable: {one_line(error)}") from None
    found = hashlib.sha256(content).hexdigest()
    if found != entry.sha256:
        raise wrong_checksum(str(path), found, entry)
    return parse_index(content, str(path), shards)


def parse_index(content: pa.Buffer, place: str, shards: Sequence[ShardEntry]) -> ShardRows:
    """The rows of the index ``content`` of the file ``place``, which lists the tracklets of ``shards``.

    Raises:
        InputError: it is not a valid index, or not of these shards; names the row.
    """
    try:
        reader = pa.ipc.open_file(content)
        if not reader.schema.equals(INDEX_SCHEMA):
            names = one_line(reader.schema.names)
            raise InputError(f"{place}: its columns are {names}, expected {INDEX_SCHEMA.names} with their types")
        if is_compressed(memoryview(content)):
            raise InputError(f"{place}: is compressed, expected an uncompressed Arrow file")
        table = reader.read_all()
        table.validate(full=True)
    except InputError:
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InputError(f"{place}: not a readable Arrow file: {one_line(error)}") from None
    rows_S = np.array([shard.rows for shard in shards], np.int64)
    if table.num_rows != rows_S.sum():
        raise InputError(f"{place}: {table.num_rows} rows, expected the {rows_S.sum()} of its shards")
    for name in ("id", "camera", "split", "frame_count"):
        missing = np.flatnonzero(table[name].is_null().to_numpy())
        if len(missing):
            raise InputError(f"{place}: row {missing[0]}: no {name}")
    shard_N = np.repeat(np.arange(len(shards), dtype=np.int32), rows_S)
    batch_N = np.arange(table.num_rows) - (np.cumsum(rows_S) - rows_S)[shard_N]
    rows = ShardRows(table.append_column("shard", [shard_N]).append_column("batch", [batch_N.astype(np.int32)]))
    _check_splits(rows, place)
    _check_frames(rows, place, shards)
    return rows


def _check_splits(rows: ShardRows, place: str) -> None:
    strange = np.flatnonzero(~rows.is_in("split", SPLITS))
    if len(strange):
        row = rows[int(strange[0])]
        expected = f"expected one of {', '.join(SPLITS)}"
        raise InputError(f"{place}: row {strange[0]} ({shown(row.id)}): split {shown(row.split)}, {expected}")


def _check_frames(rows: ShardRows, place: str, shards: Sequence[ShardEntry]) -> None:
    few = np.flatnonzero(rows.frame_count_N < 1)
    if len(few):
        row = rows[int(few[0])]
        raise InputError(f"{place}: row {few[0]} ({shown(row.id)}): {row.frame_count} frames, expected at least 1")
    frames_S = np.bincount(rows.shard_N, rows.frame_count_N, len(shards))
    for shard, frames in zip(shards, frames_S.astype(np.int64).tolist(), strict=True):
        if frames != shard.frames or frames * _BYTES_OF_A_FRAME > shard.size_bytes:
            raise InputError(
                f"{place}: {frames} frames of {shard.file}, expected {shard.frames} in {shard.size_bytes} bytes"
            )


def _write(table: pa.Table, sink: object) -> None:
    with pa.ipc.new_file(sink, INDEX_SCHEMA) as writer:
        writer.write_table(table)

"""One Arrow shard, memory-mapped: each row, in its own record batch, is a tracklet."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import pyarrow as pa

from data_tools.arrow_compression import is_batch_compressed
from data_tools.columnar_rows import LABELS
from data_tools.errors import InputError
from data_tools.manifest import ShardEntry
from data_tools.shard_index import ShardRow
from data_tools.tracklet import SPLITS
from data_tools.wording import one_line, shown

SHARD_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("person", pa.string()),
        pa.field("clothes", pa.string()),
        pa.field("camera", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("attributes", pa.map_(pa.string(), pa.string()), nullable=False),
        pa.field("frame_index", pa.list_(pa.int32()), nullable=False),
        pa.field("frames", pa.list_(pa.binary()), nullable=False),
    ]
)


class ShardFile:
    """One mapped shard. Nothing of it is read before a row is asked for, and each row is checked when it is read.

    Methods raise InputError where the shard is damaged, naming the file and the tracklet (from 0).

    Args:
        number: the shard's, for its rows.
        place: how messages name the file, if not by ``path``.
    """

    def __init__(self, path: Path, entry: ShardEntry, number: int = 0, place: str = "") -> None:
        self.entry, self.number, self.place = entry, number, place or str(path)
        try:
            self._mapped = pa.memory_map(str(path)).read_buffer()
        except (pa.ArrowException, OSError, ValueError) as error:
            raise InputError(f"{self.place}: not readable: {one_line(error)}") from None

    @cached_property
    def _reader(self) -> pa.RecordBatchFileReader:
        try:
            reader = pa.ipc.open_file(self._mapped)
            names = None if reader.schema.equals(SHARD_SCHEMA) else one_line(reader.schema.names)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise InputError(f"{self.place}: not a readable Arrow file: {one_line(error)}") from None
        if names is not None:
            raise InputError(f"{self.place}: its columns are {names}, expected {SHARD_SCHEMA.names} with their types")
        if reader.num_record_batches != self.entry.rows:
            raise InputError(f"{self.place}: {reader.num_record_batches} tracklets, expected {self.entry.rows}")
        return reader

    def batch(self, number: int) -> pa.RecordBatch:
        """A row that :meth:`row` has checked."""
        return self._reader.get_batch(number)

    def rows(self) -> Iterator[ShardRow]:
        """All rows, checked."""
        return map(self.row, range(self._reader.num_record_batches))

    def row(self, number: int) -> ShardRow:
        """One row, checked."""
        reader = self._reader
        try:
            if is_batch_compressed(memoryview(self._mapped), number):
                raise InputError("is compressed, expected an uncompressed Arrow file as written by ray_jobs/shard.py")
            batch = reader.get_batch(number)
            # Later reads do not check for offsets that point outside the file.
            batch.validate(full=True)
            if batch.num_rows != 1:
                raise InputError(f"{batch.num_rows} rows in one record batch, expected 1")
            return self._row(batch, number)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise InputError(f"{self.place}: tracklet {number} cannot be read: {one_line(error)}") from None

    def _row(self, batch: pa.RecordBatch, number: int) -> ShardRow:
        values = {name: batch.column(name)[0].as_py() for name in LABELS}
        missing = [name for name in ("id", "camera") if values[name] is None]
        if missing:
            raise InputError(f"no {missing[0]}")
        frames, numbers = (batch.column(name).flatten() for name in ("frames", "frame_index"))
        if values["split"] not in SPLITS or not len(frames):
            raise InputError(f"split {shown(values['split'])}, {len(frames)} frames")
        # With a nonzero first offset or gaps, later reads would return the wrong frames.
        if frames.offset or frames.null_count or numbers.null_count or len(numbers) not in (0, len(frames)):
            raise InputError(f"{len(frames)} frames with {len(numbers)} numbers, expected both without gaps")
        values["attributes"] = {name: value for name, value in values["attributes"] or () if value is not None}
        return ShardRow(**values, frame_count=len(frames), shard=self.number, batch=number)

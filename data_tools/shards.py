"""Reading Arrow shards by memory map.

A shard is an Arrow IPC file; each row, in its own record batch, is a tracklet. ``ShardFolder`` opens a finished data
set by its index (``data_tools.shard_index``); ``data_tools.shard_writer`` writes one.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from itertools import accumulate, pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from data_tools.arrow_compression import is_batch_compressed
from data_tools.encoded_pictures import open_picture
from data_tools.errors import InputError
from data_tools.file_lock import lock_file
from data_tools.files import sha256_of
from data_tools.manifest import INDEX_NAME, Manifest, ShardEntry, read_manifest, wrong_checksum
from data_tools.progress import message
from data_tools.shard_index import ShardRow, ShardRows, pack_index, parse_index, read_index
from data_tools.storage import StorageFolder
from data_tools.tracklet import SPLITS
from data_tools.wording import one_line, shown

IN_USE_NAME = ".in-use"
"""A file in each data set of the shard cache, locked by every process that has the data set open."""

EncodedFrame = npt.NDArray[np.uint8]

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


class ShardFolder:
    """A finished data set, memory-mapped.

    ``rows`` lists every tracklet in stored order. Opening checks the manifest, each file's size and the whole index,
    and reads nothing of the shards. A row is checked, and compared with the index, when its frames or their numbers are
    first asked for; :func:`verify_shard` checks all. A data set in the shard cache is not evicted while it is open.

    Raises:
        InputError: a file is missing or damaged; names the file. Methods that take a row raise it for a damaged row.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        in_use = folder / IN_USE_NAME
        self._in_use = lock_file(in_use, shared=True) if in_use.exists() else None
        self.manifest: Manifest = read_manifest(StorageFolder(str(folder)))
        self._shards = [
            ShardFile(folder / entry.file, entry, shard) for shard, entry in enumerate(self.manifest.shards)
        ]
        if self.manifest.index is None:
            self._index = self._read_every_row()
        else:
            self._index = read_index(folder / INDEX_NAME, self.manifest.index, self.manifest.shards)
        self._checked = np.full(len(self._index), self.manifest.index is None)
        self._first = list(accumulate((entry.rows for entry in self.manifest.shards), initial=0))
        self.rows = self._index
        self._frames: dict[int, tuple[npt.NDArray[np.int32], npt.NDArray[np.uint8]]] = {}

    def __reduce__(self) -> tuple[type[ShardFolder], tuple[Path]]:
        return ShardFolder, (self.folder,)

    def encoded_frames(self, row: int, positions: Sequence[int]) -> list[EncodedFrame]:
        """Frames of one row as stored: views of the memory map, not copies.

        Args:
            row: index into ``rows``.
            positions: positions in the row's stored frames, from 0.

        Returns:
            One uint8 array per position: (bytes,) of an encoded picture, or (height, width, 3) RGB in ``raw`` mode.
        """
        offsets, data = self._frames.get(row) or self._map_frames(row)
        views = [data[offsets[position] : offsets[position + 1]] for position in positions]
        if self.manifest.storage == "raw":
            assert self.manifest.image_size is not None
            return [view.reshape(*self.manifest.image_size, 3) for view in views]
        return views

    def fingerprint(self, row: int) -> str:
        """Checksum of the shard that holds the row."""
        return self.manifest.shards[int(self.rows.shard_N[row])].sha256

    def fingerprints(self, rows: ShardRows) -> pa.DictionaryArray:
        """Checksums of the shards that hold these of its rows, as a column."""
        checksums = pa.array([entry.sha256 for entry in self.manifest.shards], pa.string())
        return pa.DictionaryArray.from_arrays(rows.shard_N, checksums)

    def frame_index(self, row: int) -> npt.NDArray[np.int32]:
        """(frame_count,) int32 numbers of the row's frames in the recording; empty if unknown."""
        batch = self._batch(row)
        index: npt.NDArray[np.int32] = batch.column("frame_index").flatten().to_numpy(zero_copy_only=True)
        return index

    def _batch(self, row: int) -> pa.RecordBatch:
        shard, batch = self._shards[self.rows.shard_N[row]], int(self.rows.batch_N[row])
        number = self._first[shard.number] + batch
        if not self._checked[number]:
            _compare(self._index[number], shard.row(batch), f"{self.folder / INDEX_NAME}: row {number}", shard.place)
            self._checked[number] = True
        return shard.batch(batch)

    def _read_every_row(self) -> ShardRows:
        """The rows of a data set without an index."""
        started = time.monotonic()
        parts = [ShardRows.of(shard.rows()).columns for shard in self._shards]
        rows = ShardRows(pa.concat_tables([ShardRows.schema.empty_table(), *parts]))
        message(
            f"{self.folder}: made by an earlier version, without an index, so that every process reads all shards "
            f"first: {len(rows)} tracklets in {time.monotonic() - started:.1f} s; ray_jobs/shard.py --index adds it"
        )
        return rows

    def _map_frames(self, row: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.uint8]]:
        frames = self._batch(row).column("frames").flatten()
        _, offsets, data = frames.buffers()
        views = np.frombuffer(offsets, np.int32)[: len(frames) + 1], np.frombuffer(data, np.uint8)
        if self.manifest.storage == "raw":
            self._check_raw(row, views[0])
        self._frames[row] = views
        return views

    def _check_raw(self, row: int, offsets: npt.NDArray[np.int32]) -> None:
        height, width = self.manifest.image_size or (0, 0)
        if (np.diff(offsets) != height * width * 3).any():
            stored = self.rows[row]
            place, size = self._shards[stored.shard].place, f"{height}x{width}x3"
            raise InputError(f"{place}: tracklet {stored.id}: raw frames do not have {size} bytes")


def verify_shard(
    folder: StorageFolder,
    entry: ShardEntry,
    image_size: tuple[int, int] | None,
    *,
    frames: bool,
    index: bytes | None = None,
) -> int:
    """Compare one shard's bytes with the manifest's checksum and, with ``frames``, check every row and decode it.

    Args:
        image_size: the manifest's.
        index: what :func:`index_parts` returns for the shard, to compare its rows with.

    Returns:
        The shard's number of frames.

    Raises:
        InputError: the checksum differs, a row cannot be read or is not as in the index, or a frame (named by tracklet
            and position) is not a complete picture.
    """
    with _right_shard(folder, entry) as shard:
        if frames:
            _verify_rows(shard, image_size, index, folder)
    return entry.frames


def index_shard(folder: StorageFolder, entry: ShardEntry) -> bytes:
    """One shard's part of the index, made from its rows: see ``pack_index``; raises as :func:`verify_shard` does."""
    with _right_shard(folder, entry) as shard:
        return pack_index(ShardRows.of(shard.rows()))


@contextmanager
def _right_shard(folder: StorageFolder, entry: ShardEntry) -> Iterator[ShardFile]:
    """The shard, if its checksum is the manifest's."""
    place = str(folder / entry.file)
    with folder.fetched(entry.file) as path:
        try:
            found = sha256_of(path)
        except OSError as error:
            raise InputError(f"{place}: {error.strerror}") from None
        if found != entry.sha256:
            raise wrong_checksum(place, found, entry)
        yield ShardFile(path, entry, place=place)


def _verify_rows(
    shard: ShardFile, image_size: tuple[int, int] | None, index: bytes | None, folder: StorageFolder
) -> None:
    listed = index and parse_index(pa.py_buffer(index), f"{folder / INDEX_NAME}: {shard.entry.file}", [shard.entry])
    for row in shard.rows():
        if listed:
            _compare(listed[row.batch], row, f"{folder / INDEX_NAME}: {shard.entry.file}: row {row.batch}", shard.place)
        for position, frame in enumerate(shard.batch(row.batch).column("frames").flatten()):
            _check_frame(frame.as_buffer(), image_size, f"{shard.place}: tracklet {row.id}: frame {position}")


def index_parts(folder: StorageFolder, manifest: Manifest) -> list[bytes | None]:
    """Each shard's part of the index, checked; None where the data set has no index.

    Raises:
        InputError: the index is damaged.
    """
    if manifest.index is None:
        return [None] * len(manifest.shards)
    with folder.fetched(INDEX_NAME) as path:
        rows = read_index(path, manifest.index, manifest.shards)
        bounds = accumulate((entry.rows for entry in manifest.shards), initial=0)
        return [pack_index(rows[start:end]) for start, end in pairwise(bounds)]


def _check_frame(encoded: pa.Buffer | None, size: tuple[int, int] | None, place: str) -> None:
    if size is not None and encoded is not None and encoded.size == size[0] * size[1] * 3:
        return  # raw pixels
    try:
        with open_picture(pa.BufferReader(encoded or b""), ("JPEG", "PNG")) as picture:
            picture.load()
    except (OSError, ValueError) as error:
        raise InputError(f"{place}: not a complete picture: {one_line(error)}") from None
    if size is not None and picture.size != (size[1], size[0]):
        raise InputError(f"{place}: {picture.size[0]}x{picture.size[1]} pixels, expected {size[1]}x{size[0]}")


def _compare(listed: ShardRow, found: ShardRow, listed_place: str, found_place: str) -> None:
    for name in ShardRows.schema.names:
        there, here = getattr(listed, name), getattr(found, name)
        if there != here:
            raise InputError(
                f"{listed_place}: {name} {shown(there)}, but {found_place}: tracklet {found.batch} has {shown(here)}; "
                "make the index again with ray_jobs/shard.py --index"
            )


class ShardFile:
    """One mapped shard; what is read of it is checked when it is read.

    Its methods raise InputError where it is damaged, naming the file and the tracklet (from 0).
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
        values = {name: batch.column(name)[0].as_py() for name in SHARD_SCHEMA.names[:6]}
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

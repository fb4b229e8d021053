"""Reading a finished data set of Arrow shards by memory map.

``ShardFolder`` opens it by its index (``data_tools.shard_index``) and reads the shards (``data_tools.shard_file``) row
by row as their frames are asked for; ``data_tools.shard_writer`` writes it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate, pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from data_tools.encoded_pictures import open_picture
from data_tools.errors import InputError
from data_tools.file_lock import lock_file
from data_tools.files import sha256_of
from data_tools.manifest import INDEX_NAME, Manifest, ShardEntry, read_manifest, wrong_checksum
from data_tools.progress import message
from data_tools.shard_file import ShardFile
from data_tools.shard_index import ShardRow, ShardRows, pack_index, parse_index, read_index
from data_tools.storage import StorageFolder
from data_tools.wording import one_line, shown

IN_USE_NAME = ".in-use"
"""A file in each data set of the shard cache, locked by every process that has the data set open."""

EncodedFrame = npt.NDArray[np.uint8]


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
        self._index_place = folder / (INDEX_NAME if self.manifest.index is None else self.manifest.index.file)
        if self.manifest.index is None:
            self._index = self._read_every_row()
        else:
            self._index = read_index(self._index_place, self.manifest.index, self.manifest.shards)
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
        """Checksum of the shard that holds the row, as it was made."""
        return self.manifest.shards[int(self.rows.shard_N[row])].fingerprint

    def fingerprints(self, rows: ShardRows) -> pa.DictionaryArray:
        """The same of some of its rows, as a column."""
        checksums = pa.array([entry.fingerprint for entry in self.manifest.shards], pa.string())
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
            _compare(self._index[number], shard.row(batch), f"{self._index_place}: row {number}", shard.place)
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
    with right_shard(folder, entry) as shard:
        if frames:
            _verify_rows(shard, image_size, index, folder)
    return entry.frames


def index_shard(folder: StorageFolder, entry: ShardEntry) -> bytes:
    """One shard's part of the index, made from its rows: see ``pack_index``; raises as :func:`verify_shard` does."""
    with right_shard(folder, entry) as shard:
        return pack_index(ShardRows.of(shard.rows()))


@contextmanager
def right_shard(folder: StorageFolder, entry: ShardEntry) -> Iterator[ShardFile]:
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
    place = f"{folder / INDEX_NAME}: {shard.entry.file}"
    listed = None if index is None else parse_index(pa.py_buffer(index), place, [shard.entry])
    for row in shard.rows():
        if listed is not None:
            _compare(listed[row.batch], row, f"{place}: row {row.batch}", shard.place)
        for position, frame in enumerate(shard.batch(row.batch).column("frames").flatten()):
            _check_frame(frame.as_buffer(), image_size, f"{shard.place}: tracklet {row.id}: frame {position}")


def index_parts(folder: StorageFolder, manifest: Manifest) -> list[bytes | None]:
    """Each shard's part of the index, checked; None where the data set has no index.

    Raises:
        InputError: the index is damaged.
    """
    if manifest.index is None:
        return [None] * len(manifest.shards)
    with folder.fetched(manifest.index.file) as path:
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

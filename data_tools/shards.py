"""Reading Arrow shards by memory map.

A shard is an Arrow IPC file; each row, in its own record batch, is a tracklet. ``ShardFolder`` opens a finished data
set; ``data_tools.shard_writer`` writes one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from data_tools.arrow_compression import is_compressed
from data_tools.encoded_pictures import open_picture
from data_tools.errors import InputError
from data_tools.file_lock import lock_file
from data_tools.files import sha256_of
from data_tools.manifest import Manifest, ShardEntry, read_manifest
from data_tools.storage import StorageFolder
from data_tools.tracklet import SPLITS, Split
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


class ShardFolder:
    """A finished data set, memory-mapped.

    ``rows`` lists every tracklet in stored order. Opening checks the manifest and each shard's size and structure;
    :func:`verify_shard` checks checksums. A data set in the shard cache is not evicted while it is open.

    Raises:
        InputError: a file is missing or damaged; names the file.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        in_use = folder / IN_USE_NAME
        self._in_use = lock_file(in_use, shared=True) if in_use.exists() else None
        self.manifest: Manifest = read_manifest(StorageFolder(str(folder)))
        paths = [folder / entry.file for entry in self.manifest.shards]
        self._readers = [
            _open_shard(path, entry, str(path)) for path, entry in zip(paths, self.manifest.shards, strict=True)
        ]
        self.rows: Sequence[ShardRow] = [
            row
            for shard, (path, reader) in enumerate(zip(paths, self._readers, strict=True))
            for row in _read_rows(str(path), shard, reader)
        ]
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
        return self.manifest.shards[self.rows[row].shard].sha256

    def frame_index(self, row: int) -> npt.NDArray[np.int32]:
        """(frame_count,) int32 numbers of the row's frames in the recording; empty if unknown."""
        batch = self._batch(row)
        index: npt.NDArray[np.int32] = batch.column("frame_index").flatten().to_numpy(zero_copy_only=True)
        return index

    def _batch(self, row: int) -> pa.RecordBatch:
        place = self.rows[row]
        return self._readers[place.shard].get_batch(place.batch)

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
            place = self.rows[row]
            file = self.manifest.shards[place.shard].file
            size = f"{height}x{width}x3"
            raise InputError(f"{self.folder / file}: tracklet {place.id}: raw frames do not have {size} bytes")


def verify_shard(folder: StorageFolder, entry: ShardEntry, image_size: tuple[int, int] | None, *, frames: bool) -> int:
    """Compare one shard's bytes with the manifest's checksum and, with ``frames``, decode every frame.

    Args:
        image_size: the manifest's.

    Returns:
        The shard's number of frames.

    Raises:
        InputError: the checksum differs, or a frame (named by tracklet and position) is not a complete picture.
    """
    place = str(folder / entry.file)
    with folder.fetched(entry.file) as path:
        try:
            found = sha256_of(path)
        except OSError as error:
            raise InputError(f"{place}: {error.strerror}") from None
        if found != entry.sha256:
            raise wrong_checksum(place, found, entry)
        if frames:
            reader = _open_shard(path, entry, place)
            for row in _read_rows(place, 0, reader):
                for position, frame in enumerate(reader.get_batch(row.batch).column("frames").flatten()):
                    _check_frame(frame.as_buffer(), image_size, f"{place}: tracklet {row.id}: frame {position}")
    return entry.frames


def wrong_checksum(place: str, found: str, entry: ShardEntry) -> InputError:
    """The error for a shard whose checksum differs from the manifest's."""
    return InputError(
        f"{place}: SHA-256 {found[:12]}…, expected {entry.sha256[:12]}…: the file was changed or damaged; "
        "remove manifest.json and this file, and run ray_jobs/shard.py again"
    )


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


def _open_shard(path: Path, entry: ShardEntry, place: str) -> pa.RecordBatchFileReader:
    try:
        mapped = pa.memory_map(str(path)).read_buffer()
        reader = pa.ipc.open_file(mapped)
        compressed = is_compressed(memoryview(mapped))
        names = None if reader.schema.equals(SHARD_SCHEMA) else one_line(reader.schema.names)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InputError(f"{place}: not a readable Arrow file: {one_line(error)}") from None
    if names is not None:
        raise InputError(f"{place}: its columns are {names}, expected {SHARD_SCHEMA.names} with their types")
    if compressed:
        raise InputError(f"{place}: is compressed, expected an uncompressed Arrow file as written by ray_jobs/shard.py")
    if reader.num_record_batches != entry.rows:
        raise InputError(f"{place}: {reader.num_record_batches} tracklets, expected {entry.rows}")
    return reader


def _read_rows(place: str, shard: int, reader: pa.RecordBatchFileReader) -> Iterator[ShardRow]:
    for number in range(reader.num_record_batches):
        try:
            batch = reader.get_batch(number)
            # Later reads do not check for offsets that point outside the file.
            batch.validate(full=True)
            if batch.num_rows != 1:
                raise InputError(f"{batch.num_rows} rows in one record batch, expected 1")
            values = {name: batch.column(name)[0].as_py() for name in SHARD_SCHEMA.names[:6]}
            frames, numbers = (batch.column(name).flatten() for name in ("frames", "frame_index"))
            if values["split"] not in SPLITS or not len(frames):
                raise InputError(f"split {shown(values['split'])}, {len(frames)} frames")
            # With a nonzero first offset or gaps, later reads would return the wrong frames.
            if frames.offset or frames.null_count or numbers.null_count or len(numbers) not in (0, len(frames)):
                raise InputError(f"{len(frames)} frames with {len(numbers)} numbers, expected both without gaps")
        except (pa.ArrowException, OSError, ValueError) as error:
            raise InputError(f"{place}: tracklet {number} cannot be read: {one_line(error)}") from None
        attributes = dict(values.pop("attributes"))
        yield ShardRow(**values, attributes=attributes, frame_count=len(frames), shard=shard, batch=number)

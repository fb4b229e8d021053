"""Making the frame tables of videos in a process that can be killed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

from data_tools.decoding_process import HANG_SECONDS, decoding_process
from data_tools.documents import parse_model
from data_tools.errors import InputError, UnreadableSourceError
from data_tools.storage import StorageFolder
from data_tools.video import FrameTable, decoder_versions, make_table
from data_tools.video.pictures import Pulse

TABLE_NAME = ".frames-{}.json"
"""File name of a table, kept beside the records of finished shards."""

TableMaker: TypeAlias = Callable[[Sequence[Path]], Sequence[FrameTable | UnreadableSourceError]]
"""Returns each video's frame table, or the reason why there is none."""


def make_tables(videos: Sequence[Path]) -> list[FrameTable | UnreadableSourceError]:
    """Make the tables one after another, on this machine."""
    return [make_guarded_table(video) for video in videos]


def make_guarded_table(video: Path, hang_seconds: float = HANG_SECONDS) -> FrameTable | UnreadableSourceError:
    """A video's table, or the reason why there is none. Gives up after ``hang_seconds`` without progress."""
    try:
        [table] = decoding_process().run(table_of, video, what=video, hang_seconds=hang_seconds)
    except UnreadableSourceError as error:
        return error
    return table


def table_of(pulse: Pulse, video: Path) -> Iterator[FrameTable]:
    """For ``DecodingProcess.run``."""
    yield make_table(video, pulse)


def find_or_make_table(
    video: Path, folder: StorageFolder, hang_seconds: float = HANG_SECONDS
) -> FrameTable | UnreadableSourceError:
    """The table stored in ``folder`` by an earlier call, or a new one from :func:`make_guarded_table`, stored there.

    Raises:
        OSError: the folder cannot be read or written.
    """
    name = _table_name(video)
    if name is not None:
        try:
            return parse_model(FrameTable, folder.read(name), folder / name)
        except (FileNotFoundError, InputError):
            pass
    table = make_guarded_table(video, hang_seconds)
    if name is not None and isinstance(table, FrameTable):
        folder.write(name, table.model_dump_json().encode())
    return table


def _table_name(video: Path) -> str | None:
    """A name that changes with the file and the decoders; None if there is no file.

    Also None for a folder of pictures, whose changes are hard to detect and which is counted quickly.
    """
    try:
        facts = video.stat()
    except OSError:
        return None
    if video.is_dir():
        return None
    key = f"{video}\n{facts.st_size}\n{facts.st_mtime_ns}\n{decoder_versions()}"
    return TABLE_NAME.format(hashlib.sha256(key.encode(errors="surrogateescape")).hexdigest()[:32])

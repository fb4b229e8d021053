"""Reading the frames of a video by number, with the right decoder for the file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from data_tools.errors import UnreadableSourceError
from data_tools.video.by_decord import NotForDecordError, decord_frames
from data_tools.video.by_pyav import all_frames, pyav_frames
from data_tools.video.frame_table import FrameTable, make_table, plain_table
from data_tools.video.picture_folders import list_pictures, read_pictures
from data_tools.video.pictures import Pulse, RgbFrame, no_pulse


def read_frames(
    path: Path,
    frames: Sequence[int] | None = None,
    table: FrameTable | None = None,
    pulse: Pulse = no_pulse,
) -> Iterator[tuple[int, RgbFrame]]:
    """Yield ``(frame number, frame)`` for the wanted frames, in bounded memory for any length of video.

    Args:
        path: a video file, or the folder of a sequence of pictures.
        frames: frame numbers from 0, strictly increasing; None for every frame.
        table: the file's frame table; made if it is needed and not given.
        pulse: called as the work progresses.

    Raises:
        UnreadableSourceError: the next wanted frame cannot be read; the message names it. The frames yielded before it
            are good.
    """
    if path.is_dir():
        sequence = list_pictures(path)
        if table is not None and table.count != len(sequence.numbers):
            raise UnreadableSourceError(f"{path}: the folder has changed since its pictures were counted")
        yield from read_pictures(sequence, frames, pulse)
        return
    if table is None:
        table = plain_table(path, pulse) if frames is None else make_table(path, pulse)
    if table is None:
        yield from all_frames(path, pulse)
        return
    if not path.is_file():
        raise UnreadableSourceError(f"{path}: no such file")
    if path.stat().st_size != table.file_bytes:
        raise UnreadableSourceError(f"{path}: the file has changed since its frames were counted")
    wanted: Sequence[int] = range(table.count) if frames is None else frames
    done = 0
    try:
        for number, frame in decord_frames(path, table, wanted, pulse):
            yield number, frame
            done += 1
        return
    except NotForDecordError:
        pass  # leave the block before the next decoder starts: the exception holds decord's reader and its memory
    yield from pyav_frames(path, table, wanted[done:], pulse)


def decoder_versions() -> dict[str, str]:
    """Names and versions of the decoders in use, for the manifest."""
    versions = {}
    for package in ("decord", "decord2", "av"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions

"""The users' own track files, with persons."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from data_tools.datasets.problems import split_origin
from data_tools.datasets.track_rewriting import Part, Way, rewrite_tracks
from data_tools.errors import InputError
from data_tools.progress import message
from data_tools.tracklet import Tracklet


def write_tracks(tracklets: Iterable[Tracklet], person_of: Mapping[str, int], folder: Path, way: Way) -> list[Path]:
    """Write the track file of each video to ``folder/VIDEO.SUFFIX``; one that cannot be is told.

    Args:
        tracklets: of footage, as ``read_footage`` returns them.
        person_of: by tracklet id; videos without any of these are left out.
        way: see ``rewrite_tracks``.
    """
    parts: dict[tuple[str, Path], dict[int, list[Part]]] = {}
    for tracklet in tracklets:
        if (person := person_of.get(tracklet.id)) is not None:
            file, line = split_origin(tracklet.origin)
            of_video = parts.setdefault((tracklet.attributes["video"], Path(file)), {})
            of_video.setdefault(int(tracklet.attributes["track"]), []).append(Part(line or 0, person))
    written = []
    for (video, source), parts_of in sorted(parts.items()):
        target = folder / f"{video}{source.suffix}"
        try:
            boxes = rewrite_tracks(source, target, parts_of, way)
        except InputError as error:
            message(f"tracks of {video} are not written: {error}")
            continue
        message(f"{target}: {boxes} boxes of {len({part.person for of in parts_of.values() for part in of})} persons")
        written.append(target)
    return written

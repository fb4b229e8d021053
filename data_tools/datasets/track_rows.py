"""The common result of all track file readers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from data_tools.datasets.track_columns import TrackRow


@dataclass(frozen=True, slots=True)
class FileRows:
    """The boxes of a file for one video, unfiltered, and other facts from the file."""

    rows: list[TrackRow] = field(default_factory=list)
    numbered: Sequence[int] = ()
    """Frame numbers that the file lists, with or without boxes."""
    numbered_from: int | None = None
    """The number of the video's first frame, if the format defines it."""
    frame_column: str | None = None
    class_names: Mapping[str, str] = field(default_factory=dict)
    picture_size: tuple[int, int] | None = None

"""What every reader of track files gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from data_tools.datasets.track_columns import TrackRow


@dataclass(frozen=True, slots=True)
class FileRows:
    """The boxes of a file for one video, as they stand, and what else it tells of them."""

    rows: list[TrackRow] = field(default_factory=list)
    numbered: Sequence[int] = ()
    """Frames that the file numbers whether they have boxes or not."""
    numbered_from: int | None = None
    """The number of the video's first frame, where the format says it."""
    frame_column: str | None = None
    class_names: Mapping[str, str] = field(default_factory=dict)
    picture_size: tuple[int, int] | None = None

"""The assignment of tracklets to shards, which depends only on the sources and the options."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from data_tools.crops import CropOptions
from data_tools.options import Rare
from data_tools.tracklet import ImageFrames, Tracklet, VideoFrames

JPEG_BYTES_PER_PIXEL = 0.45
"""Typical size of a quality-95 crop (measured: 14.7 KB at 256x128); only decides where shards are cut."""


class ShardOptions(CropOptions):
    """How frames are stored and how shards are cut."""

    shard_mebibytes: Annotated[float, Rare()] = Field(default=128, gt=0)
    """Target size of a shard in MiB. Tracklets are never cut, so a shard can be larger."""
    max_quarantine_share: Annotated[float, Rare()] = Field(default=0.01, ge=0, le=1)
    """Largest share of tracklets that may be unreadable; more is an error. One unreadable tracklet is always
    allowed."""


@dataclass(frozen=True, slots=True)
class ShardPlan:
    """The tracklets of one shard; ``fingerprint`` hashes them with the options that affect the bytes."""

    number: int
    tracklets: tuple[Tracklet, ...]
    fingerprint: str

    @property
    def file(self) -> str:
        return f"shard-{self.number:05d}.arrow"


def plan_shards(tracklets: Sequence[Tracklet], options: ShardOptions) -> list[ShardPlan]:
    """Cut the tracklets, in order, into shards of about the requested size.

    Tracklets of one video are sorted by their first frame, so that a shard decodes one stretch of the video.
    """
    groups: list[list[Tracklet]] = [[]]
    room = limit = options.shard_mebibytes * 2**20
    for tracklet in sorted(tracklets, key=_place_in_video):
        size = _estimate_bytes(tracklet, options)
        if groups[-1] and size > room:
            groups.append([])
            room = limit
        groups[-1].append(tracklet)
        room -= size
    deciding = options.model_dump_json(
        exclude={"shard_mebibytes", "max_quarantine_share", "hang_seconds"},
        by_alias=True,  # names of the first shards, so that theirs are still found
    )
    return [
        ShardPlan(number, tuple(group), hashlib.sha256((deciding + repr(group)).encode()).hexdigest())
        for number, group in enumerate(groups)
    ]


def _place_in_video(tracklet: Tracklet) -> tuple[str, int]:
    source = tracklet.source
    if isinstance(source, VideoFrames):
        return str(source.video), source.frames[0] if source.frames else 0
    return "", 0


def _estimate_bytes(tracklet: Tracklet, options: ShardOptions) -> float:
    source = tracklet.source
    try:
        if isinstance(source, ImageFrames) and options.size is None:
            return len(source) * (source.folder / source.names[0]).stat().st_size
        if isinstance(source, VideoFrames) and source.frames is None:
            return 3 * source.video.stat().st_size
    except (OSError, IndexError):
        return 0
    height, width = options.size or (256, 128)
    per_pixel = 3 if options.format == "raw" else JPEG_BYTES_PER_PIXEL
    return len(tracklet.frame_index) * height * width * per_pixel


def data_fingerprint(plans: Iterable[ShardPlan]) -> str:
    """Hash of all sources and of the settings that affect the shards' bytes."""
    return hashlib.sha256("".join(plan.fingerprint for plan in plans).encode()).hexdigest()

"""Options for reading footage and tracks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import BeforeValidator, Field, field_validator, model_validator

from data_tools.datasets.start_times import CONTAINER, name_pattern
from data_tools.options import AbsolutePath, Options, Rare, absolute_path


def _number_or_word(value: object) -> object:
    """A number, also as the command line's text."""
    return int(value) if value in ("0", "1") and isinstance(value, str) else value


def _texts(values: object) -> object:
    """Names and numbers alike as text, also one alone."""
    if isinstance(values, str | int):
        values = [values]
    return [str(value) for value in values] if isinstance(values, list | tuple) else values


class FootageOptions(Options):
    """Videos, a tracker's boxes and, optionally, labels."""

    videos: AbsolutePath
    """Video file, or folder of video files at any depth. The name of a video is its stem, or where several share it the
    path below the folder without suffix. A sequence as in MOTChallenge, a folder with `img1/` or `seqinfo.ini`, is a
    video with the name of the folder, whose frames are pictures."""

    tracks: AbsolutePath | None = None
    """Track files: a folder or a file. In a folder, the file of a video is `STEM.txt`, `.csv`, `.tsv` or `.parquet`, or
    as in MOTChallenge `STEM/gt.txt` or `STEM/gt/gt.txt`, or without any of these `STEM.xml` (CVAT for video or images
    1.1) or `STEM.json` (COCO's video kinds, or a list of boxes). A single file serves a single video, a single .json
    serves all. Text has a header or MOT's columns frame,id,x,y,w,h,conf,class,visibility, separated by commas,
    semicolons, tabs or spaces. Columns are known by their usual names (x,y,w,h or left,top,… or x1,y1,x2,y2 or
    cx,cy,w,h; id, track_id or tracker_id; conf, confidence or score; class, class_name or label …). Boxes are in pixels
    from the picture's upper left corner at 0, 0. Default: beside the videos."""

    labels: AbsolutePath | None = None
    """CSV file of labels. Its header is `video,track,person,clothes,camera,split`; other columns become attributes. A
    cell that is empty, -1, nan, none, null, N/A or unknown means unknown; an unknown camera is the name of the video,
    and an empty split is gallery. Tracks of the split train with an unknown person are left out. Tracks without a row
    are unlabelled gallery. Default: all tracks are unlabelled gallery."""

    first_frame: Annotated[Literal[0, 1, "auto"], BeforeValidator(_number_or_word)] = "auto"
    """Number of the first frame. Track files number frames from it. auto decides for each file: by its format (CVAT:
    0), by a frame 0, by a frame equal to the number of frames of the video (1), or by other files like it; otherwise it
    is 1, and a message says so. In a sequence of pictures, auto takes the numbers in their names; 0 and 1 count the
    pictures."""

    classes: Annotated[tuple[str, ...] | None, BeforeValidator(_texts)] = Field(default=None, min_length=1)
    """Classes of boxes, such as person,rider or 0,3. They are taken, all others left out; all takes all. By default
    persons are taken where a file names its classes or is ground truth of MOT16, MOT17 or MOT20. Such ground truth is
    known by a flag of 0 or 1 (without a header the seventh of nine columns), a class from 1 to 13 (the eighth) and a
    visibility from 0 to 1 (the ninth) in every row. There, classes 1 (pedestrian), 2 (person on vehicle) and 7 (static
    person) are persons, and boxes with flag 0 are left out; a class other than pedestrian that is named here is taken
    whatever its flag. Classes that are only numbered are an error until some are named here, because 0 is a person in
    COCO's numbering and 1 in MOTChallenge's; a file with only 0, or only 1, is taken whole. Default: persons."""

    minimum_confidence: Annotated[float | None, Rare()] = Field(default=None, allow_inf_nan=False)
    """Least confidence of a box. A box without a confidence is taken; a file without any confidence is an error.
    Default: take all."""

    minimum_width: Annotated[float, Rare()] = Field(default=8.0, ge=1.0)
    """Least width of a box in pixels. Only its part inside the picture counts; narrower boxes are left out."""

    minimum_height: float = Field(default=16.0, ge=1.0)
    """Least height of a box in pixels. Only its part inside the picture counts; lower boxes are left out."""

    outside_boxes: Annotated[Literal["error", "drop"], Rare()] = "error"
    """A box wholly outside the picture is an error, as it often means the wrong video; drop: leave it out and count
    it."""

    box_padding: Annotated[float, Rare()] = Field(default=0.0, ge=0.0, le=1.0)
    """Grow boxes on each side by this share of their width and height, as far as the picture goes."""

    max_gap: Annotated[int, Rare()] = Field(default=10, ge=0)
    """Split a track where more than this many frames are missing between two boxes."""

    frame_stride: Annotated[int, Rare()] = Field(default=1, ge=1)
    """Keep only the boxes of every n-th frame."""

    minimum_length: Annotated[int, Rare()] = Field(default=8, ge=1)
    """Fewest boxes of a tracklet. Shorter tracklets are left out, after all other rules."""

    maximum_length: Annotated[int | None, Rare()] = Field(default=None, ge=1)
    """Cut tracklets with more boxes into equal parts. Default: keep them whole."""

    people_from_tracks: bool = False
    """Take each track for a person, without labels. This is to try out footage: a track is one outfit, and is cut into
    pieces in time. Each piece has a camera of its own, `VIDEO#1`, `VIDEO#2` …. This is a rule of the protocol and no
    real camera: entries of the same person and camera as the query are junk, so pieces under one camera would have no
    match. A share of the people is kept for testing; their first pieces are queries and the rest gallery. Training
    tracks are cut in the same way, so that held-out training people can be validated in the same way."""

    test_share: Annotated[float, Rare()] = Field(default=0.5, gt=0.0, lt=1.0)
    """People from tracks: share of the people to keep for testing, of those whose tracks are long enough to cut."""

    pieces: Annotated[int, Rare()] = Field(default=2, ge=2)
    """People from tracks: number of pieces that a track is cut into."""

    query_pieces: Annotated[int, Rare()] = Field(default=1, ge=1)
    """People from tracks: number of pieces, from the start of a test track, that are queries."""

    piece_gap: Annotated[int, Rare()] = Field(default=10, ge=0)
    """People from tracks: number of boxes left out between two pieces of a track, so that they do not touch."""

    seed: Annotated[int, Rare()] = Field(default=0, ge=0)
    """People from tracks: seed of the choice of people to keep for testing."""

    start_times: str | None = None
    """Recording times: container, pattern or file. It gives the attributes start_time and end_time (UTC). `container`
    takes the creation time of the file (some cameras write when the recording ended). A pattern such as `%Y%m%d_%H%M%S`
    finds the time of the first frame in the name of the file. A CSV file has the columns `video,start_time` (ISO 8601).
    A column `start_time` of the labels comes before all of these. Default: unknown."""

    time_zone: Annotated[str, Rare()] = "UTC"
    """Time zone of start times that name none, such as `Europe/Berlin`."""

    @field_validator("start_times")
    @classmethod
    def _understood(cls, source: str | None) -> str | None:
        if source is None or source == CONTAINER:
            return source
        if "%" in source:
            name_pattern(source)
            return source
        return str(absolute_path(Path(source)))

    @field_validator("time_zone")
    @classmethod
    def _known(cls, name: str) -> str:
        try:
            ZoneInfo(name)
        except (OSError, ValueError, ZoneInfoNotFoundError):
            raise ValueError(f"{name!r} is not a time zone, expected one such as UTC or Europe/Berlin") from None
        return name

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.maximum_length is not None and self.maximum_length < self.minimum_length:
            raise ValueError(f"maximum_length is {self.maximum_length}, below minimum_length {self.minimum_length}")
        if self.query_pieces >= self.pieces:
            raise ValueError(f"query_pieces is {self.query_pieces}, expected fewer than pieces {self.pieces}")
        if self.people_from_tracks and self.labels is not None:
            raise ValueError(f"people_from_tracks cannot be combined with labels, got {self.labels}")
        return self

"""Options for reading footage and tracks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import BeforeValidator, Field, field_validator, model_validator

from data_tools.datasets.start_times import CONTAINER, name_pattern
from data_tools.options import AbsolutePath, Options


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
    """A video file, or a folder in which every video file is taken, at any depth. A video is named by its
    stem, or where several share it by its path below the folder without suffix. A sequence as MOTChallenge has it,
    a folder with `img1/` or `seqinfo.ini`, is a video of that folder's name, whose frames are pictures."""

    tracks: AbsolutePath | None = None
    """Track files: a folder with one for each video, named `STEM.txt`, `.csv`, `.tsv` or `.parquet`, or as in
    MOTChallenge `STEM/gt.txt` or `STEM/gt/gt.txt`, or where there is none of these `STEM.xml` (CVAT for video or images
    1.1) or `STEM.json` (COCO's video kinds, or a list of boxes); or a single file for a single video; or a single .json
    for all. Nothing: beside each video. Text has a header or MOT's columns frame,id,x,y,w,h,conf,class,visibility, and
    commas, semicolons, tabs or spaces between them; columns are known by their usual names (x,y,w,h or left,top,… or
    x1,y1,x2,y2 or cx,cy,w,h; id, track_id or tracker_id; conf, confidence or score; class, class_name or label …).
    Boxes are in pixels from the picture's upper left corner at 0, 0."""

    labels: AbsolutePath | None = None
    """A CSV file with the header `video,track,person,clothes,camera,split` and any other columns as
    attributes. A cell that is empty, -1, nan, none, null, N/A or unknown is unknown; an unknown camera is the video's
    name and an empty split is gallery. Tracks of the split train whose person is unknown are left out. Tracks without
    a row, and all without this file, are unlabelled gallery."""

    first_frame: Annotated[Literal[0, 1, "auto"], BeforeValidator(_number_or_word)] = "auto"
    """The number by which the track files call a video's first frame. auto, for each file: its format tells (CVAT: 0),
    or it has a frame 0, or one equal to the video's number of frames (1), or it is like such files; else 1, which is
    said. In a sequence of pictures auto takes the numbers in their names, 0 and 1 count the pictures."""

    classes: Annotated[tuple[str, ...] | None, BeforeValidator(_texts)] = Field(default=None, min_length=1)
    """Take boxes of these classes, names or numbers (person,rider or 0,3), or `all`. Nothing: persons, where a
    file names its classes or is ground truth of MOT16, MOT17 or MOT20, which it is if every row has a flag of 0
    or 1 (without a header the seventh of nine columns), a class from 1 to 13 (the eighth) and a visibility from 0
    to 1 (the ninth). Of that, classes 1 (pedestrian), 2 (person on vehicle) and 7 (static person) are persons,
    and boxes with flag 0 are left out; a class other than pedestrian that is named here is taken whatever its
    flag. Classes that are only numbered are an error until some are named here, for 0 is a person in COCO's
    numbering and 1 in MOTChallenge's; a file with 0 alone, or 1 alone, is taken whole."""

    minimum_confidence: float | None = Field(default=None, allow_inf_nan=False)
    """Leave out boxes whose confidence is lower; nothing takes all, a box without one is always taken. A file without
    confidences is an error."""

    minimum_width: float = Field(default=8.0, ge=1.0)
    """Leave out boxes whose part inside the picture is narrower, in pixels."""

    minimum_height: float = Field(default=16.0, ge=1.0)
    """Leave out boxes whose part inside the picture is lower, in pixels."""

    outside_boxes: Literal["error", "drop"] = "error"
    """A box wholly outside the picture is an error, for it often means the wrong video; or leave it out and
    count."""

    box_padding: float = Field(default=0.0, ge=0.0, le=1.0)
    """Grow boxes on each side by this share of their width and height, as far as the picture goes."""

    max_gap: int = Field(default=10, ge=0)
    """Split a track where more frames than this are missing between two boxes."""

    frame_stride: int = Field(default=1, ge=1)
    """Keep the boxes of every n-th frame only."""

    minimum_length: int = Field(default=8, ge=1)
    """Leave out tracklets with fewer boxes, counted after everything else."""

    maximum_length: int | None = Field(default=None, ge=1)
    """Cut tracklets with more boxes into equal parts; nothing leaves them whole."""

    people_from_tracks: bool = False
    """For trying things on footage without labels: take every track for one person in one outfit, and cut
    it in time into pieces. Each piece is given its own camera, `VIDEO#1`, `VIDEO#2` …. This is a rule of
    the protocol and no real camera: entries of the same person and camera as the query are junk, so that
    pieces under one camera would have nothing to be found. A share of the people is held for test, where
    the first pieces are queries and the rest gallery; training tracks are cut alike so that held-out
    training people can be validated the same way."""

    test_share: float = Field(default=0.5, gt=0.0, lt=1.0)
    """People from tracks: the share of people held for test, of those whose tracks are long enough to cut."""

    pieces: int = Field(default=2, ge=2)
    """People from tracks: the number of pieces a track is cut into."""

    query_pieces: int = Field(default=1, ge=1)
    """People from tracks: how many of a test track's pieces, from its start, are queries."""

    piece_gap: int = Field(default=10, ge=0)
    """People from tracks: how many of a track's boxes between two pieces are left out, so that they do not
    touch."""

    seed: int = Field(default=0, ge=0)
    """People from tracks: chooses the people held for test."""

    start_times: str | None = None
    """When each video's first frame was recorded, for the attributes start_time and end_time (UTC): `container` takes
    its creation time (some cameras write when the recording ended); a pattern such as `%Y%m%d_%H%M%S` finds the time in
    the file's name; the path of a CSV file with the columns `video,start_time` (ISO 8601) tells it of each. A column
    `start_time` of the labels tells it too, and goes before all of them."""

    time_zone: str = "UTC"
    """The zone of start times that name none, such as `Europe/Berlin`."""

    @field_validator("start_times")
    @classmethod
    def _understood(cls, source: str | None) -> str | None:
        if source is None or source == CONTAINER:
            return source
        if "%" in source:
            name_pattern(source)
            return source
        return str(Path(source).expanduser().absolute())

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

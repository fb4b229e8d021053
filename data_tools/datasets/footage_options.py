"""How footage and tracks are read: every choice in one place."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from data_tools.options import AbsolutePath, Options


class FootageOptions(Options):
    """Videos, a tracker's boxes and, optionally, labels."""

    videos: AbsolutePath
    """A video file, or a folder in which every video file is taken, at any depth. A video is named by its
    stem, or where several share it by its path below the folder without suffix."""

    tracks: AbsolutePath | None = None
    """Track files: a folder with `STEM.txt` (MOT text: frame,id,x,y,w,h,conf,…), `STEM.csv` (the same
    columns with a header) or `STEM.parquet` a video, or as in MOTChallenge `STEM/gt.txt`; or a single file
    for a single video. Nothing: beside each video. Boxes are in pixels from the picture's upper left corner at 0, 0."""

    labels: AbsolutePath | None = None
    """A CSV file with the header `video,track,person,clothes,camera,split` and any other columns as
    attributes. An empty cell is unknown; an empty camera is the video's name and an empty split is gallery.
    Tracks without a row, and all without this file, are unlabelled gallery."""

    first_frame: Literal[0, 1] = 1
    """The number by which the track files call a video's first frame."""

    minimum_confidence: float | None = Field(default=None, allow_inf_nan=False)
    """Leave out boxes whose conf is lower; nothing takes all, a box without conf is always taken."""

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

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.maximum_length is not None and self.maximum_length < self.minimum_length:
            raise ValueError(f"maximum_length is {self.maximum_length}, below minimum_length {self.minimum_length}")
        if self.query_pieces >= self.pieces:
            raise ValueError(f"query_pieces is {self.query_pieces}, expected fewer than pieces {self.pieces}")
        if self.people_from_tracks and self.labels is not None:
            raise ValueError(f"people_from_tracks takes no labels, got {self.labels}")
        return self

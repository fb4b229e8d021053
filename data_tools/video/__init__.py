"""Reading videos by one rule: **frame i is the i-th picture that OpenCV reads, upright.**

Trackers read with OpenCV and number its pictures, so a frame number means the same here, from 0, for any file:

- The stream is the file's first video stream.
- The pictures are those that come out when the file is decoded from its start, not the packets: pictures hidden by an
  edit list, and leading pictures without their references, have packets but no number. They end where OpenCV stops
  reading: at the end of the file, or at the first packet that the decoder rejects.
- Upright means as OpenCV rotates it: by the angle of the container's display matrix (0, 90, 180 or 270 degrees; other
  angles are ignored). OpenCV does not mirror: a picture that the matrix mirrors horizontally comes out rotated by 180
  degrees, one mirrored vertically comes out as coded.
- A frame's time is its timestamp minus that of the first frame.

A :class:`FrameTable` holds this for a file; :func:`make_table` makes it once. :func:`read_frames` uses it to choose the
decoder: decord if the file is plain (its packets alone determine the pictures) and decord's index agrees with the
table; PyAV otherwise, and wherever decord fails.
"""

from __future__ import annotations

from data_tools.video.frame_table import FrameTable, make_table
from data_tools.video.pictures import RgbFrame
from data_tools.video.reading import decoder_versions, read_frames

__all__ = ["FrameTable", "RgbFrame", "decoder_versions", "make_table", "read_frames"]

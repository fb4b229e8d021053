"""Reading videos by one rule: **frame i is the i-th picture that OpenCV reads, upright.**

Trackers read with OpenCV and number what it gives them, so that is what a frame number means here, from 0, in any file:

- The stream is the file's first video stream.
- The pictures are those that come out when the file is decoded from its start: not the packets (pictures that an edit
  list hides, and leading pictures without their references, have packets and no number). They end where OpenCV's
  reading ends: at the end, or at the first packet that the decoder refuses.
- Upright is as OpenCV turns it: by the angle of the container's display matrix (0, 90, 180 or 270 degrees; other angles
  are ignored). OpenCV knows no mirroring: a picture that the matrix mirrors left to right comes out turned by 180
  degrees, one that it mirrors top to bottom as it is coded.
- A frame's time is its stamp, from the first frame's on.

A :class:`FrameTable` holds this for a file, made once by :func:`make_table`. :func:`read_frames` reads by it: decord
where the file is so plain that its packets alone tell the pictures and decord's own index agrees with the table, PyAV
elsewhere and wherever decord gives up.
"""

from __future__ import annotations

from data_tools.video.frame_table import FrameTable, make_table
from data_tools.video.pictures import RgbFrame
from data_tools.video.reading import decoder_versions, read_frames

__all__ = ["FrameTable", "RgbFrame", "decoder_versions", "make_table", "read_frames"]

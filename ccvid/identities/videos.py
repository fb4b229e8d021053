"""Videos with boxes and persons drawn."""

from __future__ import annotations

import colorsys
import os
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ccvid.retrieval.report.mosaic import mosaic_heads_
from data_tools.errors import InputError, UnreadableSourceError
from data_tools.progress import Meter
from data_tools.tracklet import Box, Tracklet, VideoFrames
from data_tools.video import FrameTable, RgbFrame, make_table, read_frames

Labelled = tuple[Box, int, str]
"""A box, its person's number, and the text above it."""

TEXT_SHARE = 28
"""The text's height is this part of the picture's."""
LEAST_TEXT = 10
"""Pixels."""
USUAL_RATE = 25.0
"""Frames a second of a sequence of pictures, or where there is only one frame."""


def boxes_by_frame(
    tracklets: Iterable[Tracklet], person_of: Mapping[str, int], names: Mapping[int, str]
) -> dict[Path, dict[int, list[Labelled]]]:
    """Of each video, what is to be drawn on its frames, by their numbers from 0."""
    found: dict[Path, dict[int, list[Labelled]]] = {}
    for tracklet in tracklets:
        source, person = tracklet.source, person_of.get(tracklet.id)
        if person is None or not isinstance(source, VideoFrames) or source.frames is None or source.boxes is None:
            continue
        text = f"{person} {names[person]}" if person in names else str(person)
        frames = found.setdefault(source.video, {})
        for frame, box in zip(source.frames, source.boxes, strict=True):
            frames.setdefault(frame, []).append((box, person, text))
    return found


def annotate_video(video: Path, boxes: Mapping[int, list[Labelled]], target: Path, *, hide_heads: bool = False) -> int:
    """Write the video as H.264 in MP4, in its own size and rate, with boxes drawn; returns how many frames.

    The target appears when it is whole. Sound is not kept.

    Args:
        hide_heads: make the heads of people with a box unrecognisable, see ``mosaic_heads_``.

    Raises:
        InputError: the video cannot be read to its end, or the target cannot be written.
    """
    import av  # here, as everywhere: it takes a moment

    unfinished = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    count = 0
    try:
        table = make_table(video)
        width, height = table.width - table.width % 2, table.height - table.height % 2
        target.parent.mkdir(parents=True, exist_ok=True)
        meter = Meter(f"annotating {target.name}", table.count, "frames", brief=True)
        with av.open(str(unfinished), "w", format="mp4") as container:
            stream = container.add_stream("libx264", rate=_rate(table))
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            stream.options = {"preset": "veryfast", "crf": "21"}
            for number, frame in read_frames(video, table=table):
                drawn = draw_boxes(frame, boxes.get(number, []), hide_heads=hide_heads)[:height, :width]
                container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(drawn), format="rgb24")))
                count += 1
                meter.add(1)
            container.mux(stream.encode())
        os.replace(unfinished, target)
    except UnreadableSourceError:
        raise
    except (OSError, av.FFmpegError) as error:
        raise InputError(f"{target}: cannot be written: {error}") from error
    finally:
        unfinished.unlink(missing_ok=True)
    return count


def draw_boxes(frame: RgbFrame, boxes: Sequence[Labelled], *, hide_heads: bool = False) -> RgbFrame:
    """A copy of the frame with each box, and its text above it or, at the picture's edge, in it."""
    if hide_heads:
        frame = frame.copy()
        mosaic_heads_(frame, np.array([box for box, _, _ in boxes], np.float64))
    image = Image.fromarray(frame)
    draw, font = ImageDraw.Draw(image), _font(max(LEAST_TEXT, frame.shape[0] // TEXT_SHARE))
    line = max(1, frame.shape[0] // 240)
    for (x, y, w, h), person, text in boxes:
        colour = colour_of(person)
        draw.rectangle((x, y, x + w - 1, y + h - 1), outline=colour, width=line)
        _, _, right, bottom = draw.textbbox((0, 0), text, font=font)
        left, top = min(max(0, x), max(0, frame.shape[1] - right - 4)), max(0, y - bottom - 4)
        draw.rectangle((left, top, left + right + 4, top + bottom + 4), fill=colour)
        draw.text((left + 2, top + 2), text, font=font, fill=(0, 0, 0))
    return np.asarray(image)


def colour_of(person: int) -> tuple[int, int, int]:
    """Light enough for black text; consecutive numbers get very different hues."""
    red, green, blue = colorsys.hsv_to_rgb(person * 0.618034 % 1, 0.55, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _rate(table: FrameTable) -> Fraction:
    """The mean number of frames a second."""
    seconds = table.seconds()
    lasted = float(seconds[-1] - seconds[0]) if len(seconds) > 1 else 0.0
    rate = (len(seconds) - 1) / lasted if lasted > 0 else USUAL_RATE
    return Fraction(min(max(rate, 1.0), 240.0)).limit_denominator(1001)

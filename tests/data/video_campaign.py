"""Makes videos of every kind, stores tracks of them, and compares every crop with what OpenCV shows.

    python -m tests.data.video_campaign --videos 500 --seed 1

Each video gets four tracks, through the reader of footage and the writer of shards: from its first frame on, late,
every seventh frame, and in pieces. Right is a crop that shows the same place of the same picture as
``cv2.VideoCapture``'s frame of its number. Exits with 1 unless nothing is wrong, nothing hangs, and at most 2 % of the
tracks are refused.
"""

from __future__ import annotations

import argparse
import io
import os
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from PIL import Image

from data_tools.datasets.footage import read_footage
from data_tools.datasets.footage_options import FootageOptions
from data_tools.datasets.problems import Dataset
from data_tools.errors import InputError
from data_tools.shard_plan import ShardOptions
from tests.data.numbered_videos import Picture, Video, make
from tests.made_shards import make_shards

MOST_REFUSED = 0.02
HANG_SECONDS = 60.0
LARGEST_DIFFERENCE = 30.0
"""Of two crops averaged over a 12th of height and width, in grey levels; another frame number differs by about 200."""

CONTAINERS = {
    "h264": ("mp4", "mov", "mkv", "avi", "ts", "flv", "m4v", "h264"),
    "hevc": ("mp4", "mov", "mkv", "ts", "flv", "hevc"),
    "mpeg4": ("mp4", "mov", "mkv", "avi", "ts"),
    "mpeg2": ("ts", "mkv", "avi"),
    "mjpeg": ("mov", "mkv", "avi", "mp4"),
    "vp8": ("mkv", "webm", "avi"),
    "vp9": ("mkv", "webm", "mp4"),
}
CODECS = ("h264",) * 5 + ("hevc",) * 4 + ("mpeg4", "mpeg2", "mjpeg", "vp8", "vp9")
MP4 = ("mp4", "mov", "m4v")
EVERYWHERE = ("plain", "plain", "cut", "mid_group", "variable_rate", "late_start", "empty_packet")
ELSEWHERE = {
    **dict.fromkeys(("turned_90", "turned_180", "turned_270", "mirrored", "flipped"), (*MP4, "mkv")),
    **dict.fromkeys(("fragments", "fragments_after", "fragment_a_frame"), MP4),
    **dict.fromkeys(("small_stream_first", "small_stream_second"), (*MP4, "mkv", "ts")),
    "audio_first": (*MP4, "mkv", "ts", "flv", "avi"),
    "joined": ("ts", "h264", "hevc"),
}
SIZES = ((192, 144),) * 6 + ((320, 240),) * 4 + ((640, 360), (854, 480), (1280, 720), (1920, 1080), (3840, 2160))


@dataclass(frozen=True, slots=True)
class Outcome:
    """Counts for one video: tracks by how they ended, and what went wrong."""

    video: Video
    tracks: Counter[str]
    reasons: tuple[str, ...] = ()


def draw_videos(count: int, seed: int, sizes: Sequence[tuple[int, int]] = SIZES) -> Iterator[Video]:
    """Kinds at random, including all combinations that exist."""
    rng = random.Random(seed)
    for _ in range(count):
        codec = rng.choice(CODECS)
        suffix = rng.choice(CONTAINERS[codec])
        treatments = [*EVERYWHERE, *(name for name, suffixes in ELSEWHERE.items() if suffix in suffixes)]
        width, height = rng.choice(sizes)
        frames = 36 if width > 1000 else rng.choice((45, 60, 90, 150, 240))
        b_frames = rng.choice((0, 1, 2, 3, 4)) if codec in ("h264", "hevc") else rng.choice((0, 2))
        yield Video(
            codec=codec,
            suffix=suffix,
            group=rng.choice((1, 5, 12, 25, 50, 250)),
            open_groups=b_frames > 0 and codec in ("h264", "hevc", "mpeg2") and rng.random() < 0.5,
            b_frames=b_frames,
            treatment=rng.choice(treatments),
            width=width,
            height=height,
            frames=frames,
            cut=rng.randrange(3, frames // 2),
        )


def try_video(video: Video, folder: Path) -> Outcome:
    """Make the video, store its tracks, compare."""
    path = folder / f"gate.{video.suffix}"
    try:
        make(video, path)
    except (OSError, ValueError) as error:
        return Outcome(video, Counter(), (f"cannot be made: {error}",))
    shown = seen_by_opencv(path)
    if len(shown) < 8:
        return Outcome(video, Counter(), (f"OpenCV reads {len(shown)} frames",))
    path.with_suffix(".txt").write_text("".join(_track_lines(shown)))
    tracks: Counter[str] = Counter()
    try:
        dataset = read_footage(FootageOptions(videos=path, minimum_length=1, minimum_height=1, minimum_width=1))
        dataset.raise_on_errors()
        options = ShardOptions(format="source", max_quarantine_share=1.0, hang_seconds=HANG_SECONDS)
        manifest = make_shards(Dataset("footage", dataset.tracklets, dataset.problems), folder / "shards", options)
    except InputError as error:
        return Outcome(video, Counter(refused=4), (str(error),))
    reasons = [entry.reason for entry in manifest.quarantine]
    tracks["hung"] = sum("no progress" in reason for reason in reasons)
    tracks["refused"] = len(reasons) - tracks["hung"]
    for shard in manifest.shards:
        for row in pa.ipc.open_file(str(folder / "shards" / shard.file)).read_all().to_pylist():
            wrong = _wrong_frames(row, shown)
            tracks["wrong" if wrong else "right"] += 1
            if wrong:
                reasons.append(f"{row['id']}: wrong frames {wrong[:10]} of {len(row['frames'])}")
    return Outcome(video, tracks, tuple(reasons))


def seen_by_opencv(path: Path) -> list[Picture]:
    """Every picture, RGB, until reading fails."""
    import cv2

    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    pictures: list[Picture] = []
    while True:
        good, picture = capture.read()
        if not good:
            return pictures
        pictures.append(np.ascontiguousarray(picture[..., ::-1]).astype(np.uint8))


def _track_lines(shown: Sequence[Picture]) -> Iterator[str]:
    """MOT text, with frames counted from 1."""
    height, width = shown[0].shape[:2]
    count = len(shown)
    pieces = [frame for start in (2, count // 2, count - 6) for frame in range(start, min(start + 4, count))]
    frames = (range(count), range(count * 6 // 10, count), range(3, count, 7), sorted(set(pieces)))
    for track, numbers in enumerate(frames, start=1):
        left, top = (width // 10, height // 10) if track % 2 == 0 else (0, 0)
        for number in numbers:
            yield f"{number + 1},{track},{left},{top},{width - 2 * left},{height - 2 * top},1,-1,-1,-1\n"


def _wrong_frames(row: dict[str, object], shown: Sequence[Picture]) -> list[int]:
    frames, stored = row["frame_index"], row["frames"]
    assert isinstance(frames, list)
    assert isinstance(stored, list)
    assert len(frames) == len(stored)
    height, width = shown[0].shape[:2]
    parts = slice(None), slice(None)
    if int(dict(row["attributes"])["track"]) % 2 == 0:  # type: ignore[call-overload]
        parts = slice(height // 10, height - height // 10), slice(width // 10, width - width // 10)
    wrong = []
    for number, encoded in zip(frames, stored, strict=True):
        crop = np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB"))
        expected = shown[number][parts]
        if crop.shape != expected.shape or np.abs(_averages(crop) - _averages(expected)).max() > LARGEST_DIFFERENCE:
            wrong.append(number)
    return wrong


def _averages(picture: Picture) -> npt.NDArray[np.float32]:
    small = Image.fromarray(picture).resize((12, 12), Image.Resampling.BOX)
    return np.asarray(small, np.float32)


def _try(job: tuple[Video, Path]) -> Outcome:
    os.environ["OPENCV_FFMPEG_LOGLEVEL"] = "-8"
    with tempfile.TemporaryDirectory(dir=job[1]) as folder:
        return try_video(job[0], Path(folder))


def report(outcomes: Sequence[Outcome]) -> bool:
    """Print the tables; returns whether all is well."""
    total = sum((outcome.tracks for outcome in outcomes), Counter[str]())
    columns = ("right", "wrong", "refused", "hung")
    for title, key in (
        ("treatment", lambda v: v.treatment),
        ("codec and container", lambda v: f"{v.codec} {v.suffix}"),
    ):
        print(f"\n| {title} | videos | {' | '.join(columns)} |\n|---|---|---|---|---|---|")
        for name in sorted({key(outcome.video) for outcome in outcomes}):
            chosen = [outcome for outcome in outcomes if key(outcome.video) == name]
            sums = sum((outcome.tracks for outcome in chosen), Counter[str]())
            print(f"| {name} | {len(chosen)} | {' | '.join(str(sums[column]) for column in columns)} |")
    print(f"| all | {len(outcomes)} | {' | '.join(str(total[column]) for column in columns)} |\n")
    for outcome in outcomes:
        for reason in outcome.reasons:
            print(f"{outcome.video}: {reason}")
    refused = total["refused"] / max(1, total.total())
    print(f"tracks: {total['wrong']} silently wrong, {total['hung']} hung, {refused:.1%} refused of {total.total()}")
    return not total["wrong"] and not total["hung"] and refused <= MOST_REFUSED


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=500, help="that OpenCV reads; others are drawn in addition")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()
    compared: list[Outcome] = []
    passed_over: Counter[str] = Counter()
    drawn = draw_videos(20 * arguments.videos, arguments.seed)
    with (
        tempfile.TemporaryDirectory() as folder,
        ProcessPoolExecutor(arguments.workers, mp_context=get_context("spawn")) as pool,
    ):
        while len(compared) < arguments.videos:
            some = [(video, Path(folder)) for video, _ in zip(drawn, range(8 * arguments.workers), strict=False)]
            for outcome in pool.map(_try, some):
                if outcome.tracks:
                    compared.append(outcome)
                else:
                    passed_over[f"{outcome.video.kind}: {outcome.reasons[0][:60]}"] += 1
            print(f"{len(compared)} videos", file=sys.stderr, flush=True)
    for kind, count in sorted(passed_over.items()):
        print(f"passed over, {count}: {kind}")
    sys.exit(0 if report([replace(outcome) for outcome in compared[: arguments.videos]]) else 1)


if __name__ == "__main__":
    main()

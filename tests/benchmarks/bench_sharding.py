"""Sharding on one core against a bare loop of the same work, and the memory of a sharding worker.

    python -m tests.benchmarks.bench_sharding [--rounds 5]
    python -m tests.benchmarks.bench_sharding --memory-minutes 10 [--group 25]

Speed: 768 x 576 H.264 with six people a frame; the bare loop is decord, crop, resize and JPEG coding, nothing else.
Memory: one worker shards so many minutes of 1920 x 1080 with eight people a frame; its peak is that of the process and
of the one that decodes for it, added.
"""

from __future__ import annotations

import argparse
import io
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import av
import numpy as np
from PIL import Image

from data_tools.datasets.problems import Dataset
from data_tools.decoding_process import decoding_process
from data_tools.shard_plan import ShardOptions
from data_tools.tracklet import Box, Tracklet, VideoFrames
from tests.made_shards import make_shards

TARGET_RATIO, TARGET_MEGABYTES = 0.9, 1000
FRAMES, PEOPLE, TRACK_LENGTH = 600, 6, 100


def write_video(path: Path, width: int, height: int, frames: int, group: int) -> None:
    """A drifting soft scene with grain, H.264."""
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 255, (height // 32, width // 16, 3), dtype=np.uint8))
    scene = np.asarray(coarse.resize((2 * width, height), Image.Resampling.BICUBIC)).astype(np.int16)
    grain = rng.integers(-9, 10, (height, width, 3), dtype=np.int16)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"preset": "ultrafast", "g": str(group), "crf": "23"})
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number in range(frames):
            view = scene[:, number % width : number % width + width] + np.roll(grain, number * 7, axis=1)
            picture = av.VideoFrame.from_ndarray(np.clip(view, 0, 255).astype(np.uint8), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())


def tracks(video: Path, width: int, height: int, frames: int, people: int) -> tuple[Tracklet, ...]:
    """``people`` in every frame, each a new track after ``TRACK_LENGTH`` frames."""
    found = []
    for start in range(0, frames, TRACK_LENGTH):
        numbers = tuple(range(start, min(start + TRACK_LENGTH, frames)))
        for person in range(people):
            left, top = (person + 0.2) * width / people, height * 0.2
            boxes: tuple[Box, ...] = tuple((left + 0.3 * (number - start), top, 90.5, 230.25) for number in numbers)
            name = f"{start}/{person}"
            found.append(Tracklet(name, name, "0", "0", "train", VideoFrames(video, numbers, boxes), numbers))
    return tuple(found)


def bare_loop(video: Path, tracklets: tuple[Tracklet, ...]) -> float:
    """Seconds of decord + crop + resize + JPEG coding."""
    import decord

    boxes: dict[int, list[Box]] = {}
    for tracklet in tracklets:
        source = tracklet.source
        assert isinstance(source, VideoFrames)
        for number, box in zip(source.frames or (), source.boxes or (), strict=True):
            boxes.setdefault(number, []).append(box)
    started = time.perf_counter()
    reader = decord.VideoReader(str(video), num_threads=1)
    for number in range(len(reader)):
        frame = reader[number].asnumpy()
        for x, y, w, h in boxes.get(number, ()):
            crop = Image.fromarray(np.ascontiguousarray(frame[int(y) : int(y + h), int(x) : int(x + w)]))
            resized = crop.resize((128, 256), Image.Resampling.BICUBIC)
            resized.save(io.BytesIO(), "JPEG", quality=95)
    return time.perf_counter() - started


def shard(tracklets: tuple[Tracklet, ...], folder: Path) -> float:
    """Seconds of sharding, manifest and checksums included."""
    options = ShardOptions(shard_mebibytes=32)
    started = time.perf_counter()
    make_shards(Dataset("benchmark", tracklets), folder, options)
    return time.perf_counter() - started


def speed(rounds: int, root: Path) -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    video = root / "street.mp4"
    write_video(video, 768, 576, FRAMES, group=25)
    tracklets = tracks(video, 768, 576, FRAMES, PEOPLE)
    seconds = [
        (bare_loop(video, tracklets), shard(tracklets, root / f"shards{number}")) for number in range(rounds + 1)
    ]
    ratios = sorted(bare / ours for bare, ours in seconds[1:])
    ratio = statistics.median(ratios)
    print(f"{platform.machine()}, one core, load {os.getloadavg()[0]:.1f}; medians of {rounds} rounds\n")
    print("| what | frames/s | of the bare loop | lowest … highest | target | |\n|---|---|---|---|---|---|")
    print(f"| bare decord + crop + resize + JPEG | {FRAMES / statistics.median(bare for bare, _ in seconds[1:]):.0f} |")
    verdict = "met" if ratio >= TARGET_RATIO else "MISSED"
    ours = FRAMES / statistics.median(ours for _, ours in seconds[1:])
    print(f"| sharding | {ours:.0f} | {ratio:.2f} | {ratios[0]:.2f} … {ratios[-1]:.2f} | {TARGET_RATIO} | {verdict} |")


def memory(minutes: float, group: int, root: Path) -> None:
    video = root / "long.mp4"
    frames = int(minutes * 60 * 25)
    write_video(video, 1920, 1080, frames, group)
    command = [sys.executable, "-m", "tests.benchmarks.bench_sharding", "--shard", str(video), "--frames", str(frames)]
    megabytes = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])
    verdict = "met" if megabytes < TARGET_MEGABYTES else "MISSED"
    print("| sharding worker | peak MB | target | |\n|---|---|---|---|")
    print(f"| {minutes:g} min of 1920x1080, keyframes {group} apart | {megabytes} | {TARGET_MEGABYTES} | {verdict} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory-minutes", type=float, help="measure memory instead")
    parser.add_argument("--group", type=int, default=25, help="frames from keyframe to keyframe")
    parser.add_argument("--shard", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--frames", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        if arguments.shard:
            shard(tracks(arguments.shard, 1920, 1080, arguments.frames, 8), Path(temporary))
            decoding_process().close()  # the memory of children is known only after they have ended
            parts = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
            print(sum(resource.getrusage(part).ru_maxrss for part in parts) // 1024)
        elif arguments.memory_minutes:
            memory(arguments.memory_minutes, arguments.group, Path(temporary))
        else:
            speed(arguments.rounds, Path(temporary))


if __name__ == "__main__":
    main()

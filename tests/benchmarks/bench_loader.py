"""Clips per second on one core: our loader from JPEG and raw shards, the released way, and bare decoding.

    python -m tests.benchmarks.bench_loader [--rounds 5] [--cpu-time]

All ways load clips of 8 frames of the same pictures, turn by turn, round by round. The released way opens 384 x 192
JPEG files on disk (PIL, bicubic resize, flip, ToTensor, normalise, stack); ours reads shards of 256 x 128 frames and
gives uint8 batches, which are normalised on the device; bare decoding is `decode_jpeg` of the shards' frames alone.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from torchvision import transforms
from torchvision.io import ImageReadMode, decode_jpeg

from data_tools.clips import ClipOptions, random_clip
from data_tools.datasets.problems import Dataset
from data_tools.identity_sampler import Schedule
from data_tools.loader import ClipLoader, TrainingClips, TrainingItems
from data_tools.loading_options import AugmentOptions, LoaderOptions
from data_tools.manifest import StorageMode
from data_tools.shard_plan import ShardOptions
from data_tools.shards import ShardFolder
from data_tools.tracklet import ImageFrames, Tracklet
from data_tools.transforms import IMAGENET_MEAN, IMAGENET_STD
from tests.made_shards import make_shards

TRACKLETS, FRAMES, BATCH = 16, 48, 16
CLIP = ClipOptions(length=8, stride=4, piece=0)
RELEASED, BARE, JPEG, RAW = "released way, 384 x 192 files", "bare decode_jpeg", "JPEG shards", "raw shards"
CLIPS_A_ROUND = {RELEASED: 32, BARE: 512, JPEG: 512, RAW: 4096}
TARGETS = [(JPEG, RELEASED, 5.0), (JPEG, BARE, 0.85), (RAW, RELEASED, 50.0)]


def write_pictures(folder: Path, tracklets: int = TRACKLETS, frames: int = FRAMES) -> tuple[Tracklet, ...]:
    """Soft shapes with fine grain, 384 x 192 at quality 95; about 15 KB per frame once stored at 256 x 128."""
    assert frames <= FRAMES, f"{frames=}, and a scene is large enough for {FRAMES}"
    rng = np.random.default_rng(0)
    names = tuple(f"{number:04d}.jpg" for number in range(frames))
    for tracklet in range(tracklets):
        (folder / str(tracklet)).mkdir()
        scene = np.sum([soft_noise(rng, cells, strength) for cells, strength in ((4, 70), (16, 30), (64, 12))], axis=0)
        for number, name in enumerate(names):
            grain = rng.normal(size=(384, 192, 1)) * 3.8
            pixels = np.clip(120 + scene[number : number + 384] + grain, 0, 255).astype(np.uint8)
            picture = Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(0.6))
            picture.save(folder / str(tracklet) / name, "JPEG", quality=95)
    return tuple(
        Tracklet(
            str(number), str(number), "0", "0", "train", ImageFrames(folder / str(number), names), tuple(range(frames))
        )
        for number in range(tracklets)
    )


def soft_noise(rng: np.random.Generator, cells: int, strength: float) -> NDArray[np.float64]:
    """(384 + frames, 192, 3): noise of 2 cells x cells, enlarged."""
    enlarge = transforms.Resize((384 + FRAMES, 192), transforms.InterpolationMode.BICUBIC)
    noise = torch.from_numpy(rng.normal(size=(3, 2 * cells, cells)))
    enlarged: NDArray[np.float64] = enlarge(noise).permute(1, 2, 0).numpy()
    return strength * enlarged


def shards_of(tracklets: tuple[Tracklet, ...], folder: Path, storage: StorageMode) -> ShardFolder:
    make_shards(Dataset("benchmark", tracklets), folder, ShardOptions(format=storage))
    return ShardFolder(folder)


def random_places(clips: int) -> Iterator[tuple[int, list[int]]]:
    rng = np.random.default_rng(clips)
    for _ in range(clips):
        yield int(rng.integers(TRACKLETS)), random_clip(FRAMES, CLIP, rng).tolist()


def released(folder: Path) -> Callable[[int], None]:
    transform = transforms.Compose(
        [
            transforms.Resize((256, 128), transforms.InterpolationMode.BICUBIC),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )

    def load(clips: int) -> None:
        for tracklet, positions in random_places(clips):
            files = [folder / str(tracklet) / f"{position:04d}.jpg" for position in positions]
            torch.stack([transform(Image.open(file).convert("RGB")) for file in files])

    return load


def bare_decode(store: ShardFolder) -> Callable[[int], None]:
    frames = [
        [torch.from_numpy(code.copy()) for code in store.encoded_frames(row, range(FRAMES))] for row in range(TRACKLETS)
    ]

    def load(clips: int) -> None:
        for row, positions in random_places(clips):
            for position in positions:
                decode_jpeg(frames[row][position], ImageReadMode.RGB)

    return load


def our_loader(store: ShardFolder) -> Callable[[int], None]:
    row = np.arange(TRACKLETS)
    items = TrainingItems.cut(store.rows.frame_count_N[row], row, row, row, row * 0, CLIP.piece)
    clips = TrainingClips(store, items, CLIP, AugmentOptions(), (256, 128))
    loader = ClipLoader(clips, LoaderOptions(threads=1))

    def load(count: int) -> None:
        rng = np.random.default_rng(count)
        shape = (count // BATCH, BATCH)
        for _ in loader.batches(Schedule(rng.integers(TRACKLETS, size=shape), rng.integers(2**63, size=shape))):
            pass

    return load


def clips_per_second(
    ways: dict[str, Callable[[int], None]], rounds: int, clock: Callable[[], float]
) -> list[dict[str, float]]:
    """One dict per round; the first round is a warm-up and left out."""
    measured = []
    for _ in range(rounds + 1):
        speeds = {}
        for name, load in ways.items():
            started = clock()
            load(CLIPS_A_ROUND[name])
            speeds[name] = CLIPS_A_ROUND[name] / (clock() - started)
        measured.append(speeds)
    return measured[1:]


def report(measured: list[dict[str, float]], frame_bytes: float) -> None:
    print(f"{platform.machine()}, one core, torch {torch.__version__}, load {os.getloadavg()[0]:.1f}")
    print(f"{frame_bytes / 1000:.1f} KB a stored JPEG frame; medians of {len(measured)} rounds\n")
    print("| clips of 8 frames | clips/s |\n|---|---|")
    for name in measured[0]:
        print(f"| {name} | {statistics.median(speeds[name] for speeds in measured):,.0f} |")
    print("\n| what | against | ratio | lowest … highest | target | |\n|---|---|---|---|---|---|")
    for what, against, target in TARGETS:
        ratios = sorted(speeds[what] / speeds[against] for speeds in measured)
        ratio = statistics.median(ratios)
        verdict = "met" if ratio >= target else "MISSED"
        spread = f"{ratios[0]:.2f} … {ratios[-1]:.2f}"
        print(f"| {what} | {against} | {ratio:.2f} | {spread} | {target} | {verdict} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cpu-time", action="store_true", help="count this process's CPU time, on a busy machine")
    arguments = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        tracklets = write_pictures(folder)
        jpeg, raw = shards_of(tracklets, folder / "jpeg", "jpeg"), shards_of(tracklets, folder / "raw", "raw")
        size = statistics.mean(code.size for code in jpeg.encoded_frames(0, range(FRAMES)))
        ways = {RELEASED: released(folder), BARE: bare_decode(jpeg), JPEG: our_loader(jpeg), RAW: our_loader(raw)}
        clock = time.process_time if arguments.cpu_time else time.perf_counter
        measured = clips_per_second(ways, arguments.rounds, clock)
    report(measured, size)


if __name__ == "__main__":
    main()

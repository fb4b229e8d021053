"""What is written when one person is removed from finished shards, against writing all of them again.

    python -m tests.benchmarks.bench_forgetting [--shards 20] [--mebibytes 16] [--people-per-shard 4]

People follow one another in time, as in footage: each is in one or two neighbouring shards. The comparison removes a
tracklet from every shard, so that each is written again.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import simplejpeg

from data_tools.datasets.problems import Dataset
from data_tools.shard_plan import ShardOptions
from data_tools.shard_removal import StoredLabels, read_labels, remove_tracklets
from data_tools.storage import StorageFolder
from data_tools.tracklet import ImageFrames, Tracklet
from ray_jobs.cluster.machines import processor_name
from tests.made_shards import make_shards

PICTURES, FRAMES, TRACKLETS_EACH = 64, 24, 3


def write_pictures(folder: Path) -> int:
    """Write crops of 256x128, soft with grain; returns the bytes of one on average."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    size = 0
    for number in range(PICTURES):
        soft = np.kron(rng.integers(0, 256, (8, 4, 3)), np.ones((32, 32, 1), np.int64))
        pixels = np.clip(soft + rng.integers(-12, 13, (256, 128, 3)), 0, 255).astype(np.uint8)
        content = simplejpeg.encode_jpeg(pixels, quality=95)
        size += (folder / f"{number}.jpg").write_bytes(content)
    return size // PICTURES


def make(root: Path, shards: int, mebibytes: float, people_per_shard: int) -> int:
    """Make about so many shards; returns how many tracklets they have."""
    picture = write_pictures(root / "pictures")
    people = shards * people_per_shard
    frames = round(shards * mebibytes * 2**20 / (people * TRACKLETS_EACH * picture))
    rng = np.random.default_rng(1)
    tracklets = tuple(
        Tracklet(
            f"day/{person * TRACKLETS_EACH + number:05d}",
            f"person {person}",
            None,
            "gate",
            "gallery",
            ImageFrames(root / "pictures", tuple(f"{name}.jpg" for name in rng.integers(0, PICTURES, frames))),
            tuple(range(frames)),
        )
        for person in range(people)
        for number in range(TRACKLETS_EACH)
    )
    make_shards(
        Dataset("made", tracklets, ()), root / "shards", ShardOptions(format="source", shard_mebibytes=1.05 * mebibytes)
    )
    return len(tracklets)


def remove(folder: Path, name: str, chosen: npt.NDArray[np.bool_], stored: StoredLabels) -> None:
    """Remove tracklets, and print what was written."""
    before = {path.name: path.stat().st_ino for path in folder.iterdir()}
    total = sum(path.stat().st_size for path in folder.iterdir())
    started = time.perf_counter()
    remove_tracklets(stored, chosen)
    seconds = time.perf_counter() - started
    written = [path for path in folder.iterdir() if path.stat().st_ino != before.get(path.name)]
    size = sum(path.stat().st_size for path in written)
    shards = sum(path.name.startswith("shard") for path in written)
    print(
        f"{name}: {np.count_nonzero(chosen)} tracklets, {shards} of {len(stored.manifest.shards)} shards again, "
        f"{size / 2**20:.1f} of {total / 2**20:.1f} MiB ({100 * size / total:.1f} %), {seconds:.2f} s"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shards", type=int, default=20)
    parser.add_argument("--mebibytes", type=float, default=16)
    parser.add_argument("--people-per-shard", type=int, default=4)
    flags = parser.parse_args()
    print(processor_name())
    with tempfile.TemporaryDirectory(prefix="ccvid-bench-") as temporary:
        root = Path(temporary)
        count = make(root, flags.shards, flags.mebibytes, flags.people_per_shard)
        print(f"{count} tracklets of {count // TRACKLETS_EACH} people")
        for name in ("one person", "a tracklet of every shard"):
            folder = Path(shutil.copytree(root / "shards", root / name.replace(" ", "-")))
            stored = read_labels(StorageFolder(str(folder)))
            person = f"person {count // TRACKLETS_EACH // 2}"
            one = stored.rows.is_in("person", [person])
            first = np.diff(stored.rows.shard_N, prepend=-1) > 0
            remove(folder, name, one if name == "one person" else first, stored)


if __name__ == "__main__":
    main()

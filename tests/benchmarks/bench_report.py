"""The report of 1,000 queries, against writing only its pictures.

    python -m tests.benchmarks.bench_report [--queries 1000] [--gallery 5000] [--rounds 3]

Pictures are made from JPEG-coded frames of 256×128, three a tracklet, as shards hold them. The target is 60 seconds
for 1,000 queries; the ratio tells what labels, rankings, matrices, charts and pages cost beside the pictures.
"""

from __future__ import annotations

import argparse
import platform
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import simplejpeg

from ccvid.retrieval.report.film_strip import Picture, Thumbnails
from ccvid.retrieval.report.pictures import PictureFolder
from ccvid.retrieval.report.report import write_report
from ccvid.retrieval.report.report_input import ReportInput
from tests.method.report_walkers import walkers

TARGET_SECONDS_PER_1000 = 60
PLACES = 20


def stored(count: int) -> Thumbnails:
    """Three frames of each tracklet, decoded on request; the frames of 16 tracklets stand in for all."""
    random = np.random.default_rng(0)
    coarse = random.integers(0, 255, (16, 3, 32, 16, 3), np.uint8)
    frames = coarse.repeat(8, axis=2).repeat(8, axis=3)
    coded = [[simplejpeg.encode_jpeg(np.ascontiguousarray(frame), quality=95) for frame in clip] for clip in frames]

    def thumbnails(index: int) -> list[Picture]:
        assert 0 <= index < count
        return [simplejpeg.decode_jpeg(frame) for frame in coded[index % len(coded)]]

    return thumbnails


def shown(report: ReportInput) -> list[tuple[Thumbnails, int]]:
    """Every query, and every gallery tracklet that is shown."""
    gallery: set[int] = set()
    for name in report.evaluation.results:
        gallery |= set(report.evaluation.ranked_gallery(name).gallery_QK.ravel().tolist())
    queries = [(report.query_thumbnails, index) for index in range(len(report.evaluation.query))]
    return [*queries, *((report.gallery_thumbnails, index) for index in sorted(gallery - {-1}))]


def timed(write: Callable[[Path], object], rounds: int) -> tuple[float, int]:
    """Median seconds, and the number of pictures written."""
    seconds = []
    for _ in range(rounds):
        folder = Path(tempfile.mkdtemp())
        try:
            start = time.perf_counter()
            write(folder / "report")
            seconds.append(time.perf_counter() - start)
            pictures = sum(1 for _ in folder.rglob("*.jpg"))
        finally:
            shutil.rmtree(folder)
    return statistics.median(seconds), pictures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--gallery", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    report = replace(
        walkers(options.queries, options.gallery, persons=max(2, options.queries // 10), cameras=8, top_k=PLACES),
        query_thumbnails=stored(options.queries),
        gallery_thumbnails=stored(options.gallery),
    )

    def pictures_alone(folder: Path) -> None:
        pictures = PictureFolder(folder)
        for thumbnails, index in shown(report):
            pictures.picture(thumbnails, index)

    alone, count_alone = timed(pictures_alone, options.rounds)
    whole, count = timed(lambda folder: write_report(report, folder), options.rounds)
    print(f"{platform.processor() or platform.machine()}, one process; median of {options.rounds} rounds")
    print(f"{options.queries} queries, {options.gallery} gallery, {len(report.evaluation.results)} protocols")
    print(f"pictures alone    {alone:7.1f} s  ({count_alone} pictures)")
    print(f"the whole report  {whole:7.1f} s  ({count} pictures), {whole / alone:.2f} of the pictures alone")
    per_1000 = 1000 * whole / options.queries
    print(f"for 1,000 queries {per_1000:7.1f} s  target <= {TARGET_SECONDS_PER_1000}")


if __name__ == "__main__":
    main()

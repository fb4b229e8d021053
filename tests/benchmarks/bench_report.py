"""The report of a large retrieval, part by part, beside the bare work on its pictures.

    python -m tests.benchmarks.bench_report [--queries 10000] [--gallery 200000] [--dimensions 48] [--stored 20000]

Prints one JSON object a line: ``phase``, ``seconds``, ``cpu_seconds`` of all threads, and ``peak_bytes``, the private
memory above that at the phase's start (pages of the mapped shards, which the system takes back when it needs them, are
not counted). The phases:

    filmstrips  rankings of all protocols (20 places), and the pictures of all tracklets in them, each made once;
                ``bare_seconds``: three JPEGs of 256x128 decoded at the pictures' scale and one encoded, as many times
                as there are pictures, by the same library on as many threads, without reading or writing files
    overview    metrics, charts and the matrices by camera, clothes and location, each of which ranks anew
    open        the page of filmstrips in Chromium from disk, until its first 50 rows stand there (with chromedriver)

The ranking itself is not measured: random embeddings of so many dimensions are ranked among 400 gallery entries each.
Frames are read from shards of ``--stored`` tracklets, 15 KB a frame, which stand in for all. The aim: 120 seconds for
filmstrips and overview of 10,000 queries on two cores, and less than 1 GB.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import simplejpeg

from ccvid.retrieval.ranking import metrics
from ccvid.retrieval.ranking.distances import Distances, Indices
from ccvid.retrieval.ranking.nearest import NearestOthers
from ccvid.retrieval.ranking.ranks import PersonPairs, same_person
from ccvid.retrieval.report.film_strip import HEIGHT
from ccvid.retrieval.report.folder import report_folder
from ccvid.retrieval.report.mosaic import HeadHiding
from ccvid.retrieval.report.pictures import QUALITY
from ccvid.retrieval.report.report import write_overview, write_rankings
from ccvid.retrieval.report.report_input import ReportInput
from ccvid.retrieval.report.stored_pictures import stored_thumbnails
from data_tools.cpus import available_cpus
from data_tools.shards import ShardFolder
from data_tools.tracklet import ImageFrames, Tracklet
from tests.benchmarks.bench_loader import shards_of, write_pictures
from tests.benchmarks.bench_retrieval import machine
from tests.method.report_walkers import walkers

PLACES, OF_A_PERSON, SCENES, FRAMES, SAMPLE = 20, 40, 64, 3, 400


class Measured:
    """Seconds, CPU seconds and the peak of private memory of what runs within, sampled."""

    def __enter__(self) -> Measured:
        self._over = threading.Event()
        self._before = self.peak_bytes = _private_bytes()
        self._sampler = threading.Thread(target=self._sample)
        self._sampler.start()
        self._started, self._cpu = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.perf_counter() - self._started
        self.cpu_seconds = time.process_time() - self._cpu
        self._over.set()
        self._sampler.join()
        self.peak_bytes -= self._before

    def _sample(self) -> None:
        while not self._over.wait(0.05):
            self.peak_bytes = max(self.peak_bytes, _private_bytes())


def _private_bytes() -> int:
    found = re.search(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) * 1024


def stored(folder: Path, tracklets: int) -> ShardFolder:
    """Shards of 256x128 JPEGs; the frames of ``SCENES`` tracklets stand in for all."""
    pictures, frames = folder / "pictures", folder / "frames"
    pictures.mkdir()
    scenes = shards_of(write_pictures(pictures, SCENES, FRAMES), folder / "scenes", "jpeg")
    names = tuple(f"{number}.jpg" for number in range(FRAMES))
    for scene in range(SCENES):
        (frames / str(scene)).mkdir(parents=True)
        for name, encoded in zip(names, scenes.encoded_frames(scene, range(FRAMES)), strict=True):
            (frames / str(scene) / name).write_bytes(encoded.tobytes())
    sources = [ImageFrames(frames / str(scene), names) for scene in range(SCENES)]
    every = (
        Tracklet(str(number), "0", "0", "0", "gallery", sources[number % SCENES], tuple(range(FRAMES)))
        for number in range(tracklets)
    )
    return shards_of(tuple(every), folder / "shards", "source")


def rank_a_sample(
    distances: Distances, query_person: Indices, gallery_person: Indices, nearest: int
) -> tuple[PersonPairs, NearestOthers]:
    """Ranks among a query's own person and ``SAMPLE`` entries of the gallery, evenly spaced from a random one."""
    queries, gallery = distances.shape
    start_Q = np.random.default_rng(0).integers(0, gallery, queries)
    sample_QN = (start_Q[:, None] + np.linspace(0, gallery, SAMPLE, endpoint=False).astype(np.int64)) % gallery
    distance_QN = distances.pairs(np.repeat(np.arange(queries), SAMPLE), sample_QN.ravel()).reshape(queries, SAMPLE)
    distance_QN[gallery_person[sample_QN] == query_person[:, None]] = np.inf
    order_QN = np.argsort(distance_QN, axis=1, kind="stable")
    sample_QN = np.take_along_axis(sample_QN, order_QN, axis=1)
    distance_QN = np.take_along_axis(distance_QN, order_QN, axis=1)
    query, own, first = same_person(query_person, gallery_person)
    distance = distances.pairs(query, own)
    order = np.lexsort((own, distance, query))
    own, distance = own[order], distance[order]
    before = np.concatenate(
        [np.searchsorted(distance_QN[q], distance[first[q] : first[q + 1]]) for q in range(queries)]
    )
    others = NearestOthers(sample_QN[:, :nearest].copy(), distance_QN[:, :nearest].copy())
    return PersonPairs(query, own, distance, before, first), others


def bare_work(store: ShardFolder, pictures: int) -> Measured:
    """Decode and encode as many pictures, and nothing else."""
    clips = [store.encoded_frames(scene, range(FRAMES)) for scene in range(SCENES)]

    def make(number: int) -> None:
        frames = [
            simplejpeg.decode_jpeg(frame, min_height=HEIGHT, min_width=HEIGHT // 2) for frame in clips[number % SCENES]
        ]
        simplejpeg.encode_jpeg(np.concatenate(frames, axis=1), quality=QUALITY, colorsubsampling="420")

    def make_some(first: int) -> None:
        for number in range(first, min(first + 100, pictures)):
            make(number)

    with Measured() as bare, ThreadPoolExecutor(available_cpus()) as threads:
        list(threads.map(make_some, range(0, pictures, 100)))
    return bare


@contextmanager
def opened_page(page: Path) -> Iterator[float]:
    """Seconds from asking Chromium for the page until its rows and their first pictures stand there."""
    from selenium import webdriver  # needed only where there is a browser
    from selenium.webdriver.chrome.service import Service
    from selenium.webdriver.support.ui import WebDriverWait

    options = webdriver.ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1300,1000"):
        options.add_argument(argument)
    browser = webdriver.Chrome(options=options, service=Service(str(shutil.which("chromedriver"))))
    shown = "return document.querySelector('article.row img')?.naturalWidth > 0"
    try:
        browser.get("about:blank")
        started = time.perf_counter()
        browser.get(page.as_uri())
        WebDriverWait(browser, 60, poll_frequency=0.02).until(lambda _: browser.execute_script(shown))
        yield time.perf_counter() - started
    finally:
        browser.quit()


def say(phase: str, **figures: float) -> None:
    """Print a line of JSON."""
    print(json.dumps({"phase": phase, **{name: round(value, 3) for name, value in figures.items()}}), flush=True)


def measure(report: ReportInput, store: ShardFolder, folder: Path, *, overview: bool) -> None:
    """Write the report, and print the lines."""
    with report_folder(folder) as new:
        with Measured() as filmstrips:
            write_rankings(report, new)
        if overview:
            with Measured() as first_page:
                write_overview(report, new)
            say(
                "overview",
                seconds=first_page.seconds,
                cpu_seconds=first_page.cpu_seconds,
                peak_bytes=first_page.peak_bytes,
            )
    files = [path for path in folder.rglob("*") if path.is_file()]
    pictures = sum(path.suffix == ".jpg" for path in files)
    bare = bare_work(store, pictures)
    say(
        "filmstrips",
        seconds=filmstrips.seconds,
        cpu_seconds=filmstrips.cpu_seconds,
        bare_seconds=bare.seconds,
        bare_cpu_seconds=bare.cpu_seconds,
        peak_bytes=filmstrips.peak_bytes,
        pictures=pictures,
        files=len(files),
        bytes=sum(path.stat().st_size for path in files),
    )
    if shutil.which("chromium") and shutil.which("chromedriver"):
        with opened_page(folder / "filmstrips.html") as seconds:
            say("open", seconds=seconds, index_bytes=(folder / "data" / "index.js").stat().st_size)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, default=10_000)
    parser.add_argument("--gallery", type=int, default=200_000)
    parser.add_argument("--dimensions", type=int, default=48)
    parser.add_argument("--stored", type=int, default=20_000)
    parser.add_argument("--no-overview", action="store_true", help="leave out the first page")
    parser.add_argument("--folder", type=Path, help="write the report there and keep it. Default: a temporary folder")
    options = parser.parse_args()
    print(f"{machine()}, {available_cpus()} CPUs", file=sys.stderr)
    with tempfile.TemporaryDirectory() as temporary:
        store = stored(Path(temporary), min(options.stored, options.gallery))
        with patch.object(metrics, "rank_persons", rank_a_sample):
            report = walkers(
                options.queries,
                options.gallery,
                persons=max(2, options.gallery // OF_A_PERSON),
                cameras=8,
                top_k=PLACES,
                dimensions=options.dimensions,
            )
        query, gallery = (
            stored_thumbnails([(store, index % len(store.rows)) for index in range(size)], HeadHiding(False))
            for size in (options.queries, options.gallery)
        )
        report = replace(report, query_thumbnails=query, gallery_thumbnails=gallery)
        measure(report, store, options.folder or Path(temporary) / "report", overview=not options.no_overview)


if __name__ == "__main__":
    main()

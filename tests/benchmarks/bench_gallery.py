"""A gallery of made embeddings, phase by phase, each beside the bare reading or product of the same bytes.

    python -m tests.benchmarks.bench_gallery [--tracklets 500000] [--dimensions 256] [--queries 500]

Prints one JSON object a line: ``phase``, ``seconds``, ``bare_seconds``, both also as seconds of CPU for a machine with
other work, and ``peak_bytes``, the memory above that at the phase's start. Every phase is a process of its own. What is
bare:

    write    the embeddings' bytes, written to one file
    open     the bytes of all parts, read once
    choose   the chosen embeddings, copied; choosing copies only the queries
    search   the float32 product of queries and entries, in blocks; the search opens and checks the parts, too
    metrics  the same product; three protocols are scored, part by part
    thresholds  the same product; error rates, intervals, open set and calibration of one protocol, part by part
    add      the embeddings' bytes of 1,000 more tracklets, written to one file
    remove   the bytes of the parts that held the person, read and written

Needs Linux (peaks are the kernel's) and no Ray: parts are searched and scored one after another in the phase's process,
as by one task of a cluster. With --tasks, metrics and thresholds are Ray tasks instead, and the peak is the driver's.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ccvid.config import Recipe, ThresholdOptions
from ccvid.retrieval.embedding.store import EmbedderDescription, open_store, read_store
from ccvid.retrieval.embedding.table import EmbeddingRow, EmbeddingRows, EmbeddingTable
from ccvid.retrieval.ranking.given import GivenRetrieval
from ccvid.retrieval.ranking.labels import RetrievalLabels
from ccvid.retrieval.ranking.metrics import evaluate
from ccvid.retrieval.ranking.protocols import PROTOCOLS
from ccvid.retrieval.thresholds.find import find_thresholds
from data_tools.storage import StorageFolder
from ray_jobs.cluster.connection import connect
from ray_jobs.scoring.entries import EntryFilter, queries_in
from ray_jobs.scoring.gallery_search import GallerySearch, search_parts
from ray_jobs.scoring.part_tasks import here, on_cluster
from ray_jobs.scoring.stored_distances import StoredDistances
from ray_jobs.scoring.stored_retrieval import read_retrieval
from tests.benchmarks.bare import bare_product

PHASES = ("write", "open", "choose", "search", "metrics", "thresholds", "add", "remove")
PART = 50_000
CAMERAS, OF_A_PERSON, TOP, ADDED = 40, 20, 20, 1000
Embeddings = npt.NDArray[np.float32]


class Measured:
    """Seconds, those of all threads on a CPU, and peak memory of what runs within."""

    def __enter__(self) -> Measured:
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        self._before = _status("VmRSS")
        self._started, self._worked = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds, self.cpu_seconds = time.perf_counter() - self._started, time.process_time() - self._worked
        self.peak_bytes = max(0, _status("VmHWM") - self._before)


def _status(name: str) -> int:
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) * 1024


def made_parts(
    tracklets: int, dimensions: int, queries: int, model: str, name: str = "video"
) -> Iterator[EmbeddingTable]:
    """Parts of random directions; the first tracklets are the queries, all have a person, clothes, camera and times."""
    for start in range(0, tracklets, PART):
        numbers = range(start, min(tracklets, start + PART))
        random = np.random.default_rng([start, *name.encode()])
        embedding_ND = random.standard_normal((len(numbers), dimensions), np.float32)
        embedding_ND /= np.linalg.norm(embedding_ND, axis=1, keepdims=True)
        person, camera = random.integers(0, max(2, tracklets // OF_A_PERSON), len(numbers)), random.integers(CAMERAS)
        rows = EmbeddingRows.of(
            EmbeddingRow(
                id=f"{name}-{number % 997}/{number:010d}",
                person=f"p{who}",
                clothes=f"o{number % 3}",
                camera=f"c{(camera + number) % CAMERAS}",
                split="query" if number < queries else "gallery",
                attributes={"start_seconds": f"{number % 3600}.0", "end_seconds": f"{number % 3600 + 5}.0"},
                clip_count=4,
                shard="made",
            )
            for number, who in zip(numbers, person.tolist(), strict=True)
        )
        yield EmbeddingTable(rows, embedding_ND, model)


ENTRIES = EntryFilter(cameras=tuple(f"c{number}" for number in range(CAMERAS // 2)), until=1800.0)
"""Half of the cameras, the first half hour of each video."""


def read_bytes(paths: list[Path]) -> int:
    return sum(len(path.read_bytes()) for path in paths)


def write(folder: Path, tracklets: int, dimensions: int, queries: int) -> tuple[Measured, Measured]:
    store = open_store(StorageFolder(str(folder)), EmbedderDescription.of("made", dimensions, Recipe()))
    totals, bare_totals, peak = np.zeros(2), np.zeros(2), 0
    for part in made_parts(tracklets, dimensions, queries, store.embedder.fingerprint):
        with Measured() as own:
            store.add(part)
        totals, peak = np.add(totals, (own.seconds, own.cpu_seconds)), max(peak, own.peak_bytes)
        with Measured() as bare, tempfile.TemporaryFile(dir=folder) as file:
            file.write(part.embedding_ND.data)
            os.fsync(file.fileno())
        bare_totals = np.add(bare_totals, (bare.seconds, bare.cpu_seconds))
    own.peak_bytes = peak
    (own.seconds, own.cpu_seconds), (bare.seconds, bare.cpu_seconds) = totals.tolist(), bare_totals.tolist()
    return own, bare


def open_gallery(folder: Path) -> tuple[Measured, Measured]:
    paths = sorted(folder.glob("part-*"))
    read_bytes(paths)  # so that both find them in the page cache
    with Measured() as bare:
        read_bytes(paths)
    store = read_store(StorageFolder(str(folder)))
    with Measured() as own, store.parts.opened(store.parts.names()) as parts:
        for part in parts:
            assert len(part.rows) == len(part.embedding_ND)
    return own, bare


def choose_entries(folder: Path) -> tuple[Measured, Measured]:
    store = read_store(StorageFolder(str(folder)))
    with store.parts.opened(store.parts.names()) as parts:
        for part in parts:
            assert part.rows
        with Measured() as own:
            chosen = [ENTRIES.chosen(part.rows) for part in parts if ENTRIES.may_choose_of(part)]
            assert len(queries_in(store).rows)
        some = [part.embedding_ND[rows] for part, rows in zip(parts, chosen, strict=True)]  # in the page cache
        with Measured() as bare:
            some = [part.embedding_ND[rows] for part, rows in zip(parts, chosen, strict=True)]
        del some
    return own, bare


def search_store(folder: Path) -> tuple[Measured, Measured]:
    store = read_store(StorageFolder(str(folder)))
    queries = queries_in(store)
    with store.parts.opened(store.parts.names()) as parts:
        for part in parts:  # in the page cache
            bare_product(queries.embedding_ND, part.embedding_ND)
        with Measured() as bare:
            for part in parts:
                bare_product(queries.embedding_ND, part.embedding_ND)
    with Measured() as own:
        search_parts(store.parts.groups(), GallerySearch(store, queries, EntryFilter(), TOP, ("id",)))
    return own, bare


def metrics(folder: Path, tasks: bool) -> tuple[Measured, Measured]:
    retrieval = _in_parts(folder, tasks)
    bare = _bare(folder, retrieval)
    with Measured() as own:
        evaluate(*retrieval)
    return own, bare


def thresholds(folder: Path, tasks: bool) -> tuple[Measured, Measured]:
    retrieval = _in_parts(folder, tasks)
    bare = _bare(folder, retrieval)
    with Measured() as own:
        found = find_thresholds(
            *retrieval, PROTOCOLS["general"], ThresholdOptions(calibration="isotonic"), model="made"
        )
    assert not found.left_out, found.left_out
    return own, bare


def _in_parts(folder: Path, tasks: bool) -> GivenRetrieval:
    """Queries in memory, the gallery in its parts."""
    if tasks:
        connect()
    found = read_retrieval(read_store(StorageFolder(str(folder))), run=on_cluster if tasks else here)
    return GivenRetrieval(found.distances, *map(RetrievalLabels.from_rows, (found.query.rows, found.gallery)))


def _bare(folder: Path, retrieval: GivenRetrieval) -> Measured:
    """The product of the queries and all parts, which lie in the page cache."""
    assert isinstance(retrieval.distances, StoredDistances)
    query_QD = retrieval.distances.query_QD
    with Measured() as bare:
        for _, part in read_store(StorageFolder(str(folder))).parts.each():
            bare_product(query_QD, part.embedding_ND)
    return bare


def add(folder: Path, dimensions: int) -> tuple[Measured, Measured]:
    store = read_store(StorageFolder(str(folder)))
    new = next(made_parts(ADDED, dimensions, 0, store.embedder.fingerprint, name="new"))
    with Measured() as own:
        store.add(new)
    with Measured() as bare, tempfile.TemporaryFile(dir=folder) as file:
        file.write(new.embedding_ND.data)
        os.fsync(file.fileno())
    return own, bare


def remove(folder: Path) -> tuple[Measured, Measured]:
    store = read_store(StorageFolder(str(folder)))
    before = set(folder.glob("part-*"))
    with Measured() as own:
        store.remove(persons=["p1"])
    with Measured() as bare, tempfile.TemporaryDirectory(dir=folder) as temporary:
        for number, path in enumerate(set(folder.glob("part-*")) - before):
            with (Path(temporary) / str(number)).open("wb") as file:
                file.write(path.read_bytes())
                os.fsync(file.fileno())
    return own, bare


def run_phase(phase: str, folder: Path, arguments: argparse.Namespace) -> dict[str, object]:
    phases: dict[str, Callable[[], tuple[Measured, Measured]]] = {
        "write": lambda: write(folder, arguments.tracklets, arguments.dimensions, arguments.queries),
        "open": lambda: open_gallery(folder),
        "choose": lambda: choose_entries(folder),
        "search": lambda: search_store(folder),
        "metrics": lambda: metrics(folder, arguments.tasks),
        "thresholds": lambda: thresholds(folder, arguments.tasks),
        "add": lambda: add(folder, arguments.dimensions),
        "remove": lambda: remove(folder),
    }
    own, bare = phases[phase]()
    return {
        "phase": phase,
        "seconds": round(own.seconds, 6),
        "bare_seconds": round(bare.seconds, 6),
        "cpu_seconds": round(own.cpu_seconds, 6),
        "bare_cpu_seconds": round(bare.cpu_seconds, 6),
        "ratio": round(own.seconds / max(bare.seconds, 1e-9), 2),
        "peak_bytes": own.peak_bytes,
        "embedding_bytes": arguments.tracklets * arguments.dimensions * 4,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tracklets", type=int, default=500_000)
    parser.add_argument("--dimensions", type=int, default=256)
    parser.add_argument("--queries", type=int, default=500)
    parser.add_argument("--tasks", action="store_true", help="metrics and thresholds as Ray tasks")
    parser.add_argument("--phase", choices=PHASES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.phase:
        print(json.dumps(run_phase(arguments.phase, arguments.folder, arguments)), flush=True)
        return
    with tempfile.TemporaryDirectory() as folder:
        for phase in PHASES:
            command = [sys.executable, "-m", "tests.benchmarks.bench_gallery", *sys.argv[1:]]
            subprocess.run([*command, "--phase", phase, "--folder", folder], check=True)


if __name__ == "__main__":
    main()

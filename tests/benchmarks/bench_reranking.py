"""Groups and k-reciprocal re-ranking of large stored galleries: seconds, memory, and what they bring on made features.

    python -m tests.benchmarks.bench_reranking [--tracklets 50000 100000] [--queries 1000] [--dimensions 256]
        [--only groups] [--exact] [--here]

Twenty tracklets a person, around a centre for each; the coordinates of both vary less and less, as those of a trained
network do. They are written to a store of several parts in a temporary folder, and are read from there by Ray tasks on
this machine; with ``--here``, by threads of one process. Each size and each piece of work has a process of its own.

Prints one JSON object a line. ``peak_bytes`` is the most memory of that process and all that it started, Ray's own
processes, its object store and the mapped parts included, each shared page counted once; ``cpu_seconds`` those of all
of them. The recall of the neighbours is printed before each line.

    groups               ``score.py --groups``, but for its pages
    re-ranking: weights  what ``score.post_processing`` needs before it can score
    re-ranking: scoring  of the queries against the others, with the embeddings in memory; the plain side beside it

Neighbours come from an index at every size, in two halves, as a million tracklets have two (``INDEXED_ROWS``), so the
last two sizes tell how seconds and memory grow: by which power of the tracklets. What they give for a million by that
growth is printed, too, marked as extrapolated. With ``--exact`` neighbours come from comparing all pairs.

Needs Linux.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from math import log
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch

from ccvid.retrieval.embedding.part_folder import PartFolder
from ccvid.retrieval.embedding.table import EmbeddingRow, EmbeddingRows, EmbeddingTable
from ccvid.retrieval.gallery import own_neighbours
from ccvid.retrieval.gallery.clusters import Clusters, Presence, find_clusters, score_clusters
from ccvid.retrieval.gallery.reranking import Neighbourhoods, ReRankedDistances, reciprocal_neighbours
from ccvid.retrieval.gallery.slices import IN_THREADS, SliceRunner
from ccvid.retrieval.gallery.vectors import StoredVectors, read_stored
from ccvid.retrieval.ranking.distances import CosineDistances, Distances, Floats
from ccvid.retrieval.ranking.labels import RetrievalLabels
from ccvid.retrieval.ranking.metrics import evaluate
from ccvid.retrieval.ranking.protocols import PROTOCOLS
from data_tools.storage import StorageFolder
from ray_jobs.cluster.connection import connect
from ray_jobs.scoring.slice_tasks import ClusterSlices
from tests.benchmarks.process_tree import TreeMeter

EACH, NOISE, INDEXES, MILLION = 20, 1.5, 2, 1_000_000
PART, BLOCK = 49_152, 8192
"""Rows of a stored part, and made at a time."""
Persons = npt.NDArray[np.int64]
Found = TypeVar("Found")


@dataclass(frozen=True)
class Measured:
    """One piece of work: wall and CPU seconds, the most memory meanwhile in bytes, and its result in words."""

    phase: str
    tracklets: int
    seconds: float
    cpu_seconds: float
    peak_bytes: int
    result: str


@dataclass(frozen=True)
class Asked:
    """What a process does."""

    folder: str
    tracklets: int
    queries: int
    dimensions: int
    exact: bool
    here: bool

    @property
    def parts(self) -> PartFolder:
        return PartFolder(StorageFolder(self.folder), "made", self.dimensions)

    @property
    def exact_rows(self) -> int:
        return self.tracklets if self.exact else 0

    def measured(self, phase: str, work: Callable[[], Found], result: Callable[[Found], str]) -> tuple[Found, Measured]:
        with TreeMeter() as meter:
            found = work()
        return found, Measured(phase, self.tracklets, meter.seconds, meter.cpu_seconds, meter.peak_bytes, result(found))

    def start(self) -> SliceRunner:
        own_neighbours.INDEXED_ROWS = -(-self.tracklets // INDEXES)
        if self.here:
            return IN_THREADS
        connect()
        return ClusterSlices()


def persons(tracklets: int) -> Persons:
    return np.random.default_rng(1).permutation(np.arange(tracklets) // EACH)


def made_blocks(tracklets: int, dimensions: int) -> Iterator[Floats]:
    """Embeddings, ``BLOCK`` at a time."""
    random, person = np.random.default_rng(2), persons(tracklets)
    scale = (1 / np.sqrt(1 + np.arange(dimensions) / 16)).astype(np.float32)
    centre = random.standard_normal((person.max() + 1, dimensions), np.float32)
    for start in range(0, tracklets, BLOCK):
        own = person[start : start + BLOCK]
        noise = random.standard_normal((len(own), dimensions), np.float32)
        yield (centre[own] + np.float32(NOISE) * noise) * scale


def write_store(asked: Asked) -> None:
    person, held, start = persons(asked.tracklets).tolist(), [], 0
    for block in made_blocks(asked.tracklets, asked.dimensions):
        held.append(block)
        stop = start + sum(map(len, held))
        if stop - start >= PART or stop == asked.tracklets:
            rows = EmbeddingRows.of(
                EmbeddingRow(f"{row:010d}", f"p{person[row]}", None, f"c{row % 7}", "gallery", {}, 4, "made")
                for row in range(start, stop)
            )
            asked.parts.write(EmbeddingTable(rows, np.concatenate(held), "made"))
            held, start = [], stop


def grouped(asked: Asked) -> list[Measured]:
    run = asked.start()

    def work() -> Clusters:
        rows, vectors = read_stored(asked.parts, run)
        return find_clusters(vectors, Presence.of(rows), exact_rows=asked.exact_rows, run=run)

    def told(found: Clusters) -> str:
        scores = score_clusters(found.group_N, [str(number) for number in persons(asked.tracklets).tolist()])
        return f"B-cubed precision {scores.precision:.1%}, recall {scores.recall:.1%}"

    return [asked.measured("groups", work, told)[1]]


def re_ranked(asked: Asked) -> list[Measured]:
    run = asked.start()
    vectors = read_stored(asked.parts, run)[1]
    weights, weighing = asked.measured(
        "re-ranking: weights",
        lambda: reciprocal_neighbours(vectors, exact_rows=asked.exact_rows, run=run),
        lambda found: f"{found.weight_NN.nnz / asked.tracklets:.1f} weights a tracklet",
    )
    matrix, queries = in_memory(vectors), asked.queries
    sides = CosineDistances(matrix[:queries], matrix[queries:], gallery_checked=True)
    weight_NN = weights.weight_NN
    own = Neighbourhoods(weight_NN[:queries], weight_NN[queries:], weights.largest_N[:queries], share=0.3)
    distances = ReRankedDistances(sides, own)
    plain, scoring = (
        asked.measured(phase, partial(general_map, ranked, persons(asked.tracklets)), "mAP {:.1%}".format)[1]
        for phase, ranked in (("plain: scoring", sides), ("re-ranking: scoring", distances))
    )
    return [weighing, plain, scoring]


def in_memory(vectors: StoredVectors) -> Floats:
    with vectors.opened() as opened:
        return opened.take(np.arange(vectors.shape[0]))


def general_map(distances: Distances, person_N: Persons) -> float:
    queries = distances.shape[0]
    labels = as_labels(person_N[:queries], "q"), as_labels(person_N[queries:], "g")
    found = evaluate(distances, *labels, protocols=[PROTOCOLS["general"]])
    return found.results["general"].mean_average_precision


def as_labels(person_N: Persons, prefix: str) -> RetrievalLabels:
    ids = tuple(f"{prefix}{number}" for number in range(len(person_N)))
    return RetrievalLabels(ids, tuple(map(str, person_N.tolist())), (prefix,) * len(ids), (None,) * len(ids))


PIECES: dict[str, Callable[[Asked], list[Measured]]] = {"groups": grouped, "re-ranking": re_ranked}


def in_own_process(work: Callable[[Asked], Found], asked: Asked) -> Found:
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        return process.submit(work, asked).result()


def say(found: Measured, **more: object) -> None:
    print(json.dumps({**asdict(found), **more}), flush=True)


def growth(before: Measured, last: Measured) -> tuple[float, float]:
    """The powers of the tracklets by which seconds and memory grow."""
    sizes = log(last.tracklets / before.tracklets)
    return log(last.seconds / before.seconds) / sizes, log(last.peak_bytes / before.peak_bytes) / sizes


def extrapolated(before: Measured, last: Measured) -> Measured:
    """For a million tracklets, by the growth between two sizes."""
    seconds, memory = growth(before, last)
    ratio = MILLION / last.tracklets
    return Measured(
        f"{last.phase}, EXTRAPOLATED",
        MILLION,
        last.seconds * ratio**seconds,
        last.cpu_seconds * ratio**seconds,
        int(last.peak_bytes * ratio**memory),
        f"seconds grow by the power {seconds:.2f}, memory {memory:.2f}",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tracklets", type=int, nargs="+", default=[50_000, 100_000])
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--dimensions", type=int, default=256)
    parser.add_argument("--exact", action="store_true", help="compare all pairs")
    parser.add_argument("--here", action="store_true", help="threads of one process, no Ray")
    parser.add_argument("--only", choices=tuple(PIECES))
    options = parser.parse_args()
    print(json.dumps({"machine": platform.machine(), "cpus": torch.get_num_threads(), "load": os.getloadavg()[0]}))
    measured: dict[str, list[Measured]] = {}
    for size in sorted(options.tracklets):
        with tempfile.TemporaryDirectory(prefix="ccvid-bench-") as folder:
            asked = Asked(folder, size, options.queries, options.dimensions, options.exact, options.here)
            started = time.perf_counter()
            in_own_process(write_store, asked)
            size_on_disk = sum(path.stat().st_size for path in Path(folder).iterdir())
            print(json.dumps({"phase": "write", "seconds": time.perf_counter() - started, "bytes": size_on_disk}))
            for name, piece in PIECES.items():
                for found in in_own_process(piece, asked) if options.only in (None, name) else ():
                    say(found)
                    measured.setdefault(found.phase, []).append(found)
    for rows in measured.values():
        if len(rows) > 1 and not options.exact and rows[-1].tracklets < MILLION:
            say(extrapolated(*rows[-2:]))


if __name__ == "__main__":
    main()

"""A day's tracklets against very many known ones: identify.py on a gallery and a register of made embeddings."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ccvid.config import Recipe
from ccvid.identities.corrections import Corrections
from ccvid.identities.evidence import learn_evidence
from ccvid.identities.persons import Persons
from ccvid.identities.register import Register
from ccvid.retrieval.embedding.store import EmbedderDescription, open_store
from ccvid.retrieval.embedding.table import EmbeddingRow, EmbeddingRows, EmbeddingTable
from ccvid.retrieval.ranking.distances import Floats, Indices
from ccvid.run_files import IDENTITIES_FILE
from data_tools.storage import StorageFolder
from ray_jobs.identify import main as identify
from tests.benchmarks.process_tree import TreeMeter

DIMENSIONS, NOISE = 256, 0.3
"""Of made embeddings."""
EACH, EACH_A_DAY = 8, 4
"""Tracklets of a known person, and of a person on the last day."""
KNOWN_SHARE = 0.8
"""Of the persons of the last day."""
LABELLED = 2000
PRIOR = 1e-3
"""Much more than the share of pairs that are of one person, which no evidence from labelled pairs outweighs."""
EMBEDDER = EmbedderDescription.of("made", DIMENSIONS, Recipe())


@dataclass(frozen=True)
class Size:
    """Tracklets of the last day, and known ones of earlier days."""

    day: int
    known: int

    @property
    def persons(self) -> int:
        """Those that are known."""
        return -(-self.known // EACH)

    def person_of_day(self) -> Indices:
        """Of each tracklet of the last day: some known persons, then new ones."""
        count = -(-self.day // EACH_A_DAY)
        old = min(round(KNOWN_SHARE * count), self.persons)
        known = np.random.default_rng(3).permutation(self.persons)[:old]
        return np.repeat(np.concatenate((known, self.persons + np.arange(count - old))), EACH_A_DAY)[: self.day]


def measure_size(size: Size) -> None:
    """Print what finding the day's persons takes; it and the making have processes of their own."""
    with tempfile.TemporaryDirectory(prefix="ccvid-bench-") as folder:
        for work in (write_gallery, identified):
            with ProcessPoolExecutor(1, get_context("spawn")) as process:
                process.submit(work, Path(folder), size).result()


def write_gallery(folder: Path, size: Size) -> None:
    """The labelled tracklets are known from an earlier run, as the persons are."""
    store = open_store(StorageFolder(str(folder / "gallery")), EMBEDDER)
    for table in made_tables(size):
        store.parts.write(table)
    labelled = made_table(np.arange(LABELLED) // EACH, np.random.default_rng(0), "labelled", 1)
    ids = tuple(f"known/{number:08}" for number in range(size.known))
    person_N = 1 + np.arange(size.known) // EACH
    persons = Persons(ids, person_N, np.ones_like(person_N), np.ones(size.known), {}, size.persons + 1)
    register = Register(store.folder)
    with register.writing():
        register.write(persons, [], [], Corrections(), learn_evidence(labelled))


def identified(folder: Path, size: Size) -> None:
    """Run identify.py, and compare what it finds with who they are."""
    flags = {"gallery": folder / "gallery", "run.storage": folder, "run.name": "who", "score.report": "false"}
    flags |= {"score.threshold.prior": PRIOR}
    with TreeMeter() as meter:
        identify([str(word) for name, value in flags.items() for word in (f"--{name}", value)])
    found = Register(StorageFolder(str(folder / "gallery"))).persons()
    number_N = found.person_N[: size.day]  # "day" is before "known"
    person_N = size.person_of_day()
    is_known_N, joined_N = person_N < size.persons, number_N <= size.persons
    met = pq.read_table(folder / "who" / IDENTITIES_FILE, columns=["met"])["met"]
    right = (number_N == person_N + 1)[is_known_N].mean()
    looked_at = pc.sum(met).as_py() - size.day
    print(
        f"{size.day:,} tracklets against {size.known:,}, of which {looked_at:,} were looked at: {meter.seconds:.0f} s, "
        f"{meter.cpu_seconds:.0f} CPU s, {meter.peak_bytes / 2**30:.1f} GiB at most; of those of known persons "
        f"{right:.1%} found theirs and {(joined_N[is_known_N].mean() - right):.1%} another, of new ones "
        f"{joined_N[~is_known_N].mean():.1%} one",
        flush=True,
    )


def made_tables(size: Size, rows: int = 65_536) -> Iterator[EmbeddingTable]:
    """Parts of the gallery, of known persons and of the last day."""
    centre_MD = np.random.default_rng(1).standard_normal((size.persons + size.day, DIMENSIONS), np.float32)
    for name, day, person_N in (("known", 1, np.arange(size.known) // EACH), ("day", 20, size.person_of_day())):
        for start in range(0, len(person_N), rows):
            random = np.random.default_rng([2, day, start])
            yield made_table(person_N[start : start + rows], random, name, day, start, centre_MD)


def made_table(
    person_N: Indices,
    random: np.random.Generator,
    name: str,
    day: int,
    start: int = 0,
    centre_MD: Floats | None = None,
) -> EmbeddingTable:
    """Tracklets numbered from ``start``; the coordinates vary less and less, as those of a trained network do."""
    if centre_MD is None:
        centre_MD = random.standard_normal((person_N.max() + 1, DIMENSIONS), np.float32)
    scale_D = (1 / np.sqrt(1 + np.arange(DIMENSIONS) / 16)).astype(np.float32)
    noise_ND = random.standard_normal((len(person_N), DIMENSIONS), np.float32)
    embedding_ND: npt.NDArray[np.float32] = (centre_MD[person_N] + np.float32(NOISE) * noise_ND) * scale_D
    embedding_ND /= np.linalg.norm(embedding_ND, axis=1, keepdims=True)
    at = {"start_time": f"2026-11-{day:02}T10:00:00.000+00:00", "end_time": f"2026-11-{day:02}T10:00:09.000+00:00"}
    rows = EmbeddingRows.of(
        EmbeddingRow(f"{name}/{number:08}", str(person), None, f"c{number % 4}", "gallery", at, 4, "made")
        for number, person in enumerate(person_N.tolist(), start)
    )
    return EmbeddingTable(rows, embedding_ND, EMBEDDER.fingerprint)

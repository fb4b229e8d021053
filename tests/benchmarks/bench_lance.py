"""An embedding store beside a Lance data set of the same tracklets: needs `pip install pylance`.

    python -m tests.benchmarks.bench_lance [--tracklets 200000] [--dimensions 256]

Prints one JSON object a line: ``phase``, ``seconds`` and ``lance_seconds``; for a removal also whether bytes of removed
embeddings are left in a file. Everything is in the page cache.

    write    parts of 50,000 tracklets
    open     labels and embeddings of all tracklets; ours are mapped
    choose   the ids of half of the cameras in the first half hour of each video
    add      1,000 tracklets more
    remove   a person. Lance marks rows as deleted, and erases them by compacting and cleaning up all old versions
"""

from __future__ import annotations

import argparse
import importlib
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ccvid.config import Recipe
from ccvid.retrieval.embedding.store import EmbedderDescription, EmbeddingStore, open_store
from ccvid.retrieval.embedding.table import EmbeddingTable
from data_tools.storage import StorageFolder
from tests.benchmarks.bench_gallery import ADDED, ENTRIES, made_parts

PERSON = "p1"


def seconds(action: Callable[[], object]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def lance_table(part: EmbeddingTable) -> pa.Table:
    """The same columns, with the times as numbers."""
    columns = {name: part.rows.columns[name] for name in ("id", "person", "camera", "split", "shard")}
    for name in ("start_seconds", "end_seconds"):
        columns[name] = part.rows.attribute(name).cast(pa.float64())
    values = pa.array(part.embedding_ND.reshape(-1))
    columns["embedding"] = pa.FixedSizeListArray.from_arrays(values, part.embedding_ND.shape[1])
    return pa.table(columns)


def leftovers(folder: Path, needles: Sequence[bytes]) -> bool:
    """Whether a file holds one of the byte strings."""
    contents = (path.read_bytes() for path in folder.rglob("*") if path.is_file())
    return any(needle in content for content in contents for needle in needles)


class Ours:
    """An embedding store."""

    def __init__(self, folder: Path, dimensions: int) -> None:
        description = EmbedderDescription.of("made", dimensions, Recipe())
        self.store: EmbeddingStore = open_store(StorageFolder(str(folder)), description)

    def write(self, part: EmbeddingTable) -> None:
        self.store.add(part)

    def open(self) -> None:
        with self.store.parts.opened(self.store.parts.names()) as parts:
            assert all(len(part.rows) == len(part.embedding_ND) for part in parts)

    def choose(self) -> None:
        for _, part in self.store.parts.each():
            part.rows.columns["id"].take(pa.array(ENTRIES.chosen(part.rows)))

    def remove(self) -> None:
        assert self.store.remove(persons=[PERSON])


class Lance:
    """A Lance data set."""

    def __init__(self, folder: Path) -> None:
        self._lance: Any = importlib.import_module("lance")
        self._place = str(folder)

    def write(self, part: EmbeddingTable) -> None:
        mode = "append" if Path(self._place).exists() else "create"
        self._lance.write_dataset(lance_table(part), self._place, mode=mode)

    def open(self) -> None:
        self._lance.dataset(self._place).to_table()

    def choose(self) -> None:
        cameras = ", ".join(f"'{name}'" for name in ENTRIES.cameras)
        wanted = f"camera in ({cameras}) and start_seconds <= {ENTRIES.until} and split != 'query'"
        self._lance.dataset(self._place).to_table(columns=["id"], filter=wanted)

    def remove(self) -> None:
        self._lance.dataset(self._place).delete(f"person = '{PERSON}'")
        self._lance.dataset(self._place).optimize.compact_files(materialize_deletions_threshold=0.0)
        self._lance.dataset(self._place).cleanup_old_versions(older_than=timedelta(0), delete_unverified=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tracklets", type=int, default=200_000)
    parser.add_argument("--dimensions", type=int, default=256)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folders = Path(temporary) / "ours", Path(temporary) / "lance"
        ours, lance = Ours(folders[0], arguments.dimensions), Lance(folders[1])
        both: tuple[Ours | Lance, ...] = ours, lance
        model = ours.store.embedder.fingerprint
        spent = np.zeros(2)
        needles: list[bytes] = []
        for part in made_parts(arguments.tracklets, arguments.dimensions, 100, model):
            spent += [seconds(lambda kind=kind, part=part: kind.write(part)) for kind in both]  # type: ignore[misc]
            rows = np.flatnonzero(part.rows.is_in("person", [PERSON]))
            needles += [part.embedding_ND[row].tobytes() for row in rows]
        show("write", *spent)
        for phase in ("open", "choose"):
            for kind in both:
                getattr(kind, phase)()
            show(phase, *(seconds(getattr(kind, phase)) for kind in both))
        new = next(made_parts(ADDED, arguments.dimensions, 0, model, name="new"))
        show("add", *(seconds(lambda kind=kind: kind.write(new)) for kind in both))  # type: ignore[misc]
        rows = np.flatnonzero(new.rows.is_in("person", [PERSON]))
        needles += [new.embedding_ND[row].tobytes() for row in rows]
        assert all(leftovers(folder, needles) for folder in folders)
        spent = np.array([seconds(kind.remove) for kind in both])
        show("remove", *spent, left_over=[leftovers(folder, needles) for folder in folders])


def show(phase: str, own: float, lance: float, **more: object) -> None:
    print(json.dumps({"phase": phase, "seconds": round(own, 4), "lance_seconds": round(lance, 4), **more}), flush=True)


if __name__ == "__main__":
    main()

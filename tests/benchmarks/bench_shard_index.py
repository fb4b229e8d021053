"""Opening shards by their index, beside parsing each row into an object as before there was one.

    python -m tests.benchmarks.bench_shard_index [--tracklets 200000] [--of-a-shard 200]

Makes shards with frames of a few bytes in a temporary folder and prints one JSON object a line: ``phase``, ``seconds``,
``microseconds`` a tracklet and ``peak_bytes``, the memory above that of a process with all imports. Every phase is a
process of its own:

    objects  every row of every shard, checked and held as an object
    open     ShardFolder
    split    what training starts with: the tracklets of split train with a person, held-out persons, class numbers
    use      the first use of the frames of 1,000 random tracklets, one by one

All files are read once before, so that they come from memory. Needs Linux (peaks are the kernel's) and no Ray.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ccvid.config import TrainOptions
from ccvid.training.split import split_training
from data_tools.files import sha256_of
from data_tools.manifest import MANIFEST_NAME, Manifest, ShardEntry, read_manifest, write_model
from data_tools.shard_file import SHARD_SCHEMA, ShardFile
from data_tools.shard_index import ShardRow, ShardRows, pack_index, write_index
from data_tools.shards import ShardFolder
from data_tools.storage import StorageFolder
from data_tools.tracklet import SPLITS
from tests.benchmarks.bench_gallery import Measured

PHASES = ("objects", "open", "split", "use")
CAMERAS, OF_A_PERSON, OUTFITS, FRAMES = 40, 20, 3, 50
USED = 1000


def made_rows(start: int, end: int, persons: int) -> list[ShardRow]:
    return [
        ShardRow(
            id=f"video-{number % 997}/{number:010d}",
            person=f"p{number * 7919 % persons}",
            clothes=f"o{number % OUTFITS}",
            camera=f"c{number % CAMERAS}",
            split=SPLITS[number % len(SPLITS)],
            attributes={
                "video": f"video-{number % 997}",
                "start_seconds": f"{number % 3600}.0",
                "end_seconds": f"{number % 3600 + 5}.0",
            },
            frame_count=FRAMES,
            shard=0,
            batch=number - start,
        )
        for number in range(start, end)
    ]


def write_rows(rows: list[ShardRow], path: Path) -> ShardEntry:
    """A shard whose frames have four bytes each."""
    names = SHARD_SCHEMA.names[:5]
    columns = {name: [getattr(row, name) for row in rows] for name in names}
    columns |= {"attributes": [list(row.attributes.items()) for row in rows]}
    columns |= {"frame_index": [range(FRAMES)] * len(rows), "frames": [[b"jpeg"] * FRAMES] * len(rows)}
    table = pa.table({name: pa.array(columns[name], SHARD_SCHEMA.field(name).type) for name in SHARD_SCHEMA.names})
    with pa.ipc.new_file(path, SHARD_SCHEMA) as writer:
        for batch in table.cast(SHARD_SCHEMA).to_batches(max_chunksize=1):
            writer.write_batch(batch)
    frames = FRAMES * len(rows)
    size, sha256 = path.stat().st_size, sha256_of(path)
    return ShardEntry(file=path.name, rows=len(rows), frames=frames, size_bytes=size, sha256=sha256)


def make_shards(folder: Path, tracklets: int, of_a_shard: int) -> None:
    persons = max(4, tracklets // OF_A_PERSON)
    entries: list[ShardEntry] = []
    parts: list[bytes] = []
    outfits: set[tuple[str, str]] = set()
    for number, start in enumerate(range(0, tracklets, of_a_shard)):
        rows = made_rows(start, min(start + of_a_shard, tracklets), persons)
        entries.append(write_rows(rows, folder / f"shard-{number:05d}.arrow"))
        parts.append(pack_index(ShardRows.of(rows)))
        outfits |= {(str(row.person), str(row.clothes)) for row in rows}
    manifest = Manifest(
        dataset="made",
        fingerprint="",
        storage="source",
        image_size=None,
        split_tracklets={"train": 0, "query": 0, "gallery": 0},
        persons=tuple(sorted({person for person, _ in outfits})),
        clothes=tuple(sorted(outfits)),
        cameras=tuple(sorted(f"c{number}" for number in range(CAMERAS))),
        decoders={},
        shards=tuple(entries),
        index=write_index(parts, entries, StorageFolder(str(folder))),
        quarantine=(),
    )
    write_model(folder / MANIFEST_NAME, manifest)


def parse_rows(folder: Path) -> list[ShardRow]:
    shards = read_manifest(StorageFolder(str(folder))).shards
    return [row for number, entry in enumerate(shards) for row in ShardFile(folder / entry.file, entry, number).rows()]


def first_use(store: ShardFolder) -> object:
    rows = np.random.default_rng(0).choice(len(store.rows), USED, replace=False).tolist()
    return [store.encoded_frames(row, [0]) for row in rows]


def run_phase(phase: str, folder: Path, tracklets: int) -> dict[str, object]:
    for path in folder.iterdir():
        path.read_bytes()
    phases: dict[str, Callable[[Any], object]] = {
        "objects": lambda _: parse_rows(folder),
        "open": lambda _: ShardFolder(folder),
        "split": lambda store: split_training(store, TrainOptions(), piece=0, needs_clothes=True),
        "use": first_use,
    }
    store = ShardFolder(folder) if phase in ("split", "use") else None
    with Measured() as found:
        kept = phases[phase](store)
    del kept
    return {
        "phase": phase,
        "seconds": round(found.seconds, 3),
        "microseconds": round(found.seconds * 1e6 / (USED if phase == "use" else tracklets), 2),
        "peak_bytes": found.peak_bytes,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tracklets", type=int, default=200_000)
    parser.add_argument("--of-a-shard", type=int, default=200, help="tracklets of a shard (200 x 50 frames: 128 MiB)")
    parser.add_argument("--phase", choices=PHASES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.phase:
        print(json.dumps(run_phase(arguments.phase, arguments.folder, arguments.tracklets)), flush=True)
        return
    with tempfile.TemporaryDirectory() as folder:
        make_shards(Path(folder), arguments.tracklets, arguments.of_a_shard)
        for phase in PHASES:
            command = [sys.executable, "-m", "tests.benchmarks.bench_shard_index", *sys.argv[1:]]
            subprocess.run([*command, "--phase", phase, "--folder", folder], check=True)


if __name__ == "__main__":
    main()

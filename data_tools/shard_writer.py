"""Writing Arrow shards: write each planned shard (on any machine, in any order), then finish with the manifest.

After any crash, the same plan resumes from the finished shards and ends with the same bytes: a shard is written
atomically, then its record, which holds its part of the index; when all are written, the index, and the manifest last.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
from pydantic import ConfigDict

from data_tools.columnar_rows import LABELS
from data_tools.crops import TrackletFrames, read_tracklets
from data_tools.datasets.problems import Dataset
from data_tools.documents import parse_model
from data_tools.errors import InputError, UnreadableSourceError
from data_tools.files import sha256_of
from data_tools.manifest import (
    MANIFEST_NAME,
    Manifest,
    QuarantinedTracklet,
    ShardEntry,
    read_manifest,
    to_json,
)
from data_tools.options import Options
from data_tools.shard_file import SHARD_SCHEMA
from data_tools.shard_index import ShardRow, ShardRows, pack_index, parse_index, write_index
from data_tools.shard_plan import ShardOptions, ShardPlan, data_fingerprint
from data_tools.storage import StorageFolder
from data_tools.tracklet import SPLITS, Split, Tracklet
from data_tools.video import decoder_versions

Label = TypeVar("Label", str, tuple[str, str])

RECORD_NAME = re.compile(r"\.(shard-\d{5}|frames-[0-9a-f]+)\.json")


class ShardRecord(Options):
    """Facts about a finished shard; kept beside it until the manifest is written."""

    fingerprint: str
    entry: ShardEntry
    splits: dict[Split, int]
    persons: tuple[str, ...]
    clothes: tuple[tuple[str, str], ...]
    cameras: tuple[str, ...]
    quarantine: tuple[QuarantinedTracklet, ...]
    index: bytes
    """The shard's part of the index, as Base64."""

    model_config = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")


def find_record(plan: ShardPlan, folder: StorageFolder) -> ShardRecord | None:
    """The record of this shard, if an earlier run finished it from the same sources and options."""
    try:
        record = parse_model(ShardRecord, folder.read(_record_name(plan)), folder / _record_name(plan))
        parse_index(pa.py_buffer(record.index), str(folder / _record_name(plan)), [record.entry])
    except (FileNotFoundError, InputError):
        return None
    finished = folder.size(plan.file) == record.entry.size_bytes
    return record if finished and record.fingerprint == plan.fingerprint else None


def write_shard(plan: ShardPlan, folder: StorageFolder, options: ShardOptions) -> ShardRecord:
    """Write one shard and its record, unless an earlier run did.

    Tracklets whose frames cannot be read are left out and listed in the record.

    Raises:
        OSError: the folder cannot be written (no space, no permission); no partial file remains.
    """
    if record := find_record(plan, folder):
        return record
    written: list[ShardRow] = []
    quarantine: list[QuarantinedTracklet] = []
    with folder.new_file(plan.file) as path:
        with path.open("wb") as file, pa.ipc.new_file(file, SHARD_SCHEMA) as writer:
            for tracklet, content in read_tracklets(plan.tracklets, options):
                if isinstance(content, UnreadableSourceError):
                    reason = str(content)
                    quarantine.append(QuarantinedTracklet(tracklet=tracklet.id, origin=tracklet.origin, reason=reason))
                    continue
                writer.write_batch(_to_row(tracklet, content))
                labels = {name: getattr(tracklet, name) for name in LABELS}
                written.append(ShardRow(**labels, frame_count=len(content.sizes), shard=0, batch=len(written)))
        size_bytes, sha256 = path.stat().st_size, sha256_of(path)
    record = ShardRecord(
        fingerprint=plan.fingerprint,
        entry=ShardEntry(
            file=plan.file,
            rows=len(written),
            frames=sum(row.frame_count for row in written),
            size_bytes=size_bytes,
            sha256=sha256,
        ),
        splits=dict(sorted(Counter(row.split for row in written).items())),
        persons=_sorted_set(row.person for row in written),
        clothes=_sorted_set((row.person, row.clothes) if row.person and row.clothes else None for row in written),
        cameras=_sorted_set(row.camera for row in written),
        quarantine=tuple(quarantine),
        index=pack_index(ShardRows.of(written)),
    )
    folder.write(_record_name(plan), to_json(record))
    return record


def finish_shards(
    dataset: Dataset,
    plans: Sequence[ShardPlan],
    records: Sequence[ShardRecord],
    folder: StorageFolder,
    options: ShardOptions,
) -> Manifest:
    """Write the index, then the manifest, and remove the records.

    Raises:
        InputError: no tracklet could be read, or more than the allowed share could not. The finished shards are kept,
            so that a run with repaired sources or another limit resumes from them.
    """
    listed = [
        QuarantinedTracklet(
            tracklet=problem.tracklet, origin=f"{problem.file}:{problem.line or 0}", reason=problem.message
        )
        for problem in dataset.problems
        if problem.severity == "quarantine" and problem.tracklet
    ]
    quarantine = (*listed, *(entry for record in records for entry in record.quarantine))
    total = sum(record.entry.rows for record in records) + len(quarantine)
    if len(quarantine) >= total or len(quarantine) > max(1, options.max_quarantine_share * total):
        reasons = "\n".join(f"  {entry.tracklet} ({entry.origin}): {entry.reason}" for entry in quarantine[:20])
        raise InputError(
            f"{len(quarantine)} of {total} tracklets could not be read; max_quarantine_share allows a share of "
            f"{options.max_quarantine_share}:\n{reasons}"
        )
    shards = tuple(record.entry for record in records)
    splits = sum((Counter(record.splits) for record in records), Counter[Split]())
    manifest = Manifest(
        dataset=dataset.name,
        fingerprint=data_fingerprint(plans),
        storage=options.format,
        image_size=options.size,
        split_tracklets={split: splits[split] for split in SPLITS},
        persons=_sorted_set(person for record in records for person in record.persons),
        clothes=_sorted_set(pair for record in records for pair in record.clothes),
        cameras=_sorted_set(camera for record in records for camera in record.cameras),
        decoders=decoder_versions(),
        shards=shards,
        index=write_index([record.index for record in records], shards, folder),
        quarantine=quarantine,
    )
    folder.write(MANIFEST_NAME, to_json(manifest))
    remove_leftovers(folder)
    return manifest


def prepare_folder(plans: Sequence[ShardPlan], folder: StorageFolder) -> Manifest | None:
    """Prepare the folder for writing; returns the manifest if it already holds these plans, finished.

    Raises:
        InputError: the folder holds another finished data set.
        OSError: the folder cannot be created or written.
    """
    folder.check_writable()
    remove_leftovers(folder, records=False)
    if not folder.exists(MANIFEST_NAME):
        return None
    manifest = read_manifest(folder)
    if manifest.fingerprint != data_fingerprint(plans):
        raise InputError(
            f"{folder}: already holds data set {manifest.dataset!r}, made from other sources or settings; "
            "choose another folder or remove this one"
        )
    remove_leftovers(folder)
    return manifest


def remove_leftovers(folder: StorageFolder, *, records: bool = True) -> None:
    """Remove partial files of killed runs and, with ``records``, the records of finished shards and frame tables."""
    for name in folder.names():
        if (name.startswith(".") and name.endswith(".tmp")) or (records and RECORD_NAME.fullmatch(name)):
            with suppress(FileNotFoundError):
                folder.delete(name)


def _record_name(plan: ShardPlan) -> str:
    return f".{Path(plan.file).stem}.json"


def _sorted_set(values: Iterable[Label | None]) -> tuple[Label, ...]:
    return tuple(sorted({value for value in values if value is not None}))


def _to_row(tracklet: Tracklet, content: TrackletFrames) -> pa.RecordBatch:
    """One record batch of one row, without copying the frames' bytes."""
    encoded = pa.BinaryArray.from_buffers(
        pa.binary(), len(content.sizes), [None, pa.py_buffer(content.offsets), pa.py_buffer(content.data())]
    )
    columns = [
        *([value] for value in (tracklet.id, tracklet.person, tracklet.clothes, tracklet.camera, tracklet.split)),
        [list(tracklet.attributes.items())],
        [list(tracklet.frame_index)],
    ]
    arrays = [pa.array(column, SHARD_SCHEMA.field(number).type) for number, column in enumerate(columns)]
    frames = pa.ListArray.from_arrays(pa.array([0, len(encoded)], pa.int32()), encoded)
    return pa.RecordBatch.from_arrays([*arrays, frames.cast(SHARD_SCHEMA.field("frames").type)], schema=SHARD_SCHEMA)

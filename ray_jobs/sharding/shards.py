"""Making and verifying shards as Ray tasks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ccvid.config import DataOptions
from data_tools.datasets.problems import Dataset
from data_tools.errors import InputError
from data_tools.manifest import FORMAT_VERSION, MANIFEST_NAME, Manifest, ShardEntry, read_manifest, to_json
from data_tools.progress import message
from data_tools.shard_index import write_index
from data_tools.shard_plan import ShardOptions, plan_shards
from data_tools.shard_writer import ShardRecord, finish_shards, prepare_folder, write_shard
from data_tools.shards import index_parts, index_shard, verify_shard
from data_tools.storage import StorageFolder
from data_tools.walkers import WalkerVideo, claim_folder, plan_walkers, render_video, video_path, write_annotations
from ray_jobs.cluster.tasks import run_tasks
from ray_jobs.sharding.sources import read_dataset, shard_folder, walker_folder

VIDEOS_PER_TASK = 8


def ensure_shards(data: DataOptions) -> str:
    """The place of the recipe's shards, which are made first if there is no finished data set.

    Raises:
        InputError: as :func:`make_shards`, or the place holds another data set.
        OSError: the storage does not answer or denies access.
    """
    folder = shard_folder(data)
    if not folder.exists(MANIFEST_NAME):
        make_shards(data)
        return str(folder)
    manifest = read_manifest(folder)
    if manifest.dataset != data.kind:
        raise InputError(f"{folder}: contains data set {manifest.dataset!r}, but data.kind is {data.kind!r}")
    if manifest.storage != data.frames.format:
        raise InputError(
            f"{folder}: holds frames stored as {manifest.storage!r}, but data.frames.format is "
            f"{data.frames.format!r}; choose another --data.shards, or use these with "
            f"--data.frames.format {manifest.storage}"
        )
    if data.kind == "synthetic" and walker_folder(data).exists():
        claim_folder(data.synthetic, walker_folder(data))
    return str(folder)


def compare_checksums(data: DataOptions) -> None:
    """Compare every shard with the manifest's SHA-256 before a run, if the recipe asks for it.

    Remote shards are skipped, because they are verified when a node's cache fetches them.

    Raises:
        InputError: the first mismatch.
    """
    folder = shard_folder(data)
    if data.verify_checksums and folder.local is not None:
        verify(folder, frames=False)


def make_shards(data: DataOptions) -> Manifest:
    """Read the sources and write shards and manifest; resumes an earlier run.

    Raises:
        InputError: the sources cannot be used, too many tracklets cannot be read, or the folder holds other data.
        OSError: the folder cannot be written.
    """
    if data.kind == "synthetic":
        render_set(data)
    return write_dataset(read_dataset(data), shard_folder(data), data.frames)


def write_dataset(dataset: Dataset, folder: StorageFolder, options: ShardOptions) -> Manifest:
    """Write the shards and the manifest of a data set; resumes an earlier run.

    Raises:
        InputError: too many tracklets cannot be read, or the folder holds other data.
        OSError: the folder cannot be written.
    """
    plans = plan_shards(dataset.tracklets, options)
    if finished := prepare_folder(plans, folder):
        message(f"{folder}: already finished")
        return finished
    message(f"writing {len(dataset.tracklets)} tracklets to {len(plans)} shards under {folder}")
    records: dict[int, ShardRecord] = dict(
        run_tasks(
            write_shard,
            plans,
            common=(folder, options),
            what="sharding",
            unit="shards",
            place=folder,
            size=lambda record: record.entry.frames,
        )
    )
    manifest = finish_shards(dataset, plans, [records[number] for number in range(len(plans))], folder, options)
    message(summary(manifest, folder))
    return manifest


def render_set(data: DataOptions) -> None:
    """Render the synthetic walkers; finished videos are kept.

    Raises:
        InputError: other nodes rendered videos into their own local folders.
    """
    folder, options = walker_folder(data), data.synthetic
    claim_folder(options, folder)
    jobs = plan_walkers(options)
    groups = [jobs[start : start + VIDEOS_PER_TASK] for start in range(0, len(jobs), VIDEOS_PER_TASK)]
    what, unit = "rendering walkers", "groups of videos"
    for _ in run_tasks(_render_videos, groups, common=(folder,), what=what, unit=unit, place=folder, size=int):
        pass
    missing = [job for job in jobs if not video_path(job, folder).exists()]
    if missing:
        raise InputError(
            f"{folder}: {len(missing)} of {len(jobs)} walker videos are missing, because other nodes rendered them "
            "into their local folders; put this folder on a network file system, or make the shards on one machine "
            "with python ray_jobs/shard.py and the same --data flags"
        )
    write_annotations(jobs, folder)


def verify(folder: StorageFolder, *, frames: bool) -> Manifest:
    """Check the index, every shard's checksum and, with ``frames``, every row and frame.

    Raises:
        InputError: the first damage found.
    """
    manifest = read_manifest(folder)
    jobs = list(zip(manifest.shards, index_parts(folder, manifest), strict=True))
    common: tuple[Any, ...] = (folder, manifest.image_size, frames)
    for _ in run_tasks(_verify, jobs, common=common, what="verifying", unit="shards", size=int):
        pass
    return manifest


def make_index(folder: StorageFolder) -> Manifest:
    """Write the index of finished shards again, from their rows: where it is damaged, or an earlier version made none.

    Raises:
        InputError: a shard is damaged.
        OSError: the folder cannot be written.
    """
    manifest = read_manifest(folder, with_index=False)
    parts: dict[int, tuple[bytes, int]] = dict(
        run_tasks(_index, manifest.shards, common=(folder,), what="indexing", unit="shards", size=lambda done: done[1])
    )
    entry = write_index([parts[number][0] for number in range(len(parts))], manifest.shards, folder)
    manifest = manifest.model_copy(update={"format_version": FORMAT_VERSION, "index": entry})
    folder.write(MANIFEST_NAME, to_json(manifest))
    return manifest


def summary(manifest: Manifest, folder: StorageFolder) -> str:
    """The contents of a finished data set, in a few lines."""
    frames, size = (sum(getattr(shard, name) for shard in manifest.shards) for name in ("frames", "size_bytes"))
    splits = ", ".join(f"{split} {count}" for split, count in manifest.split_tracklets.items())
    lines = [
        f"{folder}: {manifest.dataset}, {len(manifest.shards)} shards, {frames} frames, {size / 2**20:.1f} MiB",
        f"  tracklets: {splits}; persons {len(manifest.persons)}, outfits {len(manifest.clothes)}, "
        f"cameras {len(manifest.cameras)}",
    ]
    if manifest.quarantine:
        lines.append(f"  {len(manifest.quarantine)} tracklets in quarantine:")
        lines += [f"    {entry.tracklet} ({entry.origin}): {entry.reason}" for entry in manifest.quarantine[:20]]
    return "\n".join(lines)


def _render_videos(jobs: Sequence[WalkerVideo], folder: Path) -> int:
    for job in jobs:
        render_video(job, folder)
    return sum(job.options.frames for job in jobs)


def _index(entry: ShardEntry, folder: StorageFolder) -> tuple[bytes, int]:
    return index_shard(folder, entry), entry.frames


def _verify(
    job: tuple[ShardEntry, bytes | None], folder: StorageFolder, image_size: tuple[int, int] | None, frames: bool
) -> int:
    entry, index = job
    return verify_shard(folder, entry, image_size, frames=frames, index=index)

"""Making and verifying shards as Ray tasks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ccvid.config import DataOptions
from data_tools.errors import InputError
from data_tools.manifest import MANIFEST_NAME, Manifest, ShardEntry, read_manifest
from data_tools.shard_plan import plan_shards
from data_tools.shard_writer import ShardRecord, finish_shards, prepare_folder, write_shard
from data_tools.shards import ShardFolder, verify_frames, verify_shard
from data_tools.walkers import WalkerVideo, claim_folder, plan_walkers, render_video, write_annotations
from ray_jobs.cluster import run_tasks
from ray_jobs.sources import read_dataset, shard_folder, walker_folder

VIDEOS_PER_TASK = 8


def ensure_shards(data: DataOptions) -> Path:
    """The folder of the recipe's shards, made first where it holds no finished data set."""
    folder = shard_folder(data)
    if not (folder / MANIFEST_NAME).exists():
        make_shards(data)
        return folder
    manifest = read_manifest(folder)
    if manifest.dataset != data.kind:
        raise InputError(f"{folder}: holds data set {manifest.dataset!r}, but data.kind is {data.kind!r}")
    if manifest.storage != data.storage.storage:
        raise InputError(
            f"{folder}: holds frames stored as {manifest.storage!r}, but data.storage.storage is "
            f"{data.storage.storage!r}; name another --data.shards, or take them with "
            f"--data.storage.storage {manifest.storage}"
        )
    if data.kind == "synthetic" and walker_folder(data).exists():
        claim_folder(data.synthetic, walker_folder(data))
    return folder


def make_shards(data: DataOptions) -> Manifest:
    """Read the sources and write shards and manifest; goes on from what an earlier run finished.

    Raises:
        InputError: the sources cannot be used, too many tracklets cannot be read, or the folder holds other data.
        OSError: the folder cannot be written.
    """
    if data.kind == "synthetic":
        render_set(data)
    dataset = read_dataset(data)
    folder, options = shard_folder(data), data.storage
    plans = plan_shards(dataset.tracklets, options)
    if finished := prepare_folder(plans, folder):
        print(f"{folder}: finished before", flush=True)
        return finished
    print(f"{len(dataset.tracklets)} tracklets into {len(plans)} shards under {folder}", flush=True)
    records: dict[int, ShardRecord] = dict(
        run_tasks(write_shard, plans, common=(folder, options), what="shards", size=lambda record: record.entry.frames)
    )
    manifest = finish_shards(dataset, plans, [records[number] for number in range(len(plans))], folder, options)
    print(summary(manifest, folder), flush=True)
    return manifest


def render_set(data: DataOptions) -> None:
    """Render the synthetic walkers beside the shards; finished videos are kept."""
    folder, options = walker_folder(data), data.synthetic
    claim_folder(options, folder)
    jobs = plan_walkers(options)
    groups = [jobs[start : start + VIDEOS_PER_TASK] for start in range(0, len(jobs), VIDEOS_PER_TASK)]
    for _ in run_tasks(_render_videos, groups, common=(folder,), what="rendering walkers, groups of videos", size=int):
        pass
    write_annotations(jobs, folder)


def verify(folder: Path, *, frames: bool) -> Manifest:
    """Check every shard's checksum and, with ``frames``, decode every frame.

    Raises:
        InputError: the first fault found.
    """
    manifest = read_manifest(folder)
    function = _verify_frames if frames else _verify_checksum
    for _ in run_tasks(function, manifest.shards, common=(folder,), what="verifying shards", size=lambda count: count):
        pass
    ShardFolder(folder)
    return manifest


def summary(manifest: Manifest, folder: Path) -> str:
    """What a finished data set holds, in a few lines."""
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


def _verify_checksum(entry: ShardEntry, folder: Path) -> int:
    verify_shard(folder, entry)
    return entry.frames


def _verify_frames(entry: ShardEntry, folder: Path) -> int:
    verify_shard(folder, entry)
    return verify_frames(folder, entry)

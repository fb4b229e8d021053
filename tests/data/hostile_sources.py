"""Sources of data sets for the campaign of hostile inputs: videos, pictures, annotations, manifests, shards."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from contextlib import chdir
from functools import cache, partial
from hashlib import sha256
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from ccvid.config import Recipe
from ccvid.training.split import split_for
from data_tools.crops import CropOptions, read_tracklets
from data_tools.datasets.ccvid import read_ccvid
from data_tools.datasets.checks import check_dataset
from data_tools.datasets.clip_folder import ClipFolderOptions, read_clip_folder
from data_tools.datasets.deepchange import read_deepchange
from data_tools.datasets.footage import read_footage
from data_tools.datasets.footage_options import FootageOptions
from data_tools.datasets.frame_tables import find_or_make_table, make_guarded_table
from data_tools.datasets.mevid import MevidOptions, read_mevid
from data_tools.datasets.problems import Dataset
from data_tools.errors import UnreadableSourceError
from data_tools.manifest import MANIFEST_NAME
from data_tools.shard_cache import CacheOptions, open_shards
from data_tools.shard_plan import ShardOptions, plan_shards
from data_tools.shard_writer import write_shard
from data_tools.shards import ShardFolder, index_parts, verify_shard
from data_tools.storage import StorageFolder
from data_tools.stored_frames import decode_clip_
from data_tools.tracklet import SPLITS, ImageFrames, Tracklet, VideoFrames
from data_tools.video import FrameTable
from tests.data.findings import assert_contract_holds
from tests.data.hostile_samples import REMOTE, SECRET_SIZE, BrokenPromiseError, Kind, Sample
from tests.data.image_formats import make_deepchange
from tests.data.made_footage import make_gate, mot
from tests.data.made_videos import make_video
from tests.data.numbered_videos import Video, make
from tests.data.picture_sequences import INFO, make_sequence
from tests.data.released_formats import make_ccvid, make_mevid, write_crop
from tests.data.track_documents import coco, cvat, cvat_image, cvat_track, youtube_vis
from tests.made_shards import make_shards

HANG_SECONDS = 20.0
"""Time limit of decoding; the product's own limit is longer."""
CROPS = CropOptions(height=32, width=16, hang_seconds=HANG_SECONDS)
VIDEOS = (
    *(("h264", "mp4"), ("h264", "mkv"), ("h264", "ts"), ("h264", "flv"), ("h264", "h264"), ("hevc", "mp4")),
    *(("mpeg4", "mp4"), ("mpeg4", "avi"), ("mpeg2", "ts"), ("mjpeg", "mov"), ("mjpeg", "avi"), ("vp8", "webm")),
    ("vp9", "mkv"),
)

# Videos and pictures -------------------------------------------------------------------------------------------------


def _make_video(codec: str, suffix: str, folder: Path) -> None:
    make(Video(codec, suffix, group=5, width=64, height=48, frames=12), folder / f"gate.{suffix}")


def read_video(path: Path) -> None:
    """Number its frames, and cut out some and then all of them, as sharding does."""
    table = make_guarded_table(path, HANG_SECONDS)
    if isinstance(table, UnreadableSourceError):
        raise table
    if (table.width, table.height) == SECRET_SIZE:
        raise BrokenPromiseError("another file's pictures were read")
    if not np.isfinite(table.seconds()).all() or len(table.seconds()) != table.count:
        raise BrokenPromiseError("times that are no times")
    frames = tuple(sorted({0, table.count // 2, table.count - 1}))
    boxes = ((0.0, 0.0, float(table.width), float(table.height)),) * len(frames)
    _read_tracklets([VideoFrames(path, frames, boxes, table), VideoFrames(path)], CROPS)


def _read_tracklets(sources: Sequence[VideoFrames | ImageFrames], options: CropOptions) -> None:
    """After all have been tried, the first reason why one cannot be read is raised."""
    tracklets = [
        Tracklet(str(number), "p", None, "c", "train", source, (), {}, "x:1") for number, source in enumerate(sources)
    ]
    contents = [content for _, content in read_tracklets(tracklets, options)]
    for content in contents:
        if isinstance(content, UnreadableSourceError):
            raise content
        content.data()


def _read_below(name: str, folder: Path) -> None:
    read_video(folder / name)


def _make_pictures(suffix: str, folder: Path) -> None:
    make_sequence(folder / "gate", range(1, 5), INFO, suffix)


def _make_crops(folder: Path) -> None:
    for number in range(3):
        write_crop(folder / f"{number}.jpg")
    noise = np.random.default_rng(0).integers(0, 255, (48, 24, 3), np.uint8)
    Image.fromarray(noise).save(folder / "3.png")
    Image.fromarray(noise).convert("P").save(folder / "4.png")
    Image.fromarray(noise).save(folder / "5.jpg", progressive=True, exif=_exif())


def _exif() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    return exif


def _read_crops(folder: Path) -> None:
    source = ImageFrames(folder, tuple(sorted(path.name for path in folder.iterdir())))
    for storage in ("jpeg", "source"):
        _read_tracklets([source], CROPS.model_copy(update={"format": storage}))


# Annotations ---------------------------------------------------------------------------------------------------------

NAMES = "frame,id,x,y,w,h,conf"
TRACKS = mot(1, range(1, 13)) + mot(2, range(40, 60), "-3.5,2.5,30,80", ",0.5")
ROWS = [line.split(",")[:7] for line in TRACKS.splitlines()]
LABELS = (
    "video,track,person,clothes,camera,split,weather,start_time\n"
    "gate,1,anna,coat,c1,query,rain,2026-11-20T08:00:00\ngate,2,bert,,,,,\n"
)
CLIP_LABELS = "file,person,clothes,camera,split\nanna.mp4,anna,coat,c1,query\nn/bert.mp4,bert,,,\n"
RECORDS = [dict(zip(NAMES.split(","), map(float, row), strict=True)) for row in ROWS]
TRACK_FILES = {
    "txt": TRACKS,
    "csv": "\n".join([NAMES, *map(",".join, ROWS)]),
    "tsv": "\n".join(["\t".join(row) for row in (NAMES.split(","), *ROWS)]),
    "xml": cvat(cvat_track(0, range(5, 30)), cvat_track(1, range(5, 30)), cvat_track(7, range(9), "car")),
    "images.xml": cvat(*(cvat_image(frame, 3, 4) for frame in range(20))),
    "json": coco(["gate", "door"]),
    "tubes.json": youtube_vis(),
    "records.json": json.dumps(RECORDS),
    "truth.txt": mot(1, range(1, 11), rest=",1,1,1") + mot(2, range(1, 11), rest=",1,7,0.5"),
}


def _make_tracks(name: str, folder: Path) -> None:
    make_gate(folder)
    path = folder / f"gate.{name.rpartition('.')[2]}"
    if name == "parquet":
        columns = {column: [row[column] for row in RECORDS] for column in RECORDS[0]}
        pq.write_table(pa.table(columns), path)
    else:
        path.write_text(TRACK_FILES[name])


def _known_tables(videos: Sequence[Path]) -> list[FrameTable | UnreadableSourceError]:
    """The videos next to annotations stay intact, so their frames are counted once per process."""
    return [make_guarded_table(video) if video.is_dir() else _gate_table(video.read_bytes()) for video in videos]


@cache
def _gate_table(content: bytes) -> FrameTable:
    from tempfile import NamedTemporaryFile

    with NamedTemporaryFile(suffix=".mp4") as file:
        file.write(content)
        file.flush()
        table = make_guarded_table(Path(file.name))
    assert isinstance(table, FrameTable)
    return table


def _read_annotated(read: Callable[[Path], Dataset], folder: Path) -> None:
    dataset = check_dataset(read(folder))
    assert_contract_holds(dataset, folder)
    dataset.raise_on_errors()


def _footage(folder: Path, **options: object) -> Dataset:
    return read_footage(FootageOptions.model_validate({"videos": folder, **options}), _known_tables)


def _make_labelled(folder: Path) -> None:
    _make_tracks("txt", folder)
    (folder / "labels.csv").write_text(LABELS)
    (folder / "times.csv").write_text("video,start_time\ngate,2026-11-20T08:00:00+01:00\ndoor,2026-11-20 09:00\n")


def _read_labelled(folder: Path) -> Dataset:
    return _footage(folder, labels=folder / "labels.csv", start_times=str(folder / "times.csv"))


def _make_clips(folder: Path) -> None:
    for name in ("anna.mp4", "n/bert.mp4"):
        make_video(folder / name, frame_count=2)
    (folder / "labels.csv").write_text(CLIP_LABELS)


def _read_clips(folder: Path) -> Dataset:
    return read_clip_folder(ClipFolderOptions(folder=folder, labels=folder / "labels.csv"))


def _annotated(make: Callable[[Path], object], targets: Sequence[str], read: Callable[[Path], Dataset]) -> Sample:
    return Sample(make, tuple(targets), partial(_read_annotated, read))


# Shards --------------------------------------------------------------------------------------------------------------


def _stored_tracklets(folder: Path) -> list[Tracklet]:
    folder.mkdir()
    names = tuple(f"{number}.jpg" for number in range(3))
    for name in names:
        write_crop(folder / name)
    people = [("anna", SPLITS[0]), ("bert", SPLITS[0]), ("cid", SPLITS[1]), (None, SPLITS[2])]
    attributes, source = {"start_seconds": "0.120", "video": "gate"}, ImageFrames(folder, names)
    return [
        Tracklet(f"gate/{n}", person, "coat", f"c{n}", split, source, (3, 4, 5), attributes, "gate.txt:1")
        for n, (person, split) in enumerate(people)
    ]


def _make_shards(storage: str, folder: Path) -> None:
    options = ShardOptions.model_validate({"format": storage, "height": 32, "width": 16, "shard_mebibytes": 0.004})
    with chdir(folder):  # fingerprints depend on the sources' paths
        make_shards(Dataset("crops", tuple(_stored_tracklets(Path("crops")))), "shards", options)
    shutil.rmtree(folder / "crops")


def _read_stored(store: ShardFolder) -> None:
    """Read by a loader, by a verification and by a search of shards."""
    for row in range(min(len(store.rows), 20)):
        positions = np.unique([0, store.rows[row].frame_count // 2, store.rows[row].frame_count - 1])
        clip = torch.empty((len(positions), 32, 16, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
        decode_clip_(clip, store, row, positions)
        store.frame_index(row).sum()
        store.fingerprint(row)
    place, manifest = StorageFolder(str(store.folder)), store.manifest
    for entry, index in zip(manifest.shards, index_parts(place, manifest), strict=True):
        verify_shard(place, entry, manifest.image_size, frames=True, index=index)
    split_for(Recipe(), store)


def _read_shards(folder: Path) -> None:
    _read_stored(ShardFolder(folder / "shards"))


MOST_REMOTE_BYTES = 2**26


def _read_remote_shards(folder: Path) -> None:
    """From storage, through a node's cache."""
    if any(path.stat().st_size > MOST_REMOTE_BYTES for path in (folder / "shards").iterdir() if path.is_file()):
        return _read_shards(folder)  # the memory that stands in for the storage does not hold it
    memory = fsspec.filesystem("memory")
    memory.put(f"{folder / 'shards'}/", "/hostile/", recursive=True)
    try:
        _read_stored(open_shards(REMOTE, CacheOptions(folder=folder / "cache", gibibytes=0.1)))
    finally:
        memory.rm("/hostile", recursive=True)


def _seal(folder: Path) -> None:
    """Update the manifest to fit the shards and the index."""
    path = folder / "shards" / MANIFEST_NAME
    manifest = json.loads(path.read_text())
    for entry in (*manifest["shards"], manifest["index"]):
        content = (folder / "shards" / entry["file"]).read_bytes()
        entry |= {"size_bytes": len(content), "sha256": sha256(content).hexdigest()}
    path.write_text(json.dumps(manifest))


def _make_kept_table(folder: Path) -> None:
    make_video(folder / "gate.mp4", frame_count=4)
    find_or_make_table(folder / "gate.mp4", StorageFolder(str(folder / "kept")))
    next((folder / "kept").iterdir()).rename(folder / "table.json")


def _read_kept_table(folder: Path) -> None:
    """A frame table left by an earlier run."""
    kept = StorageFolder(str(folder / "kept"))
    find_or_make_table(folder / "gate.mp4", kept, HANG_SECONDS)
    [name] = kept.names()
    shutil.copyfile(folder / "table.json", folder / "kept" / name)
    table = find_or_make_table(folder / "gate.mp4", kept, HANG_SECONDS)
    if isinstance(table, UnreadableSourceError):
        raise table
    table.seconds()
    last = VideoFrames(folder / "gate.mp4", (table.count - 1,), ((0.0, 0.0, 90.0, 60.0),), table)
    _read_tracklets([last], CROPS)


def _make_record(folder: Path) -> None:
    _write_record(folder)
    (folder / "shards" / ".shard-00000.json").rename(folder / "record.json")


def _write_record(folder: Path) -> None:
    options = ShardOptions(height=32, width=16)
    with chdir(folder):
        plan = plan_shards(_stored_tracklets(Path("crops")), options)[0]
        write_shard(plan, StorageFolder("shards"), options)


def _read_record(folder: Path) -> None:
    """The record of a shard finished by an earlier run."""
    shutil.rmtree(folder / "crops")
    shutil.copyfile(folder / "record.json", folder / "shards" / ".shard-00000.json")
    _write_record(folder)


SOURCES = {
    "videos": Kind(
        14,
        {
            f"{codec}.{suffix}": Sample(
                partial(_make_video, codec, suffix), ("gate.*",), partial(_read_below, f"gate.{suffix}")
            )
            for codec, suffix in VIDEOS
        },
    ),
    "pictures": Kind(
        6,
        {
            **{
                suffix: Sample(partial(_make_pictures, suffix), ("gate/img1/*",), partial(_read_below, "gate"))
                for suffix in (".png", ".jpg", ".bmp", ".webp")
            },
            "crops": Sample(_make_crops, ("*",), _read_crops),
        },
    ),
    "tracks": Kind(
        20,
        {
            **{
                name: _annotated(partial(_make_tracks, name), [f"gate.{name.rpartition('.')[2]}"], _footage)
                for name in (*TRACK_FILES, "parquet")
            },
            "confident": _annotated(
                partial(_make_tracks, "csv"), ["gate.csv"], partial(_footage, minimum_confidence=0.1, box_padding=0.2)
            ),
            "people": _annotated(
                partial(_make_tracks, "txt"), ["gate.txt"], partial(_footage, people_from_tracks=True)
            ),
            "sequence": _annotated(
                lambda folder: make_sequence(folder / "gate", range(1, 5)),
                ["gate/gt/gt.txt", "gate/seqinfo.ini"],
                _footage,
            ),
        },
    ),
    "labels": Kind(
        8,
        {
            "footage": _annotated(_make_labelled, ["labels.csv"], _read_labelled),
            "start times": _annotated(_make_labelled, ["times.csv"], _read_labelled),
            "clips": _annotated(_make_clips, ["labels.csv"], _read_clips),
        },
    ),
    "data sets": Kind(
        5,
        {
            "ccvid": _annotated(partial(make_ccvid, frame_count=1), ["*.txt"], read_ccvid),
            "mevid": _annotated(make_mevid, ["*.txt"], lambda root: read_mevid(root, MevidOptions(check_files=True))),
            "deepchange": _annotated(make_deepchange, ["*.txt"], read_deepchange),
        },
    ),
    "manifests": Kind(
        7,
        {
            **{
                storage: Sample(partial(_make_shards, storage), ("shards/manifest.json",), _read_shards)
                for storage in ("jpeg", "source", "raw")
            },
            "remote": Sample(partial(_make_shards, "jpeg"), ("shards/manifest.json",), _read_remote_shards),
            "frame table": Sample(_make_kept_table, ("table.json",), _read_kept_table),
            "record": Sample(_make_record, ("record.json",), _read_record),
        },
    ),
    "shards": Kind(
        9,
        {
            **{
                storage: Sample(partial(_make_shards, storage), ("shards/*.arrow",), _read_shards, _seal)
                for storage in ("jpeg", "source", "raw")
            },
            "remote": Sample(partial(_make_shards, "jpeg"), ("shards/*.arrow",), _read_remote_shards, _seal),
        },
    ),
}

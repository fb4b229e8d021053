"""Shards: written ones can be read, resumed to the same bytes, checked, and quarantined."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from data_tools.datasets.ccvid import read_ccvid
from data_tools.datasets.problems import Dataset, Problem
from data_tools.errors import InputError
from data_tools.files import sha256_of
from data_tools.manifest import INDEX_NAME, MANIFEST_NAME, read_manifest
from data_tools.shard_file import SHARD_SCHEMA
from data_tools.shard_plan import ShardOptions, plan_shards
from data_tools.shard_writer import finish_shards, prepare_folder, write_shard
from data_tools.shards import ShardFolder, verify_shard
from data_tools.storage import StorageFolder
from data_tools.stored_frames import decode_clip_
from data_tools.tracklet import ImageFrames, Tracklet, VideoFrames
from tests.data.hostile_forgeries import large_png
from tests.data.made_videos import grey_of, make_video
from tests.data.released_formats import make_ccvid
from tests.made_shards import make_shards


def small(**options: object) -> ShardOptions:
    return ShardOptions.model_validate({"height": 32, "width": 16, **options})


def walk(root: Path, count: int = 6, frames: int = 30) -> Dataset:
    """``count`` tracks across one video, overlapping in time."""
    video = make_video(root / "walk.mp4", frame_count=60)
    return Dataset(
        "made",
        tuple(
            Tracklet(
                id=f"walk/{number}",
                person=f"p{number // 2}",
                clothes=str(number % 2),
                camera=f"c{number % 3}",
                split="train" if number % 2 else "query",
                source=VideoFrames(
                    video,
                    tuple(range(number * 5, number * 5 + frames)),
                    tuple([(number * 4.5, 3.25, 20.5, 40)] * frames),
                ),
                frame_index=tuple(range(number * 5, number * 5 + frames)),
                attributes={"scale": "l"},
                origin=f"tracks.txt:{number}",
            )
            for number in range(count)
            for seen in [tuple(range(number * 5, number * 5 + frames))]
        ),
    )


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_rows_frames_and_manifest_come_back(tmp_path: Path) -> None:
    dataset = walk(tmp_path)
    options = small(shard_mebibytes=0.02)
    manifest = make_shards(dataset, tmp_path / "shards", options)
    store = ShardFolder(tmp_path / "shards")
    assert len(manifest.shards) > 1
    assert [row.id for row in store.rows] == [tracklet.id for tracklet in dataset.tracklets]
    assert manifest.split_tracklets == {"train": 3, "query": 3, "gallery": 0}
    assert manifest.persons == ("p0", "p1", "p2")
    assert manifest.clothes == (("p0", "0"), ("p0", "1"), ("p1", "0"), ("p1", "1"), ("p2", "0"), ("p2", "1"))
    assert "av" in manifest.decoders
    for number, (row, tracklet) in enumerate(zip(store.rows, dataset.tracklets, strict=True)):
        labels = ("person", "clothes", "camera", "split", "attributes")
        assert [getattr(row, name) for name in labels] == [getattr(tracklet, name) for name in labels]
        assert tuple(store.frame_index(number)) == tracklet.frame_index
        for position in (0, 17, 29):
            picture = Image.open(io.BytesIO(store.encoded_frames(number, [position])[0].tobytes()))
            assert picture.size == (16, 32)
            grey = np.asarray(picture).mean()
            assert abs(grey - grey_of(tracklet.frame_index[position])) <= 3
    place = StorageFolder(str(store.folder))
    counts = [verify_shard(place, entry, manifest.image_size, frames=True) for entry in manifest.shards]
    assert sum(counts) == 6 * 30


def test_raw_frames_are_pixels_and_source_frames_the_released_bytes(tmp_path: Path) -> None:
    make_shards(walk(tmp_path), tmp_path / "raw", small(format="raw"))
    frame = ShardFolder(tmp_path / "raw").encoded_frames(0, [7])[0]
    assert frame.shape == (32, 16, 3)
    assert not frame.flags.owndata
    assert abs(int(frame[16, 8, 1]) - grey_of(7)) <= 2

    make_ccvid(tmp_path / "CCVID")
    dataset = read_ccvid(tmp_path / "CCVID")
    make_shards(dataset, tmp_path / "source", ShardOptions(format="source"))
    store = ShardFolder(tmp_path / "source")
    assert store.manifest.image_size is None
    for number, tracklet in enumerate(dataset.tracklets):
        assert isinstance(tracklet.source, ImageFrames)
        released = [(tracklet.source.folder / name).read_bytes() for name in tracklet.source.names]
        assert [frame.tobytes() for frame in store.encoded_frames(number, range(len(released)))] == released


def test_unreadable_sources_are_quarantined_with_their_reason(tmp_path: Path) -> None:
    make_ccvid(tmp_path / "CCVID")
    dataset = read_ccvid(tmp_path / "CCVID")
    broken = dataset.tracklets[1].source
    assert isinstance(broken, ImageFrames)
    (broken.folder / broken.names[1]).write_bytes(b"")
    manifest = make_shards(dataset, tmp_path / "shards", small())
    assert [entry.tracklet for entry in manifest.quarantine] == [dataset.tracklets[1].id]
    assert "the file is empty" in manifest.quarantine[0].reason
    assert broken.names[1] in manifest.quarantine[0].reason
    assert len(ShardFolder(tmp_path / "shards").rows) == len(dataset.tracklets) - 1


def test_only_the_tracklets_that_reach_a_damaged_stretch_are_quarantined(tmp_path: Path) -> None:
    dataset = walk(tmp_path)
    video = tmp_path / "walk.mkv"
    whole = make_video(video, frame_count=60, width=160, height=120).read_bytes()
    video.write_bytes(whole[: len(whole) * 7 // 10])
    moved = Dataset(
        "made",
        tuple(
            Tracklet(t.id, t.person, t.clothes, t.camera, t.split, VideoFrames(video, t.frame_index), t.frame_index)
            for t in dataset.tracklets
        ),
    )
    manifest = make_shards(moved, tmp_path / "shards", small(max_quarantine_share=0.9))
    lost = [entry.tracklet for entry in manifest.quarantine]
    assert lost
    assert lost == [tracklet.id for tracklet in moved.tracklets[-len(lost) :]]
    assert all("walk.mkv: frame" in entry.reason for entry in manifest.quarantine)


def test_too_large_a_share_of_unreadable_sources_is_an_error(tmp_path: Path) -> None:
    dataset = walk(tmp_path)
    missing = [
        Tracklet(f"none/{n}", "p", "0", "c", "train", VideoFrames(tmp_path / "none.mp4", (0,)), (0,)) for n in range(2)
    ]
    broken = Dataset("made", (*dataset.tracklets, *missing))
    with pytest.raises(InputError, match=r"2 of 8 tracklets .* max_quarantine_share"):
        make_shards(broken, tmp_path / "shards", small())
    assert not (tmp_path / "shards" / MANIFEST_NAME).exists()
    plans = plan_shards(broken.tracklets, small())
    options = small(max_quarantine_share=0.5)
    folder = StorageFolder(str(tmp_path / "shards"))
    records = [write_shard(plan, folder, options) for plan in plans]
    assert len(finish_shards(broken, plans, records, folder, options).quarantine) == 2


def test_what_the_reader_quarantined_is_in_the_manifest(tmp_path: Path) -> None:
    found = Problem("quarantine", "train.txt", 7, "no such folder", tracklet="session1/009_01")
    dataset = Dataset("made", walk(tmp_path).tracklets, (found,))
    manifest = make_shards(dataset, tmp_path / "shards", small())
    assert [(entry.tracklet, entry.origin) for entry in manifest.quarantine] == [("session1/009_01", "train.txt:7")]


def test_a_finished_folder_is_kept_and_never_overwritten_by_another_set(tmp_path: Path) -> None:
    dataset = walk(tmp_path)
    options = small()
    manifest = make_shards(dataset, tmp_path / "shards", options)
    plans, folder = plan_shards(dataset.tracklets, options), StorageFolder(str(tmp_path / "shards"))
    assert prepare_folder(plans, folder) == manifest
    with pytest.raises(InputError, match="already holds data set 'made'"):
        prepare_folder(plan_shards(dataset.tracklets[:3], options), folder)


def test_a_run_killed_anywhere_goes_on_and_ends_with_the_same_bytes(tmp_path: Path) -> None:
    dataset = walk(tmp_path, count=6)
    options = small(shard_mebibytes=0.015)
    make_shards(dataset, tmp_path / "whole", options)
    plans = plan_shards(dataset.tracklets, options)
    assert len(plans) >= 3
    for finished in range(len(plans) + 1):
        folder = tmp_path / f"killed{finished}"
        place = StorageFolder(str(folder))
        prepare_folder(plans, place)
        times = {}
        for plan in plans[:finished]:
            write_shard(plan, place, options)
            times[plan.file] = (folder / plan.file).stat().st_mtime_ns
        (folder / ".shard-00001.arrow.abc.tmp").write_bytes(b"half")
        make_shards(dataset, folder, options)
        assert contents(folder) == contents(tmp_path / "whole")
        assert all((folder / file).stat().st_mtime_ns == written for file, written in times.items())


KILLED = """
import sys
from pathlib import Path
from data_tools.datasets.problems import Dataset
from data_tools.shard_plan import plan_shards
from data_tools.shard_writer import prepare_folder
from data_tools.storage import StorageFolder
from tests.data.test_shards import small, walk
from tests.made_shards import make_shards
dataset, folder, options = walk(Path(sys.argv[1])), StorageFolder(sys.argv[2]), small(shard_mebibytes=0.015)
if prepare_folder(plan_shards(dataset.tracklets, options), folder) is None:  # not finished before the kill
    make_shards(dataset, sys.argv[2], options)
"""


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.05, 0.15, 0.3])
def test_sigkill_in_the_middle_of_writing(tmp_path: Path, seconds: float) -> None:
    """Killed that long after the first shard file appears, then run again."""
    folder = tmp_path / "shards"
    command = [sys.executable, "-c", KILLED, str(tmp_path), str(folder)]
    process = subprocess.Popen(command)
    while process.poll() is None and not list(folder.glob("*.arrow*")) + list(folder.glob(".shard*")):
        time.sleep(0.01)
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    process.wait()
    subprocess.run(command, check=True)
    dataset = walk(tmp_path)
    make_shards(dataset, tmp_path / "whole", small(shard_mebibytes=0.015))
    assert contents(folder) == contents(tmp_path / "whole")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_an_unwritable_folder_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir(mode=0o500)
    with pytest.raises(OSError, match="shards"):
        make_shards(walk(tmp_path), tmp_path / "shards", small())


def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device", "shard-00000.arrow")

    dataset = walk(tmp_path)
    monkeypatch.setattr("os.fsync", full)
    plans = plan_shards(dataset.tracklets, small())
    (tmp_path / "shards").mkdir()
    with pytest.raises(OSError, match="No space left"):
        write_shard(plans[0], StorageFolder(str(tmp_path / "shards")), small())
    assert list((tmp_path / "shards").iterdir()) == []


def test_a_flipped_byte_is_found_and_named(tmp_path: Path) -> None:
    manifest = make_shards(walk(tmp_path), tmp_path / "shards", small())
    path = tmp_path / "shards" / manifest.shards[0].file
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(InputError, match=r"shard-00000\.arrow: SHA-256"):
        verify_shard(StorageFolder(str(tmp_path / "shards")), manifest.shards[0], None, frames=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 4}, "format version 4, but this program reads up to 3"),
        ({"storage": "tape"}, "storage: Input should be"),
        ({"surprise": 1}, "surprise: Extra inputs"),
        (
            {"shards": [{"file": "../../etc/passwd", "rows": 1, "frames": 1, "size_bytes": 1, "sha256": "0" * 64}]},
            "file",
        ),
    ],
)
def test_bad_manifests(tmp_path: Path, change: dict[str, object], message: str) -> None:
    make_shards(walk(tmp_path), tmp_path / "shards", small())
    path = tmp_path / "shards" / MANIFEST_NAME
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InputError, match=message):
        read_manifest(StorageFolder(str(tmp_path / "shards")))


def test_missing_manifest_and_missing_or_short_shard(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="this is not a finished data set"):
        ShardFolder(tmp_path)
    manifest = make_shards(walk(tmp_path), tmp_path / "shards", small())
    path = tmp_path / "shards" / manifest.shards[0].file
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(InputError, match=r"shard-00000\.arrow: \d+ bytes, expected \d+"):
        ShardFolder(tmp_path / "shards")
    path.unlink()
    with pytest.raises(InputError, match="listed in the manifest but missing"):
        ShardFolder(tmp_path / "shards")


def rewritten(folder: Path, compression: str | None = None, **columns: object) -> ShardFolder:
    """The opened shards, the first of them with other columns and a manifest that fits."""
    path = folder / "shard-00000.arrow"
    table = pa.ipc.open_file(path.read_bytes()).read_all()
    for name, values in columns.items():
        place = table.column_names.index(name)
        table = table.set_column(place, table.schema.field(name), pa.array(values, table.schema.field(name).type))
    with pa.ipc.new_file(path, SHARD_SCHEMA, options=pa.ipc.IpcWriteOptions(compression=compression)) as writer:
        for batch in table.to_batches(max_chunksize=1):
            writer.write_batch(batch)
    manifest = json.loads((folder / MANIFEST_NAME).read_text())
    manifest["shards"][0] |= {"size_bytes": path.stat().st_size, "sha256": sha256_of(path)}
    (folder / MANIFEST_NAME).write_text(json.dumps(manifest))
    return ShardFolder(folder)


def test_shards_that_hold_something_else_than_was_written(tmp_path: Path) -> None:
    """They open, because opening reads the index alone; the first use of the row says what is wrong."""
    make_shards(walk(tmp_path, 2, 3), tmp_path / "out", small())
    rows = pa.ipc.open_file((tmp_path / "out" / "shard-00000.arrow").read_bytes()).read_all().to_pylist()
    frames = [row["frames"] for row in rows]
    assert len(rewritten(tmp_path / "out", frames=frames).rows) == 2
    gap = [frames[0], [frames[1][0], None, frames[1][2]]]
    for row, columns, expected in (
        (1, {"frames": gap}, "tracklet 1 cannot be read: 3 frames with 3 numbers"),
        (0, {"frame_index": [[0, None, 2], [5, 6, 7]]}, "tracklet 0 cannot be read: 3 frames with 3 numbers"),
        (1, {"frame_index": [[0, 1, 2], [5, 6]]}, "tracklet 1 cannot be read: 3 frames with 2 numbers"),
        (1, {"split": ["query", "x" * 5000]}, "tracklet 1 cannot be read: split 'x"),
    ):
        store = rewritten(tmp_path / "out", **columns)
        assert store.encoded_frames(1 - row, [0])
        with pytest.raises(InputError, match=rf"shard-00000\.arrow: {expected}"):
            store.encoded_frames(row, [0])
        with pytest.raises(InputError, match=rf"shard-00000\.arrow: {expected}"):
            verify_shard(StorageFolder(str(store.folder)), store.manifest.shards[0], (32, 16), frames=True)
        rewritten(tmp_path / "out", frames=frames, frame_index=[[0, 1, 2], [5, 6, 7]], split=["query", "train"])


@pytest.mark.parametrize("compression", ["zstd", "lz4"])
def test_compressed_shards_are_refused(tmp_path: Path, compression: str) -> None:
    """A small file would fill the memory when it is inflated."""
    make_shards(walk(tmp_path, 2, 3), tmp_path / "out", small())
    store = rewritten(tmp_path / "out", compression)
    for use in (store.frame_index, lambda row: store.encoded_frames(row, [0])):
        with pytest.raises(InputError, match=r"shard-00000\.arrow: tracklet 1 cannot be read: is compressed, expected"):
            use(1)


@pytest.mark.parametrize(
    ("side", "expected"),
    [(6200, "it has 6200x6200 pixels, expected at most 37 million"), (100_000, "10000000000 pixels")],
)
def test_a_stored_picture_of_too_many_pixels_is_refused(side: int, expected: str) -> None:
    picture = np.frombuffer(large_png(side), np.uint8)
    assert len(picture) < 2_000_000

    class Store:
        rows: ClassVar = [SimpleNamespace(id="a", frame_count=1)]

        def encoded_frames(self, row: int, positions: Sequence[int]) -> list[npt.NDArray[np.uint8]]:  # noqa: ARG002
            return [picture]

    clip = torch.empty((1, 32, 16, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
    with pytest.raises(InputError, match="tracklet a: stored frame 0") as caught:
        decode_clip_(clip, Store(), 0, np.array([0]))
    assert expected in str(caught.value.__cause__)


@pytest.fixture(scope="module")
def small_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("small")
    make_shards(walk(root, count=3, frames=4), root / "shards", small())
    return root / "shards"


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_files_never_give_more_than_an_input_error(
    small_set: Path, tmp_path: Path, data: st.DataObject
) -> None:
    """Bytes changed, cut or inserted, in the manifest, or in files of unchanged size: read, or refused clearly."""
    name = data.draw(st.sampled_from([MANIFEST_NAME, INDEX_NAME, "shard-00000.arrow"]))
    content = bytearray((small_set / name).read_bytes())
    for _ in range(data.draw(st.integers(1, 8))):
        place = data.draw(st.integers(0, len(content) - 1))
        length = data.draw(st.sampled_from([1, 1, 4, 8]))
        content[place : place + length] = data.draw(st.binary(min_size=length, max_size=length))
    if name == MANIFEST_NAME:
        content = content[: data.draw(st.integers(0, len(content)))] if data.draw(st.booleans()) else content
    for path in small_set.iterdir():
        (tmp_path / path.name).write_bytes(bytes(content) if path.name == name else path.read_bytes())
    try:
        store = ShardFolder(tmp_path)
        for number, row in enumerate(store.rows):
            frames = store.encoded_frames(number, range(row.frame_count))
            assert sum(frame.size for frame in frames) <= (tmp_path / "shard-00000.arrow").stat().st_size
    except InputError as error:
        if str(tmp_path) not in str(error):
            raise AssertionError("the message names no file") from error

"""Frame tables are made once per file and kept next to the shards."""

from __future__ import annotations

import base64
import json
import math
import os
import zlib
from pathlib import Path

import pytest

from data_tools.datasets import frame_tables
from data_tools.datasets.frame_tables import find_or_make_table
from data_tools.errors import UnreadableSourceError
from data_tools.shard_writer import remove_leftovers
from data_tools.storage import StorageFolder
from data_tools.video import FrameTable
from ray_jobs.sharding.frame_tables import make_tables
from tests.data.made_videos import make_video


def test_a_table_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    video, folder = make_video(tmp_path / "gate.mp4"), StorageFolder(str(tmp_path / "shards"))
    table = find_or_make_table(video, folder, 60)
    assert isinstance(table, FrameTable)
    made: list[Path] = []

    def make(path: Path, hang_seconds: float) -> UnreadableSourceError:
        made.append(path)
        return UnreadableSourceError(f"{hang_seconds}")

    monkeypatch.setattr(frame_tables, "make_guarded_table", make)
    assert find_or_make_table(video, folder, 60) == table
    assert made == []
    os.utime(video, (1, 1))  # might be another file
    assert isinstance(find_or_make_table(video, folder, 60), UnreadableSourceError)
    assert made == [video]


def test_a_kept_table_that_is_damaged_is_made_again(tmp_path: Path) -> None:
    video, folder = make_video(tmp_path / "gate.mp4"), StorageFolder(str(tmp_path / "shards"))
    table = find_or_make_table(video, folder, 60)
    [name] = folder.names()
    folder.write(name, b"{")
    assert find_or_make_table(video, folder, 60) == table
    remove_leftovers(folder, records=False)
    assert folder.names() == [name]
    remove_leftovers(folder)
    assert folder.names() == []


@pytest.mark.parametrize(
    "changes",
    [
        {"count": 19},
        {"count": 2**40},
        {"width": 10**6},
        {"seconds_a_tick": "0"},
        {"seconds_a_tick": "1/0"},
        {"seconds_a_tick": "1e999999999"},
        {"frames_per_second": math.inf},
        {"turn": 45},
        {"packed_stamps": ""},
        {"packed_stamps": "eJwDAAAAAAE="},
        {"packed_keys": base64.urlsafe_b64encode(zlib.compress(bytes(range(80)))).decode()},
        {"packed_keys": base64.urlsafe_b64encode(zlib.compress(bytes(10**8))).decode()},
        {"packed_checksums": "AAAA"},
    ],
)
def test_a_kept_table_that_cannot_be_is_made_again(tmp_path: Path, changes: dict[str, object]) -> None:
    video, folder = make_video(tmp_path / "gate.mp4"), StorageFolder(str(tmp_path / "shards"))
    table = find_or_make_table(video, folder, 60)
    [name] = folder.names()
    folder.write(name, json.dumps(json.loads(folder.read(name)) | changes).encode())
    assert find_or_make_table(video, folder, 60) == table
    assert json.loads(folder.read(name))["count"] == 20


def test_videos_without_a_table(tmp_path: Path) -> None:
    folder = StorageFolder(str(tmp_path / "shards"))
    (tmp_path / "text.mp4").write_text("no video")
    for name in ("text.mp4", "none.mp4"):
        assert isinstance(find_or_make_table(tmp_path / name, folder, 60), UnreadableSourceError)
    assert make_tables([], folder, 60) == []
    assert folder.names() == []

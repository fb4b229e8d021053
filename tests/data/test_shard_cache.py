"""Remote shards become memory maps: fetched once per node, complete, and never more than the cache may hold."""

from __future__ import annotations

import os
import pickle
import re
import shutil
import subprocess
import sys
import threading
import time
from collections import namedtuple
from pathlib import Path

import pyarrow as pa
import pytest

from data_tools.errors import InputError
from data_tools.file_lock import locked
from data_tools.manifest import MANIFEST_NAME, read_manifest
from data_tools.shard_cache import CacheOptions, open_shards
from data_tools.shards import ShardFolder
from data_tools.storage import StorageFolder
from tests.processes import PATIENCE_SECONDS, kill_within
from tests.s3_server import S3Server

pytestmark = pytest.mark.slow


@pytest.fixture
def remote(s3: S3Server, tiny_shards: Path) -> StorageFolder:
    """The tiny shards on S3, in a bucket of this test."""
    folder = StorageFolder(s3.bucket()) / "tiny"
    folder.upload_folder(tiny_shards, last=MANIFEST_NAME)
    return folder


@pytest.fixture
def cache(tmp_path: Path) -> CacheOptions:
    return CacheOptions(folder=tmp_path / "cache")


def data_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.arrow"))


def files(folder: Path) -> dict[str, bytes]:
    """The content of a data set, without the cache's own notes."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith(".")}


def another(remote: StorageFolder, number: int) -> str:
    """A copy with another manifest: another data set of the same size."""
    place = remote.parent / f"copy{number}"
    for name in remote.names():
        content = remote.read(name)
        place.write(name, content + b" " * number if name == MANIFEST_NAME else content)
    return str(place)


def test_shards_are_fetched_once(remote: StorageFolder, cache: CacheOptions, tiny_shards: Path, s3: S3Server) -> None:
    before = s3.bytes_sent
    store = open_shards(str(remote), cache)
    sent = s3.bytes_sent - before
    assert store.rows == ShardFolder(tiny_shards).rows
    assert files(store.folder) == files(tiny_shards)
    manifest_bytes = (tiny_shards / MANIFEST_NAME).stat().st_size
    assert data_bytes(tiny_shards) <= sent - manifest_bytes <= 1.05 * data_bytes(tiny_shards)
    before = s3.bytes_sent
    again = open_shards(str(remote), cache)
    assert s3.bytes_sent - before == manifest_bytes
    assert (again.encoded_frames(0, [0])[0] == store.encoded_frames(0, [0])[0]).all()


def test_progress_is_reported_by_one_process_of_the_node(
    remote: StorageFolder, cache: CacheOptions, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("data_tools.shard_cache.LINE_SECONDS", 0)
    folder = open_shards(str(remote), cache).folder
    lines = capfd.readouterr().out.splitlines()
    assert re.fullmatch(rf"fetching {remote} into {cache.folder}: (\S+ MiB) of \1  \S+ MiB/s  left 0:00:00", lines[-1])
    with locked(folder / ".speaking"):
        (folder / "shard-00000.arrow").unlink()
        open_shards(str(remote), cache)
    assert "MiB/s" not in capfd.readouterr().out


def test_local_shards_are_mapped_where_they_are(tiny_shards: Path, cache: CacheOptions) -> None:
    assert open_shards(str(tiny_shards), cache).folder == tiny_shards
    assert not cache.folder.exists()


def test_fsspec_places_are_cached_too(tiny_shards: Path, cache: CacheOptions) -> None:
    store = open_shards(f"local://{tiny_shards}", cache)
    assert store.folder.parent == cache.folder
    assert files(store.folder) == files(tiny_shards)


FILL = """
import sys
from pathlib import Path
from data_tools.shard_cache import CacheOptions, open_shards
store = open_shards(sys.argv[1], CacheOptions(folder=Path(sys.argv[2])))
print(len(store.rows), flush=True)
"""


def start_filling(remote: StorageFolder, cache: CacheOptions) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", FILL, str(remote), str(cache.folder)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(process: subprocess.Popen[str]) -> None:
    output, _ = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 0, output


def test_processes_fill_a_cache_side_by_side(
    remote: StorageFolder, cache: CacheOptions, tiny_shards: Path, s3: S3Server
) -> None:
    s3.delay_reads(0.1)
    before = s3.bytes_sent
    processes = [start_filling(remote, cache) for _ in range(3)]
    for process in processes:
        finish(process)
    sent = s3.bytes_sent - before - 3 * (tiny_shards / MANIFEST_NAME).stat().st_size
    assert data_bytes(tiny_shards) <= sent <= 1.05 * data_bytes(tiny_shards)
    (folder,) = (path for path in cache.folder.iterdir() if path.is_dir())
    assert files(folder) == files(tiny_shards)


def test_a_process_killed_at_any_moment_does_no_harm(
    remote: StorageFolder, cache: CacheOptions, tiny_shards: Path, s3: S3Server
) -> None:
    s3.delay_reads(0.1)
    for kill in range(4):
        shutil.rmtree(cache.folder, ignore_errors=True)
        victim, other = start_filling(remote, cache), start_filling(remote, cache)
        while not list(cache.folder.glob("*/.shard-*")) and victim.poll() is None:
            time.sleep(0.01)
        kill_within(victim, 0.4, f"kill {kill}, the first shard is begun")
        finish(other)
        store = open_shards(str(remote), cache)
        assert files(store.folder) == files(tiny_shards)
        assert not list(store.folder.glob("*.tmp")) + list(store.folder.glob(".*.tmp"))


def test_least_recently_opened_sets_make_room(remote: StorageFolder, cache: CacheOptions, tiny_shards: Path) -> None:
    places = [another(remote, number) for number in range(1, 5)]
    room = cache.model_copy(update={"gibibytes": 2.5 * data_bytes(tiny_shards) / 2**30})
    first = open_shards(places[0], room).folder
    second = open_shards(places[1], room).folder
    open_shards(places[0], room)
    third = open_shards(places[2], room).folder
    assert (first.exists(), second.exists(), third.exists()) == (True, False, True)
    assert open_shards(places[1], room).folder.exists()
    assert not first.exists()
    assert sum(map(data_bytes, (second, third))) <= room.gibibytes * 2**30
    assert not list(cache.folder.glob(".evicted-*"))


def test_sets_in_use_stay(remote: StorageFolder, cache: CacheOptions, tiny_shards: Path, s3: S3Server) -> None:
    places = [another(remote, number) for number in range(1, 3)]
    room = cache.model_copy(update={"gibibytes": 1.5 * data_bytes(tiny_shards) / 2**30})
    store = open_shards(places[0], room)
    copy = pickle.loads(pickle.dumps(store))  # as in a loader's processes
    del store
    before = s3.bytes_sent
    with pytest.raises(InputError, match=r"copy2: its shards need .*--data\.cache\.gibibytes") as caught:
        open_shards(places[1], room)
    assert str(cache.folder) in str(caught.value)
    assert s3.bytes_sent - before < (tiny_shards / MANIFEST_NAME).stat().st_size + 100  # not a shard
    assert copy.folder.exists()
    del copy
    open_shards(places[1], room)
    assert len([path for path in cache.folder.iterdir() if path.is_dir()]) == 1


def test_a_set_open_in_another_process_stays(remote: StorageFolder, cache: CacheOptions, tiny_shards: Path) -> None:
    room = cache.model_copy(update={"gibibytes": 1.5 * data_bytes(tiny_shards) / 2**30})
    command = [sys.executable, "-c", f"{FILL}\nsys.stdin.read()", str(remote), str(cache.folder)]
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline()
    with pytest.raises(InputError, match="data sets in use take"):
        open_shards(another(remote, 1), room)
    holder.kill()
    holder.communicate()
    open_shards(another(remote, 1), room)


def test_what_never_fits_evicts_nothing(remote: StorageFolder, cache: CacheOptions, tiny_shards: Path) -> None:
    kept = open_shards(another(remote, 1), cache).folder
    with pytest.raises(InputError, match=r"do not fit into the cache .*: its limit is"):
        open_shards(str(remote), cache.model_copy(update={"gibibytes": 0.5 * data_bytes(tiny_shards) / 2**30}))
    assert kept.exists()


def test_a_full_disk_is_reported_before_anything_is_fetched(
    remote: StorageFolder, cache: CacheOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9 - 1000, 1000))
    with pytest.raises(InputError, match=r"disk has .* free"):
        open_shards(str(remote), cache)
    assert not list(cache.folder.glob("*/*.arrow"))


@pytest.mark.parametrize("damaged", ["shard", "index"])
def test_a_damaged_cached_file_is_fetched_again(
    remote: StorageFolder, cache: CacheOptions, tiny_shards: Path, s3: S3Server, damaged: str
) -> None:
    folder = open_shards(str(remote), cache).folder
    manifest = read_manifest(remote)
    assert manifest.index is not None
    entry = {"shard": manifest.shards[0], "index": manifest.index}[damaged]
    path, right = folder / entry.file, (tiny_shards / entry.file).read_bytes()
    times = path.stat()

    def flip() -> None:
        with path.open("r+b") as file:
            file.seek(entry.size_bytes // 2)
            file.write(bytes([right[entry.size_bytes // 2] ^ 1]))

    def flip_and_set_the_time_back() -> None:
        flip()
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))

    for damage in (flip, flip_and_set_the_time_back, lambda: os.truncate(path, 10), path.unlink):
        damage()
        before = s3.bytes_sent
        assert files(open_shards(str(remote), cache).folder) == files(tiny_shards)
        sent = s3.bytes_sent - before - (tiny_shards / MANIFEST_NAME).stat().st_size
        assert sent == entry.size_bytes


def test_a_touched_but_right_shard_is_compared_and_kept(
    remote: StorageFolder, cache: CacheOptions, tiny_shards: Path, s3: S3Server
) -> None:
    folder = open_shards(str(remote), cache).folder
    (folder / "shard-00000.arrow").touch()
    before = s3.bytes_sent
    open_shards(str(remote), cache)
    assert s3.bytes_sent - before == (tiny_shards / MANIFEST_NAME).stat().st_size


def test_a_damaged_remote_shard_is_named(remote: StorageFolder, cache: CacheOptions) -> None:
    entry = read_manifest(remote).shards[1]
    place = f"{remote}/{entry.file}"
    remote.write(entry.file, bytes(entry.size_bytes))
    with pytest.raises(InputError, match=rf"^{place}: SHA-256 .* expected {entry.sha256[:12]}"):
        open_shards(str(remote), cache)
    remote.write(entry.file, b"short")
    with pytest.raises(InputError, match=rf"^{place}: 5 bytes, expected {entry.size_bytes}"):
        open_shards(str(remote), cache)
    remote.delete(entry.file)
    with pytest.raises(FileNotFoundError):
        open_shards(str(remote), cache)
    assert not list(cache.folder.glob(f"*/*{entry.file}*"))


def test_no_data_set_and_a_bad_manifest(s3: S3Server, cache: CacheOptions) -> None:
    place = StorageFolder(s3.bucket()) / "data"
    with pytest.raises(InputError, match=r"data/manifest\.json: .* this is not a finished data set"):
        open_shards(str(place), cache)
    place.write(MANIFEST_NAME, b"{}")
    with pytest.raises(InputError, match=rf"{place}/manifest\.json"):
        open_shards(str(place), cache)
    assert not cache.folder.exists()


def test_a_storage_that_refuses_for_a_while_is_waited_for(
    remote: StorageFolder, cache: CacheOptions, tiny_shards: Path, s3: S3Server
) -> None:
    s3.refuse_reads()
    mend = threading.Timer(8, s3.accept)
    mend.start()
    assert files(open_shards(str(remote), cache).folder) == files(tiny_shards)
    mend.join()


def test_a_stream_that_breaks_off_is_read_again(
    remote: StorageFolder, cache: CacheOptions, tiny_shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    whole = StorageFolder.open

    def break_off(self: StorageFolder, name: str) -> object:
        opened.append(name)
        return pa.BufferReader(b"half") if opened.count(name) == 1 and name.endswith(".arrow") else whole(self, name)

    monkeypatch.setattr(StorageFolder, "open", break_off)
    assert files(open_shards(str(remote), cache).folder) == files(tiny_shards)


def test_a_changed_data_set_never_mixes_with_the_old_one(remote: StorageFolder, cache: CacheOptions) -> None:
    old = open_shards(str(remote), cache).folder
    remote.write(MANIFEST_NAME, remote.read(MANIFEST_NAME) + b"\n")
    new = open_shards(str(remote), cache).folder
    assert old != new
    assert old.exists()


def test_what_a_killed_eviction_left_is_removed(remote: StorageFolder, cache: CacheOptions) -> None:
    leftover = cache.folder / ".evicted-1"
    leftover.mkdir(parents=True)
    (leftover / "shard-00000.arrow").write_bytes(b"old")
    open_shards(str(remote), cache)
    assert not leftover.exists()

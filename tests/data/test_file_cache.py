"""Remote files are fetched once per node, kept within a limit, and gone when they are dropped."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from data_tools.errors import InputError
from data_tools.file_cache import cached_file, cached_files, drop_files
from data_tools.file_lock import mark_used
from data_tools.shard_cache import GIBIBYTE, CacheOptions
from data_tools.storage import StorageFolder
from tests.s3_server import S3Server

pytestmark = pytest.mark.slow

SIZE = 200_000


@pytest.fixture
def remote(s3: S3Server) -> StorageFolder:
    folder = StorageFolder(s3.bucket()) / "gallery"
    for name in "abc":
        folder.write(name, name.encode() * SIZE)
    return folder


def cache_of(folder: Path, files: float = 1000) -> CacheOptions:
    return CacheOptions(folder=folder, gibibytes=files * SIZE / GIBIBYTE)


def read(remote: StorageFolder, name: str, cache: CacheOptions) -> bytes:
    with cached_file(remote, name, cache) as path:
        assert path.name.endswith(f"-{name}")
        return path.read_bytes()


def test_a_file_is_fetched_once_by_all_who_want_it(s3: S3Server, remote: StorageFolder, tmp_path: Path) -> None:
    before = s3.bytes_sent
    with ThreadPoolExecutor(6) as threads:
        found = list(threads.map(lambda _: read(remote, "a", cache_of(tmp_path)), range(12)))
    assert found == [b"a" * SIZE] * 12
    assert SIZE <= s3.bytes_sent - before < 2 * SIZE
    remote.write("a", b"changed")
    assert read(remote, "a", cache_of(tmp_path)) == b"changed"


def test_those_used_longest_ago_make_room(remote: StorageFolder, tmp_path: Path) -> None:
    cache = cache_of(tmp_path, 2.5)
    for name in "abac":
        read(remote, name, cache)
    assert sorted(path.name[-1] for path in cached_files(remote, cache)) == ["a", "c"]
    with (
        cached_file(remote, "a", cache),
        cached_file(remote, "b", cache),
        pytest.raises(InputError, match=r"gallery/c: its 0\.2 MiB do not fit into the cache .*; raise --data\.cache"),
        cached_file(remote, "c", cache),
    ):
        pass
    assert read(remote, "c", cache) == b"c" * SIZE


def test_uses_within_one_tick_of_the_kernel_are_told_apart(tmp_path: Path) -> None:
    paths = [tmp_path / str(number) for number in range(100)]
    for path in paths:
        path.touch()
    for path in reversed(paths):
        mark_used(path)
    assert sorted(paths, key=lambda path: path.stat().st_mtime_ns) == paths[::-1]


def test_what_is_gone(remote: StorageFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is removed while it is fetched is not kept; one that is being read stays until then."""
    cache, download = cache_of(tmp_path), StorageFolder.download

    def then_removed(folder: StorageFolder, name: str, local: Path) -> None:
        download(folder, name, local)
        folder.delete(name)

    with monkeypatch.context() as patch:
        patch.setattr(StorageFolder, "download", then_removed)
        with pytest.raises(FileNotFoundError):
            read(remote, "a", cache)
    assert cached_files(remote, cache) == []
    with pytest.raises(FileNotFoundError):
        read(remote, "a", cache)
    read(remote, "c", cache)
    with cached_file(remote, "b", cache) as path:
        begun = path.with_name(f".{path.name}.x.tmp")
        begun.write_bytes(b"begun")
        drop_files(remote, cache, [each.name for each in cached_files(remote, cache)])
        assert cached_files(remote, cache) == [path]
        assert not begun.exists()
    drop_files(remote, cache, [path.name])
    assert cached_files(remote, cache) == []

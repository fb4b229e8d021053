"""Folders on this disk, on an S3 server and behind fsspec keep the same promises."""

from __future__ import annotations

import io
import pickle
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from pydantic import TypeAdapter, ValidationError

from data_tools.errors import InputError
from data_tools.files import MOST_DOCUMENT_BYTES
from data_tools.options import AbsolutePath, Place
from data_tools.storage import StorageFolder, retrying
from tests.s3_server import S3Server

pytestmark = pytest.mark.slow


@pytest.fixture(params=["local", "s3", "fsspec"])
def folder(request: pytest.FixtureRequest, s3: S3Server, tmp_path: Path) -> StorageFolder:
    """A folder that does not exist yet; the local:// scheme is fsspec's own file system."""
    places: dict[str, Callable[[], str]] = {
        "local": lambda: str(tmp_path / "disk"),
        "s3": s3.bucket,
        "fsspec": lambda: f"local://{tmp_path}/fsspec",
    }
    return StorageFolder(places[request.param](), patience=20) / "prefix"


def test_files_are_written_read_listed_and_removed(folder: StorageFolder, tmp_path: Path) -> None:
    assert folder.names() == []
    assert not folder.exists()
    folder.write("a.txt", b"one")
    folder.write("deep/er/b.gz", b"not compressed")
    folder.write("a.txt", b"two")
    assert (folder.read("a.txt"), folder.read("deep/er/b.gz")) == (b"two", b"not compressed")
    assert folder.names() == ["a.txt", "deep"]
    assert folder.sizes() == {"a.txt": 3}
    assert (folder.size("a.txt"), folder.size("deep"), folder.size("none")) == (3, None, None)
    assert (folder.exists("a.txt"), folder.exists("deep"), folder.exists("none")) == (True, True, False)
    assert (folder.is_folder("deep"), folder.is_folder("a.txt"), folder.is_folder()) == (True, False, True)
    folder.download("deep/er/b.gz", tmp_path / "new" / "b.gz")
    assert (tmp_path / "new" / "b.gz").read_bytes() == b"not compressed"
    folder.delete("a.txt")
    folder.delete("deep")
    assert folder.names() == []


def test_folders_travel_whole(folder: StorageFolder, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "in").mkdir(parents=True)
    contents = {"x": b"1", "in/y": b"", "z": bytes(20 * 2**20)}
    for name, content in contents.items():
        (source / name).write_bytes(content)
    folder.upload_folder(source, "copy")
    folder.download_folder("copy", tmp_path / "back")
    assert {name: (tmp_path / "back" / name).read_bytes() for name in contents} == contents
    with (folder / "copy").fetched() as path:
        assert path.name == "copy"
        assert (path / "in/y").read_bytes() == b""
    with folder.fetched("copy/x") as path:
        assert (path.name, path.read_bytes()) == ("x", b"1")


def test_what_is_not_there_is_named(folder: StorageFolder, tmp_path: Path) -> None:
    for action in (
        lambda: folder.read("none"),
        lambda: folder.delete("none"),
        lambda: folder.download("none", tmp_path / "x"),
        lambda: folder.download_folder("none", tmp_path / "y"),
    ):
        with pytest.raises(FileNotFoundError) as caught:
            action()
        assert caught.value.filename == str(folder / "none")
    assert not (tmp_path / "x").exists()


def test_a_file_appears_whole_or_not_at_all(folder: StorageFolder) -> None:
    folder.write("kept", b"before")
    for name in ("kept", "new"):
        with suppress(KeyboardInterrupt), folder.new_file(name) as path:
            path.write_bytes(b"half")
            raise KeyboardInterrupt
    assert folder.read("kept") == b"before"
    assert folder.names() == ["kept"]


def test_a_filled_folder_is_there_once_its_block_ends_well(folder: StorageFolder) -> None:
    with folder.filled(last="metrics.json") as path:
        for name in ("metrics.json", "queries", "table"):
            (path / name).write_text(name)
    assert folder.names() == ["metrics.json", "queries", "table"]


def test_the_last_file_is_uploaded_last(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    uploaded: list[str] = []
    monkeypatch.setattr(StorageFolder, "upload", lambda _, __, name: uploaded.append(name))
    with StorageFolder(s3.bucket()).filled(last="b") as path:
        for name in ("a", "b", "c"):
            (path / name).write_text(name)
    assert uploaded == ["a", "c", "b"]


def test_only_the_place_travels(s3: S3Server) -> None:
    folder = StorageFolder(s3.bucket())
    folder.write("x", b"1")
    dumped = pickle.dumps(folder)
    assert b"secret" not in dumped
    assert pickle.loads(dumped) == folder
    assert hash(pickle.loads(dumped)) == hash(folder)
    assert pickle.loads(dumped).read("x") == b"1"


def test_places() -> None:
    adapter: TypeAdapter[str] = TypeAdapter(Place)
    assert adapter.validate_python("here") == str(Path.cwd() / "here")
    assert adapter.validate_python("~/x") == str(Path.home() / "x")
    assert adapter.validate_python(Path("/x")) == "/x"
    assert adapter.validate_python("file:///x%20y/") == "/x y"
    assert adapter.validate_python("s3://bucket/runs/") == "s3://bucket/runs"
    assert adapter.validate_python("s3://bucket/runs/?region=eu-north-1") == "s3://bucket/runs?region=eu-north-1"
    with pytest.raises(ValidationError, match="knows the scheme s4://"):
        adapter.validate_python("s4://bucket")
    folder = StorageFolder("s3://bucket/runs?region=eu-north-1&endpoint_override=localhost%3A9") / "one"
    assert str(folder) == "s3://bucket/runs/one?region=eu-north-1&endpoint_override=localhost%3A9"
    assert (folder.path, folder.name, folder.local) == ("bucket/runs/one", "one", None)
    assert StorageFolder("/a/b").local == Path("/a/b")


def test_a_uri_can_name_the_endpoint(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = s3.bucket()
    StorageFolder(bucket).write("x", b"1")
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    assert StorageFolder(f"{bucket}?endpoint_override=127.0.0.1%3A{s3.port}&scheme=http").read("x") == b"1"


@pytest.mark.usefixtures("s3")
def test_a_wrong_bucket_is_reported_at_once() -> None:
    folder = StorageFolder("s3://no-such-bucket/runs")
    for action in (lambda: folder.write("x", b"1"), folder.names):
        with pytest.raises(FileNotFoundError, match="no such bucket") as caught:
            action()
        assert str(caught.value.filename).startswith("s3://no-such-bucket/runs")


def test_wrong_keys_are_reported_at_once(s3: S3Server) -> None:
    folder = StorageFolder(s3.bucket())
    s3.forbid()
    for action in (lambda: folder.write("x", b"1"), folder.names, lambda: folder.read("x")):
        with pytest.raises(PermissionError, match="ACCESS_DENIED"):
            action()


def test_a_refused_write_is_tried_again(s3: S3Server, capfd: pytest.CaptureFixture[str]) -> None:
    folder = StorageFolder(s3.bucket(), patience=60)
    s3.refuse_writes()
    mend = threading.Timer(8, s3.accept_writes)  # pyarrow itself retries for six seconds
    mend.start()
    folder.write("x", b"1")
    mend.join()
    assert folder.read("x") == b"1"
    assert f"writing {folder}/x: " in capfd.readouterr().out


def test_patience_ends_with_the_last_reason(s3: S3Server) -> None:
    folder = StorageFolder(s3.bucket(), patience=1)
    s3.refuse_writes()
    with pytest.raises(OSError, match="HTTP status 503") as caught:
        folder.write("x", b"1")
    assert caught.value.filename == f"{folder}/x"
    assert not isinstance(caught.value, PermissionError | FileNotFoundError)
    s3.accept()
    assert folder.names() == []


def test_what_does_not_pass_is_not_tried_again() -> None:
    for error in (FileNotFoundError(2, "gone"), PermissionError(13, "no"), OSError(28, "full"), ValueError("wrong")):
        calls: list[int] = []

        def action(error: Exception = error, calls: list[int] = calls) -> None:
            calls.append(1)
            raise error

        with pytest.raises(type(error)):
            retrying(action, "trying", patience=60)
        assert len(calls) == 1


def test_a_file_that_is_written_anew_while_it_is_read_comes_whole(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = StorageFolder(s3.bucket())
    folder.write("file", b"the new content")
    opened = StorageFolder.open
    cut_short = [io.BytesIO(b"the new")]  # as many bytes as the old content
    monkeypatch.setattr(StorageFolder, "open", lambda self, name: cut_short.pop() if cut_short else opened(self, name))
    assert folder.read("file") == b"the new content"
    assert "changed while it was read" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("place", "message"),
    [("a\0b", "it contains a NUL"), ("s3://bucket/a\0b", "it contains a NUL"), ("\ud800", "it is not valid Unicode")],
)
def test_places_that_no_file_can_have(place: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"is not a path: {message}"):
        StorageFolder(place)
    with pytest.raises(ValidationError, match=f"is not a path: {message}"):
        TypeAdapter(Place).validate_python(place)
    with pytest.raises(ValidationError, match=f"is not a path: {message}"):
        TypeAdapter(AbsolutePath).validate_python(Path(place))


def test_what_is_no_document_is_reported_at_once(tmp_path: Path) -> None:
    folder = StorageFolder(str(tmp_path))
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    with (tmp_path / "large").open("wb") as file:
        file.truncate(MOST_DOCUMENT_BYTES + 1)
    began = time.monotonic()
    with pytest.raises(IsADirectoryError, match=r"is a folder, expected a file: .*folder"):
        folder.read("folder")
    with pytest.raises(OSError, match="Too many levels of symbolic links"):
        folder.read("loop")
    with pytest.raises(InputError, match="large: has 128 MiB, expected at most 128"):
        folder.read("large")
    assert time.monotonic() - began < 30, "it does not pass by waiting"

"""The file system for Ray Train: it waits while the storage does not answer for a while."""

from __future__ import annotations

import pickle
import threading
from pathlib import Path

import pytest
from pyarrow import fs

from data_tools.patient_filesystem import patient_filesystem
from data_tools.storage import StorageFolder
from tests.s3_server import S3Server

slow = pytest.mark.slow


CONTENT = bytes(range(256)) * 40_000


def put(filesystem: fs.FileSystem, path: str) -> None:
    with filesystem.open_output_stream(path, compression=None) as stream:
        stream.write(CONTENT[:1000])
        stream.write(CONTENT[1000:])


def test_a_file_goes_there_and_back_through_a_pickled_copy(tmp_path: Path) -> None:
    patient = patient_filesystem(StorageFolder(str(tmp_path)), 5)
    travelled = pickle.loads(pickle.dumps(patient))
    assert travelled == patient
    assert travelled != patient_filesystem(StorageFolder(str(tmp_path / "other")), 5)
    there = str(tmp_path / "there")
    put(travelled, there)
    assert patient.open_input_file(there).read() == CONTENT
    assert patient.get_file_info(there).size == len(CONTENT)
    fs.copy_files(there, str(tmp_path / "back"), patient, fs.LocalFileSystem())
    assert (tmp_path / "back").read_bytes() == CONTENT
    patient.move(there, f"{there}-moved")
    patient.delete_file(f"{there}-moved")
    with pytest.raises(FileNotFoundError):
        patient.open_input_stream(there)


@slow
def test_a_file_is_written_once_the_storage_takes_it(s3: S3Server, capfd: pytest.CaptureFixture[str]) -> None:
    storage = StorageFolder(s3.bucket())
    s3.refuse_writes()
    threading.Timer(15, s3.accept_writes).start()  # pyarrow itself retries for about 8 s
    put(patient_filesystem(storage, 60), f"{storage.path}/weights")
    assert "retrying in" in capfd.readouterr().out
    assert storage.read("weights") == CONTENT


@slow
def test_patience_ends_with_an_error_that_names_the_file(s3: S3Server) -> None:
    storage = StorageFolder(s3.bucket())
    s3.refuse_writes()
    with pytest.raises(OSError, match="weights"):
        put(patient_filesystem(storage, 1), f"{storage.path}/weights")
    s3.accept_writes()
    assert storage.names() == []

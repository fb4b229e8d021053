"""Writers to a folder on object storage take turns, whatever is killed or stands still."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from data_tools import storage_lock
from data_tools.storage import StorageFolder
from data_tools.storage_lock import storage_locked
from tests.processes import PATIENCE_SECONDS
from tests.s3_server import S3Server

OTHER = f".writing-{'0' * 32}.lock"
"""Of a writer that comes before all others."""


@pytest.fixture
def folder(tmp_path: Path) -> StorageFolder:
    """A disk: it lists what was put before, as object storage does."""
    return StorageFolder(str(tmp_path))


def take_turns(folder: StorageFolder, writers: int, turns: int) -> None:
    inside = threading.Lock()

    def write(_: int) -> None:
        for _ in range(turns):
            with storage_locked(folder, "writing") as held:
                assert inside.acquire(blocking=False), "two writers at once"
                held.check()
                time.sleep(0.01)
                inside.release()

    with ThreadPoolExecutor(writers) as threads:
        list(threads.map(write, range(writers)))
    assert folder.names() == []


def test_one_at_a_time(folder: StorageFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage_lock, "PAUSE_SECONDS", (0.002, 0.02))
    take_turns(folder, 4, 5)
    with storage_locked(folder, "writing"), storage_locked(folder, "adding"):  # different locks
        assert len(folder.names()) == 2


@pytest.mark.slow
def test_one_at_a_time_on_object_storage(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage_lock, "PAUSE_SECONDS", (0.01, 0.1))
    take_turns(StorageFolder(s3.bucket()) / "gallery", 3, 2)


def test_a_writer_waits_for_one_elsewhere_until_that_is_silent_for_long(
    folder: StorageFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(storage_lock, "PAUSE_SECONDS", (0.01, 0.01))
    folder.write(OTHER, b"a node process 7")
    entered = threading.Event()

    def write() -> None:
        with storage_locked(folder, "writing"):
            entered.set()

    writer = threading.Thread(target=write)
    writer.start()
    assert not entered.wait(0.3)
    assert folder.exists(OTHER)
    assert folder.local is not None
    long_ago = time.time() - storage_lock.STALE_SECONDS - 1
    os.utime(folder.local / OTHER, (long_ago, long_ago))
    writer.join(PATIENCE_SECONDS)
    assert entered.is_set()
    assert folder.names() == []
    assert capsys.readouterr().out.count("writing waits for another writer (a node process 7)") == 1


HOLDER = """
import sys, time
from data_tools.storage import StorageFolder
from data_tools.storage_lock import storage_locked
with storage_locked(StorageFolder(sys.argv[1]), "writing"):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.mark.skipif(not Path("/proc/self/ns/pid").exists(), reason="not Linux: a killed one is waited for")
def test_one_that_was_killed_on_this_machine_is_not_waited_for(folder: StorageFolder) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(folder)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert len(folder.names()) == 1
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.communicate()
    with storage_locked(folder, "writing"):
        assert len(folder.names()) == 1


def test_a_holder_shows_that_it_is_alive_until_it_stood_still(
    folder: StorageFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage_lock, "BEAT_SECONDS", 0.01)
    with storage_locked(folder, "writing") as held:
        first = folder.times()[held.name]
        while folder.times().get(held.name, first) == first:
            time.sleep(0.01)
        held.check()
        monkeypatch.setattr(storage_lock, "STALE_SECONDS", 0.0)
        with pytest.raises(TimeoutError, match="another writer may have taken over"):
            held.check()
        time.sleep(0.05)
        folder.delete(held.name)  # by the one who took over
        time.sleep(0.05)
        assert folder.names() == []

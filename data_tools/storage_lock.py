"""A lock between the writers of a folder on object storage, which has no locks and, as pyarrow reaches it, no
conditional writes.

    put an object of one's own ──▶ list ──▶ no other's is there: locked
                          ▲          └────▶ another's: wait; all but the first of those who wait delete theirs

A listing shows all that was put before it began (S3 since 2020, Google, Azure), so of two writers the one that lists
later sees the other, and never do both go on. A holder puts its object again every ``BEAT_SECONDS``. One that was not
put for ``STALE_SECONDS``, by the storage's clock, or whose process on this machine is gone, was left by a kill, and is
deleted by the next writer.

What it cannot exclude: a holder that stands still or is cut off for longer than that, and then goes on. It must
therefore ``check`` before each write, which fails after half that time; but a write that had begun before may arrive
after another writer took over.
"""

from __future__ import annotations

import errno
import os
import random
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from data_tools.progress import message
from data_tools.storage import StorageFolder

BEAT_SECONDS = 10.0
STALE_SECONDS = 300.0
"""Half of it is more than the time for which failing storage is tried again."""
PAUSE_SECONDS = 0.2, 5.0
"""The first and the longest wait before looking again."""


class LockHeld:
    """A lock while it is held; ``check`` it before each write.

    ``name`` of its object; ``beat`` is the last moment at which others certainly saw it alive.
    """

    def __init__(self, folder: StorageFolder, name: str) -> None:
        self.folder, self.name = folder, name
        self.beat = _moment()

    def check(self) -> None:
        """Raise ``TimeoutError`` if another writer may have taken over."""
        silent = max(now - then for now, then in zip(_moment(), self.beat, strict=True))
        if silent > STALE_SECONDS / 2:
            reason = f"stood still or had no storage for {silent:.0f} s, so that another writer may have taken over"
            raise TimeoutError(errno.ETIMEDOUT, f"{reason}; run the same command again", str(self.folder))

    def put(self, folder: StorageFolder) -> None:
        """Show that this process is alive, unless it may be too late."""
        self.check()
        began = _moment()
        folder.write(self.name, _owner().encode())
        self.beat = began


@contextmanager
def storage_locked(folder: StorageFolder, purpose: str) -> Iterator[LockHeld]:
    """Hold the folder's lock of that purpose, a word, in the block; waits while another process holds it.

    Raises:
        OSError: the storage does not answer or denies access.
    """
    held = _acquired(folder, purpose)
    ended = threading.Event()
    beating = threading.Thread(target=_keep, args=(held, ended), daemon=True)
    beating.start()
    try:
        yield held
    finally:
        ended.set()
        beating.join()
        _delete(folder, held.name)


def _acquired(folder: StorageFolder, purpose: str) -> LockHeld:
    held: LockHeld | None = None
    pause, told = PAUSE_SECONDS[0], False
    try:
        while True:
            held = held or LockHeld(folder, f".{purpose}-{uuid4().hex}.lock")
            held.put(folder)
            times = _times(folder, purpose)
            others = [name for name in times if name != held.name]
            left = [name for name in others if _is_left(folder, name, times.get(held.name), times[name])]
            for name in left:
                _delete(folder, name)
            if not others and held.name in times:
                return held
            if left:
                continue
            if not told:
                message(f"{folder}: {purpose} waits for another writer ({_text(folder, others)})")
                told = True
            if not others or min(others) < held.name:
                _delete(folder, held.name)
                held = None
            time.sleep(pause * random.uniform(0.5, 1))
            pause = min(1.5 * pause, PAUSE_SECONDS[1])
    except BaseException:
        if held is not None:
            _delete(folder, held.name)
        raise


def _keep(held: LockHeld, ended: threading.Event) -> None:
    """Show that this process is alive, until the lock is given back; ``check`` notices where that fails."""
    once = StorageFolder(held.folder.place, patience=0)  # does not try again: the next beat does
    while not ended.wait(BEAT_SECONDS):
        with suppress(OSError):
            held.put(once)


def _times(folder: StorageFolder, purpose: str) -> dict[str, int | None]:
    """When each object of this purpose was put, in nanoseconds of the storage's clock; None where it does not say."""
    pattern = re.compile(rf"\.{re.escape(purpose)}-[0-9a-f]{{32}}\.lock")
    return {name: written for name, written in folder.times().items() if pattern.fullmatch(name)}


def _is_left(folder: StorageFolder, name: str, own: int | None, other: int | None) -> bool:
    """Whether an object was left by a kill."""
    if own is not None and other is not None and own - other > STALE_SECONDS * 1e9:
        return True
    machine, _, pid = _text(folder, [name]).rpartition(" process ")
    return machine == _machine() and pid.isdecimal() and not Path(f"/proc/{pid}").exists()


def _text(folder: StorageFolder, names: list[str]) -> str:
    """Who holds the first that is still there."""
    for name in names:
        with suppress(FileNotFoundError):
            return folder.read(name).decode(errors="replace")
    return ""


def _owner() -> str:
    return f"{_machine()} process {os.getpid()}"


def _machine() -> str:
    """This machine since its start, and which of its containers: where the numbers of processes mean the same."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{socket.gethostname()} {boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # not Linux
        return f"{socket.gethostname()} {uuid4().hex}"


def _delete(folder: StorageFolder, name: str) -> None:
    with suppress(FileNotFoundError):
        folder.delete(name)


def _moment() -> tuple[float, float]:
    """By two clocks, of which one stops while a machine is suspended, and the other may be set."""
    return time.monotonic(), time.time()

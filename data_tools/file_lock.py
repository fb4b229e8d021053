"""Locks between the processes of one machine. The kernel releases them when the holder exits, even if it is killed."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


def lock_file(path: Path, *, shared: bool = False, wait: bool = True, create: bool = True) -> IO[bytes] | None:
    """Open a file, creating it if needed, and lock it until it is closed.

    Args:
        shared: take a shared lock instead of an exclusive one.
        wait: wait for a conflicting lock; if False, return None instead.
        create: if False, raise FileNotFoundError if there is no such file.
    """
    import fcntl  # missing on Windows, where only the shard cache does not work

    file = path.open("a+b" if create else "rb")
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        file.close()
        return None
    except BaseException:
        file.close()
        raise
    return file


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[IO[bytes] | None]:
    """Hold a file's lock exclusively in the block; None if another process holds it and ``wait`` is False."""
    import fcntl

    file = lock_file(path, wait=wait)
    try:
        yield file
    finally:
        if file is not None:
            fcntl.flock(file, fcntl.LOCK_UN)  # a process forked meanwhile has the file open, too
            file.close()


def mark_used(path: Path) -> None:
    """Let a file's mtime be now, for caches that evict what was used longest ago.

    The kernel's own "now" stands still for some milliseconds, in which two files would seem to be used at once.
    """
    now = time.time_ns()
    os.utime(path, ns=(now, now))

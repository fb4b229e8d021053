"""Locks between the processes of one machine, which the kernel frees when their holder ends, however it ends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


def lock_file(path: Path, *, shared: bool = False, wait: bool = True) -> IO[bytes] | None:
    """Open a file, made where it is not there, and lock it until it is closed.

    Args:
        shared: hold it together with others that share it.
        wait: for those who hold it otherwise; without, None is returned where there are any.
    """
    import fcntl  # not on Windows, where only the shard cache does not work

    file = path.open("a+b")
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
    """Hold a file's lock alone in the block; None where others hold it and ``wait`` is False."""
    import fcntl

    file = lock_file(path, wait=wait)
    try:
        yield file
    finally:
        if file is not None:
            fcntl.flock(file, fcntl.LOCK_UN)  # a process that was forked meanwhile has the open file, too
            file.close()

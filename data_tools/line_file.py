"""A text file that only grows, a line at a time, and is whole after any kill: journals and streams of results."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

LOOK_BACK_BYTES = 2**16


@dataclass(frozen=True, slots=True)
class LineFile:
    """Lines of UTF-8 text, each ended by a newline. Nothing keeps the file open, so that it may be moved away."""

    path: Path

    @property
    def size(self) -> int:
        """Bytes; 0 if there is no file."""
        try:
            return self.path.stat().st_size
        except FileNotFoundError:
            return 0

    def repair(self) -> int:
        """Remove a last line that a kill has left without its end; returns how many bytes."""
        size = self.size
        whole = self._end_of_last_line(size) if size else 0
        if whole < size:
            with self.path.open("r+b") as file:
                file.truncate(whole)
                os.fsync(file.fileno())
        return size - whole

    def append(self, lines: Sequence[str]) -> int:
        """Add lines, on disk when this returns the file's new size; a kill leaves some of them, the last perhaps torn.

        Raises:
            OSError: the disk is full, or the file cannot be written.
        """
        created = not self.path.exists()
        with self.path.open("ab") as file:
            file.write("".join(f"{line}\n" for line in lines).encode())
            file.flush()
            os.fsync(file.fileno())
            size = file.tell()
        if created:
            _sync_folder(self.path.parent)
        return size

    def lines(self, start: int = 0) -> Iterator[str]:
        """The lines from byte ``start`` on; all of them if no line begins there, because this is another file now."""
        if not self.size:
            return
        with self.path.open("rb") as file:
            file.seek(max(0, start - 1))
            if start and file.read(1) != b"\n":
                file.seek(0)
            for line in file:
                yield line.decode(errors="replace").rstrip("\n")

    def _end_of_last_line(self, size: int) -> int:
        with self.path.open("rb") as file:
            while size:
                start = max(0, size - LOOK_BACK_BYTES)
                file.seek(start)
                found = file.read(size - start).rfind(b"\n")
                if found >= 0:
                    return start + found + 1
                size = start
        return 0


def _sync_folder(folder: Path) -> None:
    """Make a new file's name last through a power failure, too."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

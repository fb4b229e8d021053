"""The parts of an embedding store in its folder: listed, opened, added, and replaced so that a kill loses nothing."""

from __future__ import annotations

import errno
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from pydantic import Field

from ccvid.retrieval.embedding.part_file import Part, open_part, write_part
from ccvid.retrieval.embedding.table import EmbeddingTable, check_finite
from data_tools.documents import parse_model
from data_tools.errors import InputError
from data_tools.file_cache import cached_file
from data_tools.file_lock import locked
from data_tools.options import Options
from data_tools.shard_cache import CacheOptions
from data_tools.storage import StorageFolder
from data_tools.storage_lock import storage_locked

REPLACING_FILE = "replacing.json"
LOCK_FILE = ".lock"
PART_NAME = r"part-[0-9A-Za-z]+\.(arrow|parquet)"
INDEX_NAME = r"(part-[0-9A-Za-z]+)\.usearch"
LEFTOVER = rf"\.({PART_NAME}|{INDEX_NAME})\..*\.tmp"
"""A file that a killed writer had begun."""

SMALL_BYTES, LARGE_BYTES = 2**23, 2**26
"""Parts smaller than the first are merged to at least the second, once there are more than ``MOST_SMALL_PARTS``."""
MOST_SMALL_PARTS = 16


class PartsChangedError(OSError):
    """A part that is being read was removed or merged by another command: what is made of it is of the past."""


class _Replacing(Options):
    """Parts that the part ``into``, once it is there, replaces."""

    into: str = Field(pattern=f"^{PART_NAME}$")
    replaced: list[Annotated[str, Field(pattern=f"^{PART_NAME}$")]]


@dataclass(frozen=True, slots=True)
class PartFolder:
    """Parts with embeddings of D ``dimensions`` by ``model``."""

    folder: StorageFolder
    model: str
    dimensions: int
    cache: CacheOptions | None = None
    """Where each node keeps copies of remote parts; None: they are fetched each time."""
    fixed: tuple[str, ...] | None = None
    """The only parts that are read: those that were there at some moment."""

    def as_it_is(self) -> PartFolder:
        """This folder with the parts that are there now, whatever others do to it; only for reading."""
        return replace(self, fixed=tuple(self._present()))

    def check_unchanged(self) -> None:
        """Raise ``PartsChangedError`` if one of the ``fixed`` parts is no longer there; further ones may be."""
        if self.fixed and (gone := set(self.fixed) - set(self._present())):
            raise self._changed(min(gone))

    def names(self) -> list[str]:
        """Names of the parts, sorted."""
        return self._present() if self.fixed is None else list(self.fixed)

    def _present(self) -> list[str]:
        names = self.folder.names()
        replacing = self._replacing() if REPLACING_FILE in names else None
        gone = replacing.replaced if replacing is not None and replacing.into in names else ()
        return [name for name in names if re.fullmatch(PART_NAME, name) and name not in gone]

    @contextmanager
    def opened(self, names: Sequence[str]) -> Iterator[list[Part]]:
        """Parts for reading within the block.

        Raises:
            InputError: a part cannot be read, or is from another embedder.
            PartsChangedError: a part is gone.
        """
        with ExitStack() as fetched:
            yield [self._open(name, fetched) for name in names]

    def _open(self, name: str, fetched: ExitStack) -> Part:
        try:
            path = fetched.enter_context(self._fetched(name))
            return open_part(path, model=self.model, dimensions=self.dimensions)
        except FileNotFoundError:
            raise self._changed(name) from None

    def _fetched(self, name: str) -> AbstractContextManager[Path]:
        if self.cache is None or self.folder.local is not None:
            return self.folder.fetched(name)
        return cached_file(self.folder, name, self.cache)

    def _changed(self, name: str) -> PartsChangedError:
        reason = "was removed or merged by another command meanwhile; run the same command again"
        return PartsChangedError(errno.ESTALE, reason, str(self.folder / name))

    @contextmanager
    def table(self, names: Sequence[str]) -> Iterator[EmbeddingTable]:
        """The rows of some parts, by id: of one part, a view of its file within the block; else copies.

        Raises:
            InputError: as ``opened``; no names; an id is in two parts; embeddings of several parts that are not finite.
        """
        if not names:
            raise InputError(f"{self.folder}: the embedding store is empty")
        with self.opened(names) as parts:
            if len(parts) > 1:
                for part in parts:
                    check_finite(part.embedding_ND, part.path, part.rows)
            try:
                yield EmbeddingTable.joined([part.table for part in parts])
            except InputError as error:
                raise InputError(f"{self.folder}: {error}") from None

    def index_path(self, name: str) -> Path | None:
        """Where the index of a part's embeddings is, or may be written while ``writing``; None on object storage.

        It holds the vectors, too, and is deleted with the part.
        """
        local = self.folder.local
        return None if local is None else local / _index_name(name)

    def groups(self) -> list[list[str]]:
        """The names of all parts, in groups of about ``LARGE_BYTES``.

        Raises:
            PartsChangedError: a part is gone.
        """
        names, sizes = self.names(), self.folder.sizes()
        if gone := set(names) - set(sizes):
            raise self._changed(min(gone))
        return list(_filled(names, [sizes[name] for name in names]))

    def each(self) -> Iterator[tuple[str, Part]]:
        """The parts with their names, one open at a time."""
        for name in self.names():
            with self.opened([name]) as parts:
                yield name, parts[0]

    @contextmanager
    def writing(self) -> Iterator[Callable[[], None]]:
        """Hold the folder's lock, and complete what another writer began; other writers wait meanwhile.

        Call what it yields before each write: on object storage it raises ``TimeoutError`` if the lock may be lost,
        see ``storage_lock``.
        """
        with ExitStack() as stack:
            check: Callable[[], None] = _always_held
            if (local := self.folder.local) is not None:
                stack.enter_context(locked(local / LOCK_FILE))
            else:
                check = stack.enter_context(storage_locked(self.folder, "writing")).check
            self._finish_replacing()
            yield check

    def write(self, table: EmbeddingTable) -> None:
        """Write a part, atomically."""
        with self.folder.new_file(_name(table)) as path:
            write_part(table, path)

    def replace(self, names: Sequence[str], table: EmbeddingTable) -> None:
        """Write one part in place of others, or none if it is empty; the next writer completes an interrupted call."""
        if len(table.rows):
            replacing = _Replacing(into=_name(table), replaced=[name for name in names if name != _name(table)])
            self.folder.write(REPLACING_FILE, replacing.model_dump_json().encode())
            self.write(table)
            self._finish_replacing()
            return
        for name in names:
            self._delete(name)

    def merge_small(self, check: Callable[[], None]) -> None:
        """Make large parts of small ones if there are many, so that each row is rewritten a few times at most.

        A search opens every part, and each embedding job adds many small ones. ``check`` is what ``writing`` yields.
        """
        sizes = self.folder.sizes()
        small = [name for name in self.names() if sizes[name] < SMALL_BYTES]
        if len(small) <= MOST_SMALL_PARTS:
            return
        for group in _filled(small, [sizes[name] for name in small]):
            with self.table(group) as table:
                check()
                self.replace(group, table)

    def remove_leftovers(self) -> None:
        """Delete what killed writers had begun, and indexes of no part; call it only while ``writing``."""
        indexes = {_index_name(name) for name in self.names()}
        for name in self.folder.names():
            if re.fullmatch(LEFTOVER, name) or (re.fullmatch(INDEX_NAME, name) and name not in indexes):
                self.folder.delete(name)

    def _delete(self, name: str) -> None:
        """A part; before it, so that none is left behind, its index."""
        for file in (_index_name(name), name):
            if self.folder.exists(file):
                self.folder.delete(file)

    def _finish_replacing(self) -> None:
        if (replacing := self._replacing()) is None:
            return
        names = self.folder.names()
        if replacing.into in names:
            for name in set(replacing.replaced) & set(names):
                self._delete(name)
        self.folder.delete(REPLACING_FILE)

    def _replacing(self) -> _Replacing | None:
        try:
            return parse_model(_Replacing, self.folder.read(REPLACING_FILE), self.folder / REPLACING_FILE)
        except FileNotFoundError:
            return None


def _always_held() -> None:
    """A lock that the kernel keeps cannot be lost."""


def _index_name(part: str) -> str:
    return f"{part.rpartition('.')[0]}.usearch"


def _name(table: EmbeddingTable) -> str:
    """Of a part; it depends on the ids only."""
    ids = sorted(table.rows.columns["id"].to_pylist())
    return f"part-{hashlib.sha256(json.dumps(ids).encode()).hexdigest()[:32]}.arrow"


def _filled(names: Sequence[str], sizes: Sequence[int]) -> Iterator[list[str]]:
    """Cut files into groups of at least ``LARGE_BYTES`` each; the last may be smaller."""
    group: list[str] = []
    held = 0
    for name, size in zip(names, sizes, strict=True):
        group.append(name)
        held += size
        if held >= LARGE_BYTES:
            yield group
            group, held = [], 0
    if group:
        yield group

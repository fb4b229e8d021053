"""Folders on this machine or on object storage, behind one interface.

A place is an absolute path or a URI: pyarrow opens s3://, gs:// and abfs://; fsspec, with its package for the scheme,
any other. Keys and endpoints come from the environment, as for other tools: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY,
AWS_REGION, AWS_ENDPOINT_URL, GOOGLE_APPLICATION_CREDENTIALS, … A URI may also carry pyarrow's options
(?region=…&endpoint_override=…&scheme=http).
"""

from __future__ import annotations

import errno
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from tempfile import NamedTemporaryFile, TemporaryDirectory
from typing import Any, TypeVar
from uuid import uuid4

import fsspec
import pyarrow as pa
from pyarrow import fs

from data_tools.errors import InputError
from data_tools.files import atomic_file, check_document_size
from data_tools.options import PYARROW_SCHEMES, absolute_place
from data_tools.progress import message

RETRY_SECONDS = 120.0
"""How long a failing storage call is retried before a job gives up."""

LONGEST_PAUSE_SECONDS = 30.0

READ_BYTES = 2**23
"""Size of one read or write; each is a separate request to object storage."""

WHOLE_WRITES = ("s3", "gcs", "abfs")
"""pyarrow's file systems (by ``type_name``) whose writes are atomic."""

LASTING = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EROFS),
    *(errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL),
)
"""File system errors that retrying does not cure."""

REFUSAL = re.compile(
    r"ACCESS_DENIED|INVALID_ACCESS_KEY_ID|SIGNATURE|TOKEN|UNRECOGNIZED_CLIENT|PERMISSION_DENIED|UNAUTHENTICATED|"
    r"HTTP status (?!408|429)[34]\d\d"
)
"""Errors of object storage that retrying does not cure: wrong keys, no permission, a wrong region or address."""

T = TypeVar("T")


@dataclass(frozen=True)
class StorageFolder:
    """A folder at a place. Its methods take names relative to it; "" is the folder itself.

    Every method raises ``FileNotFoundError`` if something is missing, ``PermissionError`` if the storage denies access,
    and another ``OSError`` if it fails for ``patience`` seconds; each error names the place. Only the place is pickled:
    each process connects with its own environment.
    """

    place: str
    patience: float = field(default=RETRY_SECONDS, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "place", absolute_place(self.place))

    def __str__(self) -> str:
        return self.place

    def __reduce__(self) -> tuple[type[StorageFolder], tuple[str, float]]:
        return StorageFolder, (self.place, self.patience)

    def __truediv__(self, name: str) -> StorageFolder:
        base, mark, query = self.place.partition("?")
        return StorageFolder(f"{base.rstrip('/')}/{name}{mark}{query}", self.patience) if name else self

    @property
    def local(self) -> Path | None:
        """The folder's path; None on object storage."""
        return None if "://" in self.place else Path(self.place)

    @property
    def name(self) -> str:
        """The last part of the place."""
        return PurePosixPath(self.path).name

    @property
    def parent(self) -> StorageFolder:
        """The folder that holds this one."""
        base, mark, query = self.place.partition("?")
        return StorageFolder(f"{base.rpartition('/')[0] or '/'}{mark}{query}", self.patience)

    @cached_property
    def filesystem(self) -> fs.FileSystem:
        """pyarrow's file system."""
        return self._found[0]

    @property
    def path(self) -> str:
        """The folder's path within ``filesystem``."""
        return self._found[1]

    @cached_property
    def _found(self) -> tuple[Any, str]:
        if self.local is not None:
            return fs.LocalFileSystem(), self.place
        try:
            if self.place.partition("://")[0] in PYARROW_SCHEMES:
                filesystem, path = fs.FileSystem.from_uri(self.place)
                return filesystem, path
            found, path = fsspec.core.url_to_fs(self.place)
            return fs.PyFileSystem(fs.FSSpecHandler(found)), path
        except (ImportError, ValueError) as error:  # ArrowInvalid is a ValueError
            raise InputError(f"{self.place}: {error}") from None

    def exists(self, name: str = "") -> bool:
        """Whether there is such a file or folder."""
        return bool(self._info(name).type != fs.FileType.NotFound)

    def is_folder(self, name: str = "") -> bool:
        """Whether there is such a folder."""
        return bool(self._info(name).type == fs.FileType.Directory)

    def size(self, name: str) -> int | None:
        """Bytes of a file; None if there is none."""
        found: int | None = self._info(name).size
        return found

    def names(self) -> list[str]:
        """Files and folders directly in it, sorted; empty if the folder does not exist."""
        return sorted(info.base_name for info in self._list("", recursive=False))

    def sizes(self) -> dict[str, int]:
        """Bytes of each file directly in it."""
        return {info.base_name: info.size for info in self._list("", recursive=False) if info.is_file}

    def times(self) -> dict[str, int | None]:
        """When each file directly in it was written: nanoseconds by the storage's clock; None where it does not say."""
        return {info.base_name: info.mtime_ns for info in self._list("", recursive=False) if info.is_file}

    def version(self, name: str) -> str:
        """A text that differs after the file was written again.

        Raises:
            FileNotFoundError: there is no such file.
        """
        info = self._info(name)
        if not info.is_file:
            raise FileNotFoundError(errno.ENOENT, "no such file", str(self / name))
        return f"{info.size:x}-{info.mtime_ns or 0:x}"

    def read(self, name: str) -> bytes:
        """A file's whole content, consistent even if the file is rewritten at the same time.

        Raises:
            InputError: it is larger than ``MOST_DOCUMENT_BYTES``.
        """

        def read() -> bytes:
            info = self.filesystem.get_file_info(self._path(name))
            if info.type == fs.FileType.Directory:
                raise IsADirectoryError(errno.EISDIR, "is a folder, expected a file", str(self / name))
            check_document_size(self / name, info.size or 0)
            with self.open(name) as stream:
                content = bytes(stream.read())
            # pyarrow asks for the size first, then reads that many bytes of a file that may have been replaced.
            if self.local is None and self._info(name).size != len(content):
                raise OSError(errno.EAGAIN, "changed while it was read", str(self / name))
            return content

        return self._attempt("reading", name, read)

    def open(self, name: str) -> Any:
        """A file's bytes as a stream, without retries; errors as in :func:`storage_errors`."""
        with storage_errors(f"{self}/{name}"):
            return self.filesystem.open_input_stream(self._path(name), compression=None)

    def write(self, name: str, content: bytes) -> None:
        """Write a file atomically."""
        with self.new_file(name) as path:
            path.write_bytes(content)

    def check_writable(self) -> None:
        """Raise now if the folder cannot be written."""
        self.write(".writable", b"")
        self.delete(".writable")

    def upload(self, local: Path, name: str) -> None:
        """Copy a local file here, atomically."""
        if self.local is not None:
            with self.new_file(name) as path:
                shutil.copyfile(local, path)
            return
        self._attempt("writing", name, lambda: self._put(local, self._path(name)))

    def download(self, name: str, local: Path) -> None:
        """Copy a file to the local path, atomically."""

        def fetch() -> None:
            with atomic_file(local) as file, self.open(name) as stream:
                shutil.copyfileobj(stream, file, READ_BYTES)

        local.parent.mkdir(parents=True, exist_ok=True)
        self._attempt("reading", name, fetch)

    def delete(self, name: str) -> None:
        """Remove a file, or a folder with its content."""
        remove = self.filesystem.delete_dir if self.is_folder(name) else self.filesystem.delete_file
        self._attempt("removing", name, lambda: remove(self._path(name)))

    def upload_folder(self, local: Path, name: str = "", *, last: str | None = None) -> None:
        """Copy a local folder here, the file ``last`` after all others."""
        files = sorted(path for path in local.rglob("*") if path.is_file())
        for path in sorted(files, key=lambda path: str(path.relative_to(local)) == last):
            self.upload(path, str(PurePosixPath(name) / path.relative_to(local).as_posix()))

    def download_folder(self, name: str, local: Path) -> None:
        """Copy a folder with its content to the local path."""
        files = [info for info in self._list(name, recursive=True) if info.is_file]
        if not files:
            raise FileNotFoundError(errno.ENOENT, "no such folder", str(self / name))
        for info in files:
            relative = info.path.removeprefix(self._path(name)).lstrip("/")
            self.download(str(PurePosixPath(name) / relative), local / relative)

    @contextmanager
    def new_file(self, name: str) -> Iterator[Path]:
        """A local path for writing a file, which is stored here atomically if the block succeeds."""
        if self.local is not None:
            target = self.local / name
            target.parent.mkdir(parents=True, exist_ok=True)
            with atomic_file(target) as file:
                yield Path(file.name)
            return
        with NamedTemporaryFile(prefix="ccvid-") as file:
            yield Path(file.name)
            self.upload(Path(file.name), name)

    @contextmanager
    def filled(self, *, last: str) -> Iterator[Path]:
        """A local folder to write into; its content is stored here if the block succeeds.

        Args:
            last: the file that is copied after all others, such as an index that refers to them.
        """
        if self.local is not None:
            self.local.mkdir(parents=True, exist_ok=True)
            yield self.local
            return
        with TemporaryDirectory(prefix="ccvid-") as temporary:
            yield Path(temporary)
            self.upload_folder(Path(temporary), last=last)

    @contextmanager
    def fetched(self, name: str = "") -> Iterator[Path]:
        """A file or folder as a local path with the same name, valid within the block."""
        if self.local is not None:
            yield self.local / name
            return
        with TemporaryDirectory(prefix="ccvid-") as temporary:
            path = Path(temporary) / (self / name).name
            fetch = self.download_folder if self.is_folder(name) else self.download
            fetch(name, path)
            yield path

    def _path(self, name: str) -> str:
        return f"{self.path.rstrip('/')}/{name}" if name else self.path

    def _info(self, name: str) -> Any:
        return self._attempt("looking for", name, lambda: self.filesystem.get_file_info(self._path(name)))

    def _list(self, name: str, *, recursive: bool) -> list[Any]:
        def found() -> list[Any]:
            try:
                return list(self.filesystem.get_file_info(fs.FileSelector(self._path(name), recursive=recursive)))
            except FileNotFoundError:  # a missing bucket is another error
                return []

        return self._attempt("listing", name, found)

    def _put(self, local: Path, target: str) -> None:
        def copy(destination: str) -> None:
            fs.copy_files(str(local), destination, fs.LocalFileSystem(), self.filesystem, chunk_size=READ_BYTES)

        if self.filesystem.type_name in WHOLE_WRITES:
            copy(target)
            return
        parent, _, name = target.rpartition("/")
        temporary = f"{parent}/.{name}.{uuid4().hex}.tmp"
        self.filesystem.create_dir(parent, recursive=True)
        try:
            copy(temporary)
            self.filesystem.move(temporary, target)
        except BaseException:
            if self.filesystem.get_file_info(temporary).is_file:
                self.filesystem.delete_file(temporary)
            raise

    def _attempt(self, verb: str, name: str, action: Callable[[], T]) -> T:
        place = str(self / name)

        def attempt() -> T:
            with storage_errors(place):
                return action()

        return retrying(attempt, f"{verb} {place}", patience=self.patience)


def retrying(action: Callable[[], T], what: str, *, patience: float) -> T:
    """Call ``action``, and retry after growing pauses while it raises an OSError that may be temporary.

    Each failure is reported in one line. A missing file and denied access are not temporary.

    Raises:
        OSError: the last error, after ``patience`` seconds.
    """
    end, pause = time.monotonic() + patience, 0.5
    while True:
        try:
            return action()
        except (FileNotFoundError, PermissionError):
            raise
        except OSError as error:
            left = end - time.monotonic()
            if left <= 0 or error.errno in LASTING:
                raise
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS, left)
            reason = error.strerror or error
            message(f"{what}: {reason}; retrying in {pause:.0f} s, giving up in {left:.0f} s")
            time.sleep(pause)


@contextmanager
def storage_errors(place: str) -> Iterator[None]:
    """Convert a storage library's errors into fitting OSErrors that name the place."""
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        number, reason = getattr(error, "errno", None), " ".join(str(error).split())
        if number is not None and getattr(error, "filename", None) is not None:
            raise  # already complete
        if isinstance(error, FileNotFoundError):
            number, reason = errno.ENOENT, "no such file or folder"
        elif "NO_SUCH_BUCKET" in reason:
            number, reason = errno.ENOENT, "no such bucket"
        elif isinstance(error, PermissionError) or REFUSAL.search(reason):
            number, reason = errno.EACCES, f"access denied: {reason}"
        raise OSError(number or errno.EIO, reason, place) from None

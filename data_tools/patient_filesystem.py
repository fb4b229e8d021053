"""A pyarrow file system that retries while its storage does not answer; given to Ray Train."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, TypeVar

import pyarrow as pa
from pyarrow import fs

from data_tools.storage import StorageFolder, retrying, storage_errors

T = TypeVar("T")


def patient_filesystem(storage: StorageFolder, patience: float) -> fs.PyFileSystem:
    """The storage's file system; each call is retried for ``patience`` seconds.

    Written data goes to a local file, which is uploaded (with retries) when it is closed. So do not write with
    ``pyarrow.fs.copy_files``, which ignores errors from closing; use ``StorageFolder.upload_folder``. Only the place
    is pickled.
    """
    return fs.PyFileSystem(_PatientHandler(StorageFolder(storage.place, patience)))


class _PatientHandler(fs.FileSystemHandler):  # type: ignore[misc]
    def __init__(self, storage: StorageFolder) -> None:
        self._storage = storage

    def __reduce__(self) -> tuple[type[_PatientHandler], tuple[StorageFolder]]:
        return _PatientHandler, (self._storage,)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _PatientHandler) and self._storage == other._storage

    def __hash__(self) -> int:
        return hash(self._storage)

    def get_type_name(self) -> str:
        return f"patient+{self._filesystem.type_name}"

    def normalize_path(self, path: str) -> str:
        normal: str = self._filesystem.normalize_path(path)
        return normal

    def get_file_info(self, paths: list[str]) -> Any:
        return self._try("looking for", paths[0], lambda: self._filesystem.get_file_info(paths))

    def get_file_info_selector(self, selector: fs.FileSelector) -> Any:
        return self._try("listing", selector.base_dir, lambda: self._filesystem.get_file_info(selector))

    def create_dir(self, path: str, recursive: bool) -> None:
        self._try("making", path, lambda: self._filesystem.create_dir(path, recursive=recursive))

    def delete_dir(self, path: str) -> None:
        self._try("removing", path, lambda: self._filesystem.delete_dir(path))

    def delete_dir_contents(self, path: str, missing_dir_ok: bool = False) -> None:
        clear = self._filesystem.delete_dir_contents
        self._try("removing", path, lambda: clear(path, missing_dir_ok=missing_dir_ok))

    def delete_root_dir_contents(self) -> None:
        raise PermissionError("refusing to empty a whole storage")

    def delete_file(self, path: str) -> None:
        self._try("removing", path, lambda: self._filesystem.delete_file(path))

    def move(self, src: str, dest: str) -> None:
        self._try("moving", src, lambda: self._filesystem.move(src, dest))

    def copy_file(self, src: str, dest: str) -> None:
        self._try("copying", src, lambda: self._filesystem.copy_file(src, dest))

    def open_input_stream(self, path: str) -> Any:
        return self._try("reading", path, lambda: self._filesystem.open_input_stream(path, compression=None))

    def open_input_file(self, path: str) -> Any:
        return self._try("reading", path, lambda: self._filesystem.open_input_file(path))

    def open_output_stream(self, path: str, metadata: Any) -> Any:  # noqa: ARG002
        return pa.PythonFile(_Upload(lambda local: self._put(local, path)), mode="w")

    def open_append_stream(self, path: str, metadata: Any) -> Any:
        return self._try("writing", path, lambda: self._filesystem.open_append_stream(path, metadata=metadata))

    @property
    def _filesystem(self) -> fs.FileSystem:
        return self._storage.filesystem

    def _put(self, local: Path, path: str) -> None:
        # Not through a stream: on an error, it would leave a half-written file.
        self._try("writing", path, lambda: fs.copy_files(str(local), path, fs.LocalFileSystem(), self._filesystem))

    def _try(self, verb: str, path: str, action: Callable[[], T]) -> T:
        def attempt() -> T:
            with storage_errors(path):
                return action()

        return retrying(attempt, f"{verb} {path}", patience=self._storage.patience)


class _Upload:
    """A local file that is uploaded when it is closed."""

    def __init__(self, put: Callable[[Path], None]) -> None:
        self._put, self._file = put, NamedTemporaryFile(prefix="ccvid-")  # noqa: SIM115

    @property
    def closed(self) -> bool:
        return self._file.closed

    def writable(self) -> bool:
        return True

    def readable(self) -> bool:
        return False

    def seekable(self) -> bool:
        return False

    def tell(self) -> int:
        return self._file.tell()

    def write(self, content: Any) -> int:
        return self._file.write(content)

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        if not self._file.closed:
            with self._file:
                self._file.flush()
                self._put(Path(self._file.name))

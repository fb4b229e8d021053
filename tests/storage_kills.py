"""Kills of the storage's work, at any step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from data_tools.storage import StorageFolder


class KilledError(BaseException):
    pass


@contextmanager
def killed_at(step: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The storage's ``step``-th change is not made, and nothing after it."""
    done: list[str] = []
    with monkeypatch.context() as patched:
        for name in ("new_file", "delete"):
            original: Any = getattr(StorageFolder, name)

            def change(self: StorageFolder, file: str, original: Any = original, name: str = name) -> Any:
                if len(done) == step:
                    raise KilledError
                done.append(f"{name} {file}")
                return original(self, file)

            patched.setattr(StorageFolder, name, change)
        yield done

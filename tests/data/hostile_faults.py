"""Readers with one fault each, which show that the campaign of hostile inputs finds faults."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from data_tools.errors import InputError, UnreadableSourceError
from tests.data.hostile_samples import OUTSIDE_FOLDER, Kind, Sample

HANG_SECONDS = 3.0
"""How long the campaign waits for these readers."""


def _raise_untyped(folder: Path) -> None:
    raise ValueError(f"{folder}: what no command expects")


def _hang(_folder: Path) -> None:
    time.sleep(600)


def _loop(_folder: Path) -> None:
    while True:
        pass


def _die(_folder: Path) -> None:
    os.kill(os.getpid(), 11)


def _recurse(folder: Path) -> None:
    _recurse(folder)


def _fill_memory(_folder: Path) -> None:
    filled = [bytes([number % 255 + 1]) * 2**20 for number in range(600)]
    filled.clear()


def _exhaust_memory(_folder: Path) -> None:
    bytearray(2**40)


def _write_beside(folder: Path) -> None:
    (folder / ".." / "beside.txt").write_text("x")
    (folder / ".." / "beside.txt").unlink()


def _write_here(_folder: Path) -> None:
    Path("here.txt").write_text("x")
    Path("here.txt").unlink()


def _remove_beside(folder: Path) -> None:
    (folder.parents[1] / OUTSIDE_FOLDER / "nothing").unlink(missing_ok=True)


def _read_secret(folder: Path) -> None:
    (folder.parents[1] / OUTSIDE_FOLDER / "secret.txt").read_text()


def _run_program(_folder: Path) -> None:
    os.system("true")


def _say_much(folder: Path) -> None:
    raise InputError("\n".join(f"{folder}: problem {number}" for number in range(1000)))


def _say_nothing(_folder: Path) -> None:
    raise InputError("something is wrong somewhere")


def _refuse(folder: Path) -> None:
    raise UnreadableSourceError(f"{folder / 'file.txt'}: is not what was expected")


def _read(folder: Path) -> None:
    (folder / "written.txt").write_bytes((folder / "file.txt").read_bytes())


FAULTS: dict[str, tuple[str, Callable[[Path], None]]] = {
    "untyped": ("untyped", _raise_untyped),
    "endless recursion": ("untyped", _recurse),
    "dies": ("untyped", _die),
    "no memory": ("untyped", _exhaust_memory),
    "long message": ("untyped", _say_much),
    "message without a name": ("untyped", _say_nothing),
    "sleeps": ("hung", _hang),
    "loops": ("hung", _loop),
    "much memory": ("too large", _fill_memory),
    "writes beside": ("outside", _write_beside),
    "writes where it stands": ("outside", _write_here),
    "removes": ("outside", _remove_beside),
    "reads the secret": ("outside", _read_secret),
    "runs a program": ("outside", _run_program),
    "refuses": ("refused", _refuse),
    "reads": ("read", _read),
}
"""What the campaign must report for each reader."""

KINDS = {
    name: Kind(1, {"file": Sample(lambda folder: (folder / "file.txt").write_text("1,2,3\n"), ("*.txt",), read)})
    for name, (_, read) in FAULTS.items()
}

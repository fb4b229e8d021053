"""Make, read under watch and judge one hostile input after another. Runs in processes that may be killed."""

from __future__ import annotations

import importlib
import os
import random
import resource
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Literal

from data_tools.errors import InputError
from tests.data.hostile_forgeries import FORGERIES
from tests.data.hostile_mutations import BYTES, OUTSIDE, TEXT, Mutator, change_json, change_yaml
from tests.data.hostile_samples import OUTSIDE_FOLDER, REMOTE, SECRET, SECRET_TEXT, Kind, choose, make_secret
from video_backbones import BackboneError

Verdict = Literal["read", "refused", "untyped", "hung", "too large", "outside"]
WELL: tuple[Verdict, ...] = ("read", "refused")

HOLE_BYTES = 3 * 2**30
HEADROOM = 4 * 2**30
"""Address space that a reader may use beyond what is there at the start: no input may take the machine down."""
CHILD_BYTES = 200 * 2**20
"""Memory that a decoding process needs before it reads anything."""
LONGEST_LINE, MOST_LINES = 2000, 60
"""Longest message; a list of problems has one line for each."""
TEXT_SUFFIXES = (".txt", ".csv", ".tsv", ".json", ".yaml", ".xml", ".ini")
DECODING = "data_tools.decoding_process"


@dataclass(frozen=True, slots=True)
class Setup:
    """What all workers of a campaign share."""

    seed: int
    kinds: str
    """The module that has ``KINDS``."""
    root: Path
    """Holds ``samples``, ``outside`` and one folder per worker."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one input was handled."""

    number: int
    kind: str
    sample: str
    verdict: Verdict
    message: str = ""
    detail: str = ""
    """A traceback."""
    peak_bytes: int = 0
    seconds: float = 0.0


def kinds_of(setup: Setup) -> Mapping[str, Kind]:
    """Every kind of input."""
    found: Mapping[str, Kind] = importlib.import_module(setup.kinds).KINDS
    return found


def make_samples(setup: Setup) -> None:
    """Write all valid files, and the secret that nothing may touch."""
    for kind_name, kind in kinds_of(setup).items():
        for name, sample in kind.samples.items():
            folder = setup.root / "samples" / kind_name / name
            folder.mkdir(parents=True)
            sample.make(folder)
    (setup.root / SECRET).parent.mkdir()
    make_secret(setup.root)


def kind_of(setup: Setup, number: int) -> str:
    """The kind of an input, without making it."""
    return choose(random.Random(f"{setup.seed}:{number}"), kinds_of(setup))[0]


# Making --------------------------------------------------------------------------------------------------------------


def make_input(setup: Setup, number: int, folder: Path) -> tuple[str, str]:
    """Write an input into a folder that is not there; returns its kind and its sample. The same seed and number give
    the same input."""
    rng, kinds = random.Random(f"{setup.seed}:{number}"), kinds_of(setup)
    kind, name = choose(rng, kinds)
    sample, samples = kinds[kind].samples[name], setup.root / "samples"
    shutil.copytree(samples / kind / name, folder)
    targets = sorted({path for glob in sample.targets for path in folder.glob(glob) if path.is_file()})
    for path in rng.sample(targets, min(len(targets), 1 if rng.random() < 0.9 else 2)):
        others = [rng.choice(_files(place)).read_bytes() for place in (samples / kind, samples)]
        content, first = path.read_bytes(), True
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            content = _mutator(rng, path.suffix, forge=first)(rng, content, others)
            first = False
        path.write_bytes(content)
    if sample.seal is not None and rng.random() < 0.75:
        sample.seal(folder)
    if rng.random() < 0.02:
        _replace(rng, rng.choice(targets))
    return kind, name


def _replace(rng: random.Random, path: Path) -> None:
    """Replace a file by none, by one that is not a regular file, or by an endless one."""
    path.unlink()
    way = rng.choice(("nothing", "folder", "loop", "link", "hole", "hole"))
    if way == "folder":
        path.mkdir()
    elif way == "loop":
        path.symlink_to(path.name)
    elif way == "link":
        path.symlink_to(f"{OUTSIDE}/new")
    elif way == "hole":
        with path.open("wb") as file:
            file.truncate(HOLE_BYTES)


@cache
def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _mutator(rng: random.Random, suffix: str, *, forge: bool) -> Mutator:
    """A forged file is mutated further, but not forged again: that would inflate its bombs here."""
    if forge and suffix in FORGERIES and rng.random() < 0.4:
        return FORGERIES[suffix]
    if forge and suffix in (".json", ".yaml") and rng.random() < 0.6:
        return change_json if suffix == ".json" else change_yaml
    return rng.choice(TEXT if suffix in TEXT_SUFFIXES and rng.random() < 0.7 else BYTES)


# Watching ------------------------------------------------------------------------------------------------------------


class _Watch:
    """Record what this process writes outside the allowed folders, and what else it touches."""

    PATHS: Mapping[str, tuple[int, ...]] = {
        **dict.fromkeys(("os.remove", "os.rmdir", "os.mkdir", "os.truncate", "os.chmod", "os.chown", "os.utime"), (0,)),
        **dict.fromkeys(("os.rename", "os.link"), (0, 1)),
        "os.symlink": (1,),
    }
    FOLLOWING = ("open", "os.truncate", "os.chmod", "os.chown", "os.utime")
    """Calls that follow links."""
    FORBIDDEN = (
        "socket.connect",
        "socket.getaddrinfo",
        "socket.bind",
        "os.system",
        "os.exec",
        "os.posix_spawn",
        "os.fork",
    )
    WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

    def __init__(self, outside: Path) -> None:
        self._outside = str(outside)
        self._allowed: tuple[str, ...] | None = None
        self.found: list[str] = []
        sys.addaudithook(self._hook)

    def start(self, *allowed: Path) -> None:
        self.found = []
        self._allowed = tuple(f"{path}/" for path in allowed)

    def stop(self) -> None:
        self._allowed = None

    def _hook(self, event: str, arguments: tuple[object, ...]) -> None:
        if self._allowed is None:
            return
        if event == "open":
            path, _, flags = arguments
            if isinstance(path, str | bytes):
                if isinstance(flags, int) and flags & self.WRITING:
                    self._check(event, path, -1)
                elif self._outside in os.path.abspath(os.fsdecode(path)):  # a link there is the user's own
                    self.found.append(f"{event} {os.fsdecode(path)!r}")
        elif event in self.PATHS:
            for place in self.PATHS[event]:
                path, at = arguments[place], arguments[-1]
                if isinstance(path, str | bytes):
                    self._check(event, path, at if isinstance(at, int) and event != "os.truncate" else -1)
        elif event in self.FORBIDDEN or (event == "subprocess.Popen" and not _is_usual(str(arguments[1]))):
            self.found.append(f"{event} {arguments!r:.200}")

    def _check(self, event: str, path: str | bytes, folder: int) -> None:
        base = os.readlink(f"/proc/self/fd/{folder}") if folder >= 0 else os.getcwd()
        real = os.path.join(base, os.fsdecode(path))
        if event in self.FOLLOWING:
            real = os.path.realpath(real)
        else:
            real = os.path.join(os.path.realpath(os.path.dirname(real)), os.path.basename(real))
        if self._allowed is not None and real != os.devnull and not f"{real}/".startswith(self._allowed):
            self.found.append(f"{event} {real!r}")


def _is_usual(command: str) -> bool:
    """Allowed processes: the decoding process, or ctypes' search for a library when a module is first imported."""
    return DECODING in command or "ldconfig" in command


class _Memory:
    """How much the memory of this process and of its decoding process grows."""

    def __init__(self) -> None:
        self._before: dict[int, int] = {}
        self._largest_dead = 0

    def start(self) -> None:
        self._before = {}
        self._largest_dead = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        for process in self._processes():
            try:
                Path(f"/proc/{process}/clear_refs").write_text("5")  # reset the peak to the current value
                self._before[process] = _status(process, "VmRSS")
            except (OSError, KeyError):  # ended just now
                continue

    def growth(self) -> int:
        total = 0
        for process in self._processes():
            try:
                total += max(0, _status(process, "VmHWM") - self._before.get(process, CHILD_BYTES))
            except (OSError, KeyError):
                continue
        dead = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        return max(total, dead * 1024 - CHILD_BYTES if dead > self._largest_dead else 0)

    @staticmethod
    def _processes() -> list[int]:
        own = os.getpid()
        return [own, *map(int, Path(f"/proc/{own}/task/{own}/children").read_text().split())]


def _limit_memory(size: int) -> None:
    """Limit the address space of this process and of its children."""
    resource.setrlimit(resource.RLIMIT_AS, (size, resource.RLIM_INFINITY))


def _status(process: int, name: str) -> int:
    """Bytes from a line of /proc/PID/status."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return int(dict(line.split(":", 1) for line in lines)[name].split()[0]) * 1024


# Judging -------------------------------------------------------------------------------------------------------------


def is_refusal(error: BaseException) -> bool:
    """Whether commands show the error as one message (see ``ray_jobs.cli.run_job``)."""
    if isinstance(error, OSError):
        return error.errno is not None and error.filename is not None
    return isinstance(error, InputError | BackboneError)


def unfit(message: str, folder: Path) -> str | None:
    """What is wrong with a message; it must name the file, or the tracklet stored in it."""
    lines = message.split("\n")
    if len(lines) > MOST_LINES or max(map(len, lines)) > LONGEST_LINE:
        return f"a message of {len(message)} characters in {len(lines)} lines"
    if any(ord(character) < 32 or 0xD800 <= ord(character) < 0xE000 for line in lines for character in line):
        return "a message that a terminal does not show"
    if not any(name in message for name in (str(folder), REMOTE, "tracklet ")):
        return "a message that names neither file nor tracklet"
    return None


class Worker:
    """Tries inputs in its own folder."""

    def __init__(self, setup: Setup) -> None:
        self._setup, self._kinds = setup, kinds_of(setup)
        self._base = Path(tempfile.mkdtemp(prefix="work-", dir=setup.root))
        # At the same depth below the root as a path that climbs to the secret expects.
        self.folder, self._scratch, elsewhere = (self._base / name for name in ("in", "scratch", "elsewhere"))
        self._scratch.mkdir()
        elsewhere.mkdir()
        os.chdir(elsewhere)
        os.environ["TMPDIR"] = os.environ["MPLCONFIGDIR"] = str(self._scratch)
        tempfile.tempdir = str(self._scratch)
        sys.dont_write_bytecode = True
        self._outside = setup.root / OUTSIDE_FOLDER
        self._expected = self._surroundings()
        self._watch, self._memory = _Watch(self._outside), _Memory()

    def attempt(self, number: int) -> Outcome:
        """Make an input, read it and judge the outcome."""
        kind, sample = make_input(self._setup, number, self.folder)
        outcome = Outcome(number, kind, sample, "read")
        self._memory.start()
        _limit_memory(_status(os.getpid(), "VmSize") + HEADROOM)
        began = time.monotonic()
        self._watch.start(self.folder, self._scratch)
        try:
            self._kinds[kind].samples[sample].read(self.folder)
        except BaseException as error:
            outcome = self._judged(outcome, error)
        finally:
            self._watch.stop()
            _limit_memory(resource.RLIM_INFINITY)
        outcome = replace(outcome, seconds=time.monotonic() - began, peak_bytes=self._memory.growth())
        surroundings = self._surroundings()
        if self._watch.found or surroundings != self._expected:
            touched = self._watch.found or [f"{sorted(surroundings)}, expected {sorted(self._expected)}"]
            outcome = replace(outcome, verdict="outside", message="; ".join(touched)[:LONGEST_LINE])
        elif outcome.verdict in WELL and outcome.peak_bytes > self._kinds[kind].most_bytes:
            message = f"{outcome.peak_bytes / 2**20:.0f} MiB: {outcome.message}"
            outcome = replace(outcome, verdict="too large", message=message)
        self.clear()
        return outcome

    def _judged(self, outcome: Outcome, error: BaseException) -> Outcome:
        try:
            message = str(error)
        except Exception as fault:
            message = f"{type(error).__name__} without a message: {fault!r}"
        if is_refusal(error):
            problem = unfit(message, self.folder)
            if problem is None:
                return replace(outcome, verdict="refused", message=message)
            message = f"{problem}: {message}"
        else:
            message = f"{type(error).__name__}: {message}"
        detail = traceback.format_exc(limit=-12)[-8000:]
        shown = message[:LONGEST_LINE].encode("utf-8", "backslashreplace").decode()
        return replace(
            outcome, verdict="untyped", message=shown, detail=detail.encode("utf-8", "backslashreplace").decode()
        )

    def _surroundings(self) -> frozenset[tuple[str, int]]:
        """What is around the requested folder, with sizes, except the work of other workers."""
        places = [path for folder in (self._outside, self._base / "elsewhere") for path in folder.rglob("*")]
        places += [path for path in self._base.iterdir() if path != self.folder]
        places += [path for path in self._setup.root.iterdir() if not path.name.startswith("work-")]
        return frozenset((str(path), path.stat().st_size if path.is_file() else 0) for path in places)

    def clear(self) -> None:
        """Remove what an input left behind."""
        shutil.rmtree(self.folder, ignore_errors=True)
        for path in self._scratch.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink()


def work(connection: Connection, setup: Setup, *, quiet: bool = True) -> None:
    """Try the inputs whose numbers arrive, and send their outcomes, until None arrives."""
    os.setpgrp()  # so that it is killed together with its decoding process
    if quiet:
        for stream in (1, 2):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    assert (setup.root / SECRET).with_suffix(".txt").read_text() == SECRET_TEXT
    worker = Worker(setup)
    for number in iter(connection.recv, None):
        try:
            outcome = worker.attempt(number)
        except Exception as error:  # these are the campaign's, and must not be blamed on the reader
            worker.clear()
            detail = traceback.format_exc()
            outcome = Outcome(number, kind_of(setup, number), "", "untyped", f"in the campaign: {error!r}", detail)
        connection.send(outcome)

"""Feeds mutated and forged inputs of every kind to the product's readers, and counts how each was taken.

    python -m tests.data.hostile_campaign --inputs 100000 --seed 1
    python -m tests.data.hostile_campaign --seed 1 --only 4711

Right is an input that is read, or refused by a typed error in a message of bounded length that names it, within
bounded time and memory, with nothing written (or read) beside the folder asked for. Inputs that were taken otherwise
are kept in a folder, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from multiprocessing import get_context
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from tests.data.hostile_worker import (
    WELL,
    Outcome,
    Setup,
    Verdict,
    kind_of,
    kinds_of,
    make_input,
    make_samples,
    work,
)

KINDS = "tests.data.hostile_kinds"
WORKERS = 2
HANG_SECONDS = 100.0
"""Shorter than the product's retries of silent storage; a long video may take a minute on a busy machine."""
LINE_SECONDS = 10.0
COLUMNS: tuple[Verdict, ...] = ("read", "refused", "untyped", "hung", "too large", "outside")


@dataclass(slots=True)
class Tally:
    """Counts for one kind of input."""

    verdicts: Counter[Verdict] = field(default_factory=Counter)
    largest: Outcome | None = None
    longest: Outcome | None = None

    def add(self, outcome: Outcome) -> None:
        self.verdicts[outcome.verdict] += 1
        if self.largest is None or outcome.peak_bytes > self.largest.peak_bytes:
            self.largest = outcome
        if self.longest is None or outcome.seconds > self.longest.seconds:
            self.longest = outcome


@dataclass(slots=True)
class Result:
    """Counts for a campaign: a tally per kind, and every input that was not handled as it should be."""

    tallies: dict[str, Tally]
    faults: list[Outcome] = field(default_factory=list)
    given_up: Counter[str] = field(default_factory=Counter)
    """Videos refused because their decoding process had to be killed or exited."""

    def add(self, outcome: Outcome) -> None:
        self.tallies[outcome.kind].add(outcome)
        if outcome.verdict not in WELL:
            self.faults.append(outcome)
        for what in ("made no progress", "the decoding process crashed"):
            self.given_up[what] += what in outcome.message

    def table(self) -> str:
        """One row per kind; the largest memory and the longest time are followed by the input that needed them."""
        lines = [f"| kind | inputs | {' | '.join(COLUMNS)} | peak MiB | longest s |", f"|---|{'---:|' * 9}"]
        total = Tally()
        for name, tally in self.tallies.items():
            if tally.largest is not None and tally.longest is not None:
                lines.append(_row(name, tally.verdicts, tally.largest, tally.longest))
                total.verdicts += tally.verdicts
                total.largest = max(total.largest or tally.largest, tally.largest, key=lambda found: found.peak_bytes)
                total.longest = max(total.longest or tally.longest, tally.longest, key=lambda found: found.seconds)
        if total.largest is not None and total.longest is not None:
            lines.append(_row("all", total.verdicts, total.largest, total.longest))
        return "\n".join(lines)

    def distinct_faults(self) -> list[tuple[int, Outcome]]:
        """How often each fault was found, and the first input that showed it; most frequent first."""
        groups: dict[tuple[str, str, str], list[Outcome]] = {}
        for fault in self.faults:
            groups.setdefault((fault.kind, fault.verdict, _gist(fault)), []).append(fault)
        return sorted(((len(group), group[0]) for group in groups.values()), key=lambda item: -item[0])


def _row(name: str, verdicts: Counter[Verdict], largest: Outcome, longest: Outcome) -> str:
    counts = (verdicts.total(), *(verdicts[column] for column in COLUMNS))
    figures = f"{largest.peak_bytes / 2**20:.0f} (#{largest.number}) | {longest.seconds:.1f} (#{longest.number})"
    return f"| {name} | {' | '.join(f'{count:,}' for count in counts)} | {figures} |"


def _gist(fault: Outcome) -> str:
    """What faults of one cause have in common: the line of code, or the words of the message."""
    places = re.findall(r'File "([^"]+)", line (\d+)', fault.detail)
    own = [place for place in places if "/tests/" not in place[0] and "/site-packages/" not in place[0]]
    return f"{fault.message[:25]} {own[-1]}" if own else re.sub(r"\W*\d+\W*", "", fault.message)[:60]


class _Slot:
    """A worker process and its current input."""

    def __init__(self, setup: Setup, hang_seconds: float) -> None:
        self._setup, self._hang_seconds = setup, hang_seconds
        self.number: int | None = None
        self._began = 0.0
        self._start()

    def _start(self) -> None:
        context = get_context("forkserver")
        self.connection, theirs = context.Pipe()
        self._process: ForkServerProcess = context.Process(target=work, args=(theirs, self._setup), daemon=False)
        self._process.start()
        theirs.close()

    def give(self, number: int) -> None:
        self.number, self._began = number, time.monotonic()
        self.connection.send(number)

    def take(self) -> tuple[int, Outcome | Verdict, str] | None:
        """The number and its outcome, or why there is none; None while it is running."""
        number = self.number
        if number is None:
            return None
        seconds = time.monotonic() - self._began
        if self.connection.poll():
            self.number = None
            try:
                outcome: Outcome = self.connection.recv()
                return number, outcome, ""
            except (EOFError, ConnectionResetError):
                self._process.join()
                self._restart()
                return number, "untyped", f"the process died: exit code {self._process_code}"
        if seconds > self._hang_seconds:
            self.number = None
            self._restart()
            return number, "hung", f"no end within {self._hang_seconds:g} s"
        return None

    def close(self) -> None:
        self._kill()

    def _restart(self) -> None:
        self._kill()
        self._start()

    def _kill(self) -> None:
        """Kill it together with its decoding process, which is in its process group."""
        pid = self._process.pid
        assert pid is not None
        with suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        self._process.join()
        self._process_code = self._process.exitcode
        self.connection.close()


@contextmanager
def prepared(seed: int, kinds: str = KINDS) -> Iterator[Setup]:
    """A folder with the valid files of all kinds, for the duration of the block."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    get_context("forkserver").set_forkserver_preload(["tests.data.hostile_worker", kinds])
    with tempfile.TemporaryDirectory(prefix="ccvid-hostile-") as root:
        setup = Setup(seed, kinds, Path(root).resolve())
        maker = get_context("forkserver").Process(target=make_samples, args=(setup,))
        maker.start()
        maker.join()
        if maker.exitcode:
            raise RuntimeError("the valid files cannot be made")
        yield setup


def run_campaign(
    setup: Setup,
    numbers: Sequence[int],
    *,
    workers: int = WORKERS,
    hang_seconds: float = HANG_SECONDS,
    kept: Path | None = None,
    progress: bool = False,
) -> Result:
    """Try the inputs of these numbers.

    Args:
        kept: where inputs that were not taken as they should are written, each in a folder of its own.
    """
    result = Result({name: Tally() for name in kinds_of(setup)})
    waiting, done = iter(numbers), 0
    began = printed = time.monotonic()
    slots = [_Slot(setup, hang_seconds) for _ in range(min(workers, len(numbers)))]
    try:
        for slot in slots:
            slot.give(next(waiting))
        while done < len(numbers):
            wait([slot.connection for slot in slots if slot.number is not None], timeout=1.0)
            for slot in slots:
                taken = slot.take()
                if taken is None:
                    continue
                done += 1
                outcome = _outcome(setup, *taken)
                result.add(outcome)
                if outcome.verdict not in WELL and kept is not None:
                    _keep(setup, outcome, kept)
                if (number := next(waiting, None)) is not None:
                    slot.give(number)
            if progress and time.monotonic() - printed > LINE_SECONDS:
                printed = time.monotonic()
                _print_progress(done, len(numbers), printed - began, len(result.faults))
    finally:
        for slot in slots:
            slot.close()
    return result


def _outcome(setup: Setup, number: int, found: Outcome | Verdict, message: str) -> Outcome:
    if isinstance(found, Outcome):
        return found
    with tempfile.TemporaryDirectory() as folder:
        kind, sample = make_input(setup, number, Path(folder) / "in")
    return Outcome(number, kind, sample, found, message)


def _keep(setup: Setup, outcome: Outcome, kept: Path) -> None:
    folder = kept / f"{setup.seed}-{outcome.number}-{outcome.kind.replace(' ', '-')}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    make_input(setup, outcome.number, folder / "input")
    (folder / "verdict.txt").write_text(
        f"python -m tests.data.hostile_campaign --seed {setup.seed} --only {outcome.number}\n"
        f"{outcome.kind}, {outcome.sample}: {outcome.verdict}\n{outcome.message}\n{outcome.detail}"
    )


def _print_progress(done: int, count: int, seconds: float, faults: int) -> None:
    left = timedelta(seconds=round(seconds / done * (count - done))) if done else "unknown time"
    print(
        f"{done:,} of {count:,} inputs, {done / seconds:.0f}/s, {left} left; {faults} faults",
        file=sys.stderr,
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=100_000, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=1, help="default: %(default)s")
    parser.add_argument("--only", type=int, nargs="+", metavar="NUMBER", help="try these inputs alone")
    parser.add_argument("--workers", type=int, default=WORKERS, help="processes; default: %(default)s")
    parser.add_argument("--hang-seconds", type=float, default=HANG_SECONDS, help="default: %(default)s")
    parser.add_argument("--kept", type=Path, help="where faulty inputs are written; default: ccvid-hostile-SEED in the "
                        "folder of temporary files")  # fmt: skip
    parser.add_argument("--kinds", nargs="+", metavar="KIND", help="of all these inputs, those of some kinds alone")
    arguments = parser.parse_args()
    kept = arguments.kept or Path(tempfile.gettempdir()) / f"ccvid-hostile-{arguments.seed}"
    began = time.monotonic()
    with prepared(arguments.seed) as setup:
        numbers: Sequence[int] = arguments.only or range(arguments.inputs)
        if arguments.kinds:
            numbers = [number for number in numbers if kind_of(setup, number) in arguments.kinds]
        result = run_campaign(
            setup,
            numbers,
            workers=arguments.workers,
            hang_seconds=arguments.hang_seconds,
            kept=kept,
            progress=True,
        )
    print(f"\nseed {setup.seed}, {len(numbers):,} inputs, {timedelta(seconds=round(time.monotonic() - began))}\n")
    print(result.table())
    print(f"\nof the refused, given up with their decoding process: {dict(result.given_up)}")
    for count, fault in result.distinct_faults():
        print(
            f"\n{count} x {fault.kind}, {fault.verdict}; first {fault.sample}, --only {fault.number}: {fault.message}"
        )
        if arguments.only:
            print(fault.detail)
    if result.faults:
        print(f"\n{len(result.faults)} inputs were not taken as they should be; they are kept in {kept}")
    sys.exit(1 if result.faults else 0)


if __name__ == "__main__":
    main()

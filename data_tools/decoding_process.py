"""Decoding in a child process that can be killed, because decoders may hang or crash on a damaged file.

    caller ──function and arguments──▶ child, one for all sources: runs the generator function
    caller ◀──what it yields, in batches of 1 MiB; a heartbeat every second── child

A source that makes no progress for too long, or crashes the child, is abandoned with the reason; the next one gets a
new child.
"""

from __future__ import annotations

import atexit
import importlib
import math
import os
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Any, TypeAlias, TypeVar

from data_tools.errors import UnreadableSourceError
from data_tools.wording import one_line

HANG_SECONDS = 120.0
START_SECONDS = 600.0
"""Limit for starting the child and importing what it runs; a busy machine takes a while."""
DECODERS = ("av", "decord")
"""Imported at the start, so that the time it takes does not count against a source."""
BATCH_BYTES = 2**20
"""Approximate size of a message to the caller."""
PULSE_SECONDS = 1.0

Item = TypeVar("Item")
Answer: TypeAlias = tuple[Sequence[Any], bool, UnreadableSourceError | str | None]
"""Items, whether they are the last, and the error: the function's own, or the text of any other."""


class DecodingProcess:
    """A child process that runs one generator function after another; started on first use. Not thread-safe."""

    def __init__(self) -> None:
        self._child: subprocess.Popen[bytes] | None = None
        self._waiting_since: float | None = None
        self._hang_seconds = HANG_SECONDS
        self._end = math.inf
        self._stopped = ""
        self.owner = os.getpid()

    def run(
        self,
        function: Callable[..., Iterator[Item]],
        *arguments: object,
        what: object,
        hang_seconds: float = HANG_SECONDS,
        most_seconds: float = math.inf,
    ) -> Iterator[Item]:
        """Yield what ``function(pulse, *arguments)`` yields in the child; each yield or ``pulse()`` signals progress.

        Args:
            function: a module-level function; arguments and items are pickled.
            what: the source, for messages.
            hang_seconds: the child is killed after this long without progress.
            most_seconds: the child is killed after this long, if the caller then waits for it.

        Raises:
            UnreadableSourceError: raised by the function, or the function failed, hung, or its process died.
        """
        child = self._send(pickle.dumps((function, arguments)))
        assert child.stdout is not None
        finished, limit = False, START_SECONDS
        self._end = math.inf
        try:
            while not finished:
                items, finished, error = self._receive(child, what, limit)
                if limit is START_SECONDS:
                    limit, self._end = hang_seconds, time.monotonic() + most_seconds
                yield from items
                if isinstance(error, str):
                    raise UnreadableSourceError(f"{what}: decoding failed: {error}")
                if error is not None:
                    raise error
        finally:
            if not finished:
                self.close()

    def close(self) -> None:
        """Kill the child."""
        child, self._child = self._child, None
        if child is not None:
            child.kill()
            child.communicate()

    def _send(self, job: bytes) -> subprocess.Popen[bytes]:
        """Send the job to the child, or to a new one if it has died, and return the child."""
        for _ in range(2):
            child = self._child or self._start()
            assert child.stdin is not None
            try:
                child.stdin.write(job)
                child.stdin.flush()
                return child
            except BrokenPipeError:
                self.close()
        raise UnreadableSourceError("the decoding process cannot be started")

    def _start(self) -> subprocess.Popen[bytes]:
        child = subprocess.Popen(
            [sys.executable, "-m", "data_tools.decoding_process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)},
        )
        self._child, self._stopped = child, ""  # before the watching thread reads them
        threading.Thread(target=self._watch, args=(child,), daemon=True, name="decoding watch").start()
        return child

    def _receive(self, child: subprocess.Popen[bytes], what: object, limit: float) -> Answer:
        self._hang_seconds, self._waiting_since = limit, time.monotonic()
        try:
            message: Answer = pickle.load(child.stdout)  # type: ignore[arg-type]
        except (EOFError, pickle.UnpicklingError, OSError):
            code = child.wait()
            reason = self._stopped or f"the decoding process crashed on it (exit code {code})"
            raise UnreadableSourceError(f"{what}: {reason}") from None
        finally:
            self._waiting_since = None
        return message

    def _watch(self, child: subprocess.Popen[bytes]) -> None:
        """Kill the child when the caller has waited too long for it; the caller's own work does not count."""
        while child.poll() is None and child is self._child:
            since, now = self._waiting_since, time.monotonic()
            if since is not None and now - since > self._hang_seconds:
                self._stopped = f"decoding made no progress for {self._hang_seconds:g} s and was stopped"
            elif since is not None and now > self._end:
                self._stopped = "decoding took too long and was stopped"
            if self._stopped:
                child.kill()
                return
            time.sleep(min(1.0, self._hang_seconds / 4))


_shared: DecodingProcess | None = None


def decoding_process() -> DecodingProcess:
    """The decoding process of this process."""
    global _shared
    if _shared is None or _shared.owner != os.getpid():
        _shared = DecodingProcess()
        atexit.register(_shared.close)
    return _shared


class _Sender:
    """Collects what is yielded; sends it when there is enough or a second has passed."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._items: list[object] = []
        self._bytes = 0
        self._sent = time.monotonic()

    def pulse(self) -> None:
        if time.monotonic() - self._sent > PULSE_SECONDS:
            self.send()

    def add(self, item: object) -> None:
        self._items.append(item)
        self._bytes += sum(len(part) for part in item if isinstance(part, bytes)) if isinstance(item, tuple) else 0
        if self._bytes > BATCH_BYTES:
            self.send()
        else:
            self.pulse()

    def send(self, *, finished: bool = False, error: UnreadableSourceError | str | None = None) -> None:
        """Send the items collected so far. ``error`` is the function's own, or the text of any other."""
        pickle.dump((self._items, finished, error), self._stream, protocol=pickle.HIGHEST_PROTOCOL)
        self._stream.flush()
        self._items, self._bytes, self._sent = [], 0, time.monotonic()


def _serve(jobs: IO[bytes], results: IO[bytes]) -> None:
    sender = _Sender(results)
    while True:
        try:
            function, arguments = pickle.load(jobs)
        except EOFError:
            return
        sender.send()  # from now on, the caller's limit is hang_seconds
        error: UnreadableSourceError | str | None = None
        try:
            for item in function(sender.pulse, *arguments):
                sender.add(item)
        except UnreadableSourceError as unreadable:
            error = unreadable
        except Exception as fault:
            error = f"{type(fault).__name__}: {one_line(fault)}"
        sender.send(finished=True, error=error)


def _end_with(parent: int) -> None:
    """Exit soon after the parent, even while a decoder is busy and does not notice the closed pipes."""
    while os.getppid() == parent:
        time.sleep(PULSE_SECONDS)
    os._exit(1)


def _main() -> None:
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    results = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not end up among the results
    for decoder in DECODERS:
        importlib.import_module(decoder)
    try:
        _serve(sys.stdin.buffer, results)
    except (BrokenPipeError, KeyboardInterrupt):
        os._exit(1)


if __name__ == "__main__":
    _main()

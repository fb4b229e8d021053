"""Decoding in a child process that can be ended, for decoders may loop for ever or crash on a damaged file.

    caller ──function and arguments──▶ child, one for all sources: runs the generator function
    caller ◀──what it yields, by the megabyte; a sign of life each second── child

A source that makes no progress for the time named, or kills the child, is given up with its reason; the next one gets a
new child.
"""

from __future__ import annotations

import atexit
import importlib
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
"""The child may take so long to start and to import what it runs; a busy machine takes a while."""
DECODERS = ("av", "decord")
"""Imported at the start, for that may take a while and is no source's fault."""
BATCH_BYTES = 2**20
"""What is sent at a time, about."""
PULSE_SECONDS = 1.0

Item = TypeVar("Item")
Answer: TypeAlias = tuple[Sequence[Any], bool, UnreadableSourceError | str | None]
"""Items, whether they are the last, and what went wrong: the function's own error, or another in words."""


class DecodingProcess:
    """A child process that runs one generator function after another; started when it is first needed.

    For one thread at a time.
    """

    def __init__(self) -> None:
        self._child: subprocess.Popen[bytes] | None = None
        self._waiting_since: float | None = None
        self._hang_seconds = HANG_SECONDS
        self._hung = False
        self.owner = os.getpid()

    def run(
        self,
        function: Callable[..., Iterator[Item]],
        *arguments: object,
        what: object,
        hang_seconds: float = HANG_SECONDS,
    ) -> Iterator[Item]:
        """Yield what ``function(pulse, *arguments)`` yields there; ``pulse()`` tells of progress, as does each yield.

        Args:
            function: found by its module and name; arguments and items are pickled.
            what: the source, for messages.
            hang_seconds: without progress; then the child is killed.

        Raises:
            UnreadableSourceError: raised by the function, or the function failed, hung, or its process died.
        """
        child = self._sent(pickle.dumps((function, arguments)))
        assert child.stdout is not None
        finished, limit = False, START_SECONDS
        try:
            while not finished:
                items, finished, error = self._receive(child, what, limit)
                limit = hang_seconds
                yield from items
                if isinstance(error, str):
                    raise UnreadableSourceError(f"{what}: decoding failed: {error}")
                if error is not None:
                    raise error
        finally:
            if not finished:
                self.close()

    def close(self) -> None:
        """End the child."""
        child, self._child = self._child, None
        if child is not None:
            child.kill()
            child.communicate()

    def _sent(self, job: bytes) -> subprocess.Popen[bytes]:
        """The child, given the job; a new one where the last has died meanwhile."""
        for _ in range(2):
            child = self._child or self._start()
            assert child.stdin is not None
            try:
                child.stdin.write(job)
                child.stdin.flush()
                return child
            except BrokenPipeError:
                self.close()
        raise UnreadableSourceError("a process for decoding cannot be started")

    def _start(self) -> subprocess.Popen[bytes]:
        child = subprocess.Popen(
            [sys.executable, "-m", "data_tools.decoding_process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)},
        )
        self._child, self._hung = child, False  # before the watch looks
        threading.Thread(target=self._watch, args=(child,), daemon=True, name="decoding watch").start()
        return child

    def _receive(self, child: subprocess.Popen[bytes], what: object, limit: float) -> Answer:
        self._hang_seconds, self._waiting_since = limit, time.monotonic()
        try:
            message: Answer = pickle.load(child.stdout)  # type: ignore[arg-type]
        except (EOFError, pickle.UnpicklingError, OSError):
            code = child.wait()
            reason = (
                f"decoding made no progress for {self._hang_seconds:g} s and was ended"
                if self._hung
                else f"decoding it killed the decoder's process (exit code {code})"
            )
            raise UnreadableSourceError(f"{what}: {reason}") from None
        finally:
            self._waiting_since = None
        return message

    def _watch(self, child: subprocess.Popen[bytes]) -> None:
        """Kill the child when it has been waited for too long; what its caller does meanwhile does not count."""
        while child.poll() is None and child is self._child:
            since = self._waiting_since
            if since is not None and time.monotonic() - since > self._hang_seconds:
                self._hung = True
                child.kill()
                return
            time.sleep(min(1.0, self._hang_seconds / 4))


_shared: DecodingProcess | None = None


def decoding_process() -> DecodingProcess:
    """This process's own."""
    global _shared
    if _shared is None or _shared.owner != os.getpid():
        _shared = DecodingProcess()
        atexit.register(_shared.close)
    return _shared


class _Sender:
    """Collects what is yielded; sends it when it is much, or old."""

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
        """An error is the function's own, or what else went wrong in it."""
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
        sender.send()  # the work begins
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
    """End this process soon after its parent, whatever it is doing; also where a decoder is deaf to closed pipes."""
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

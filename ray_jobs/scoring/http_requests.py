"""Reading HTTP requests of anybody: within limits of size, time and rate, or refused with one clear reason."""

from __future__ import annotations

import io
import re
import socket
import threading
import time
from collections.abc import Callable, Mapping
from email.message import Message
from io import BufferedIOBase
from types import MappingProxyType

LONGEST_CHUNK_LINE = 256
MOST_TRAILERS = 32
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,8})[ \t]*(;[^\r\n]*)?\r\n")


class RefusedError(Exception):
    """A request that is answered with an error."""

    def __init__(self, status: int, problem: str, headers: Mapping[str, str] = MappingProxyType({})) -> None:
        super().__init__(problem)
        self.status, self.problem, self.headers = status, problem, headers


class TimedSocket(io.RawIOBase):
    """What a socket receives until a deadline, however slowly it comes; afterwards reading raises ``TimeoutError``."""

    def __init__(self, connection: socket.socket, seconds: float) -> None:
        self._connection = connection
        self.extend(seconds)

    def extend(self, seconds: float) -> None:
        """Set the deadline to so long from now."""
        self._deadline = time.monotonic() + seconds

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the request took too long")
        self._connection.settimeout(left)
        return self._connection.recv_into(buffer)


class RateLimit:
    """At most ``per_second`` requests in the long run, and twice as many (at least one) at once; thread-safe."""

    def __init__(self, per_second: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._most, self._clock = per_second, max(1.0, 2 * per_second), clock
        self._left, self._at = self._most, clock()
        self._lock = threading.Lock()

    def allows(self) -> bool:
        """Whether one more request may pass now, which is then counted."""
        with self._lock:
            now = self._clock()
            self._left = min(self._most, self._left + self._rate * (now - self._at))
            self._at = now
            if self._left < 1:
                return False
            self._left -= 1
            return True


def check_length(headers: Message, most: int) -> int | None:
    """The length that the headers give to the body; None if it comes in chunks.

    Raises:
        RefusedError: there is none, there are two, it is no number, or it is above ``most`` bytes.
    """
    lengths, codings = headers.get_all("Content-Length", []), headers.get_all("Transfer-Encoding", [])
    if codings:
        if lengths or [coding.strip().lower() for coding in codings] != ["chunked"]:
            raise RefusedError(400, "expected either Content-Length or Transfer-Encoding: chunked")
        return None
    if not lengths:
        raise RefusedError(411, "no Content-Length")
    text = lengths[0].strip()
    if len(lengths) > 1 or not (text.isascii() and text.isdecimal()):
        raise RefusedError(400, "Content-Length is not one whole number")
    if len(text) > 18 or int(text) > most:
        raise _too_large(most)
    return int(text)


def read_body(stream: BufferedIOBase, length: int | None, most: int) -> bytes:
    """The body of ``length`` bytes, or in chunks if that is None; never reads more than ``most`` bytes of it.

    Raises:
        RefusedError: it ends early, is not made of chunks, or they exceed ``most``.
        TimeoutError: from the stream.
    """
    if length is not None:
        return _exactly(stream, length)
    chunks: list[bytes] = []
    total = 0
    while size := _chunk_size(stream):
        total += size
        if total > most:
            raise _too_large(most)
        chunks.append(_exactly(stream, size))
        if _exactly(stream, 2) != b"\r\n":
            raise RefusedError(400, "a chunk does not end where its size says")
    for _ in range(MOST_TRAILERS):
        if stream.readline(LONGEST_CHUNK_LINE) in (b"\r\n", b""):
            return b"".join(chunks)
    raise RefusedError(400, "too many trailers after the chunks")


def _chunk_size(stream: BufferedIOBase) -> int:
    found = _CHUNK_SIZE.fullmatch(stream.readline(LONGEST_CHUNK_LINE))
    if found is None:
        raise RefusedError(400, "a chunk does not begin with its size")
    return int(found[1], 16)


def _exactly(stream: BufferedIOBase, count: int) -> bytes:
    content = stream.read(count)
    if len(content) < count:
        raise RefusedError(400, f"the body ends {count - len(content)} bytes early")
    return content


def _too_large(most: int) -> RefusedError:
    return RefusedError(413, f"the body has more than {most} bytes")

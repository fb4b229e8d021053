"""Whether an Arrow file is compressed. pyarrow shows it only after decompressing, which may take unlimited memory."""

from __future__ import annotations

import struct

NOT_LENGTH = 0xFFFFFFFF
"""Marker that precedes a message's length."""
END_BYTES = 10
"""The footer's length and the format's name, at a file's end."""
BLOCK_BYTES = 24


def is_compressed(file: memoryview) -> bool:
    """Whether any record batch of a file that pyarrow has already opened is compressed.

    Format: https://arrow.apache.org/docs/format/Columnar.html#ipc-file-format. Its tables are FlatBuffers, whose fields
    are looked up by number.

    Raises:
        ValueError: it is not an Arrow file.
    """
    try:
        end = len(file) - END_BYTES
        footer = _follow(file, end - _number(file, "<i", end))
        blocks = _field(file, footer, 3)
        if blocks is None:
            return False
        blocks = _follow(file, blocks)
        for place in range(blocks + 4, blocks + 4 + BLOCK_BYTES * _number(file, "<I", blocks), BLOCK_BYTES):
            start = _number(file, "<q", place)
            start += 8 if _number(file, "<I", start) == NOT_LENGTH else 4
            batch = _field(file, _follow(file, start), 2)
            if batch is not None and _field(file, _follow(file, batch), 3) is not None:
                return True
    except struct.error as error:
        raise ValueError(f"not an Arrow file: {error}") from None
    return False


def _field(file: memoryview, table: int, number: int) -> int | None:
    """Offset of a table's field; None if the table lacks it."""
    fields = table - _number(file, "<i", table)
    place = 4 + 2 * number
    offset = _number(file, "<H", fields + place) if place < _number(file, "<H", fields) else 0
    return table + offset if offset else None


def _follow(file: memoryview, place: int) -> int:
    return place + _number(file, "<I", place)


def _number(file: memoryview, kind: str, place: int) -> int:
    if place < 0:
        raise struct.error(f"a number at {place}")
    found: int = struct.unpack_from(kind, file, place)[0]
    return found

"""Whether an Arrow file is compressed. pyarrow shows it only after decompressing, which may take unlimited memory."""

from __future__ import annotations

import struct

NOT_LENGTH = 0xFFFFFFFF
"""Marker that precedes a message's length."""
END_BYTES = 10
"""The footer's length and the format's name, at a file's end."""
BLOCK_BYTES = 24
DICTIONARIES, BATCHES = 2, 3
"""Fields of the footer: places of the dictionaries' and the record batches' messages."""


def is_compressed(file: memoryview) -> bool:
    """Whether any dictionary or record batch of a file that pyarrow has already opened is compressed.

    Format: https://arrow.apache.org/docs/format/Columnar.html#ipc-file-format. Its tables are FlatBuffers, whose fields
    are looked up by number.

    Raises:
        ValueError: it is not an Arrow file.
    """
    try:
        blocks = ((kind, place) for kind in (DICTIONARIES, BATCHES) for place in _blocks(file, kind))
        return any(_is_compressed(file, place, kind) for kind, place in blocks)
    except struct.error as error:
        raise ValueError(f"not an Arrow file: {error}") from None


def is_batch_compressed(file: memoryview, number: int) -> bool:
    """Whether one record batch is compressed, without reading the others; as :func:`is_compressed`."""
    try:
        return _is_compressed(file, _blocks(file, BATCHES)[number], BATCHES)
    except (struct.error, IndexError) as error:
        raise ValueError(f"not an Arrow file: {error}") from None


def _blocks(file: memoryview, kind: int) -> range:
    """Where the footer gives the place of each message."""
    end = len(file) - END_BYTES
    blocks = _field(file, _follow(file, end - _number(file, "<i", end)), kind)
    if blocks is None:
        return range(0)
    blocks = _follow(file, blocks)
    return range(blocks + 4, blocks + 4 + BLOCK_BYTES * _number(file, "<I", blocks), BLOCK_BYTES)


def _is_compressed(file: memoryview, block: int, kind: int) -> bool:
    start = _number(file, "<q", block)
    start += 8 if _number(file, "<I", start) == NOT_LENGTH else 4
    header = _field(file, _follow(file, start), 2)
    if header is not None and kind == DICTIONARIES:
        header = _field(file, _follow(file, header), 1)
    return header is not None and _field(file, _follow(file, header), 3) is not None


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

"""Files forged with knowledge of their format: bombs, code in pickles, absurd shapes, other types, other files' names.

As in ``hostile_mutations`` every forgery takes a generator, a valid content and other files, and gives a new content.
"""

from __future__ import annotations

import io
import json
import pickle
import random
import struct
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.ipc as ipc
import pyarrow.parquet as pq
import safetensors.torch
import torch

from tests.data.hostile_mutations import CLIMBING, NUMBERS, OUTSIDE, TEXTS, VALUES, Mutator, flip_bytes

GIBIBYTE = 2**30
ZEROS = 2**20
BOMB_BYTES = 3 * GIBIBYTE


class Planted:
    """When pickled, it runs code on loading."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.mkdir, (Path("planted"),)


def deflated_zeros(size: int, head: bytes = b"") -> bytes:
    """``head`` followed by ``size`` zeros as a raw deflate stream, made without creating the zeros."""
    squeeze = zlib.compressobj(9, zlib.DEFLATED, -15)
    start = squeeze.compress(head) + squeeze.flush(zlib.Z_FULL_FLUSH)
    chunk = squeeze.compress(bytes(ZEROS)) + squeeze.flush(zlib.Z_FULL_FLUSH)
    return start + chunk * (size // ZEROS) + squeeze.flush()


@cache
def zip_bomb(name: str, head: bytes = b"", others: tuple[tuple[str, bytes], ...] = ()) -> bytes:
    """A zip archive whose member ``name`` inflates to ``BOMB_BYTES``; its wrong checksum shows only at the end."""
    stream, size = io.BytesIO(), BOMB_BYTES + len(head)
    with zipfile.ZipFile(stream, "w") as archive:
        for other, content in others:
            archive.writestr(other, content)
        archive.writestr(name, deflated_zeros(BOMB_BYTES, head))
    changed = bytearray(stream.getvalue())
    local, central = changed.rindex(b"PK\x03\x04"), changed.rindex(b"PK\x01\x02")
    for place, method, sizes in ((local, 8, 22), (central, 10, 24)):
        changed[place + method : place + method + 2] = struct.pack("<H", zipfile.ZIP_DEFLATED)
        changed[place + sizes : place + sizes + 4] = struct.pack("<I", size)
    return bytes(changed)


# NumPy archives ------------------------------------------------------------------------------------------------------


def _npy(header: str, data: bytes = b"") -> bytes:
    text = header.encode("latin-1", "replace")
    return b"\x93NUMPY\x02\x00" + struct.pack("<I", len(text)) + text + data


def _header(descr: object, shape: str, order: object = False) -> str:
    return f"{{'descr': {descr!r}, 'fortran_order': {order}, 'shape': {shape}, }}\n"


KINDS_OF_NUMPY = (
    *("|O", "<U2147483647", "<U40000000", "|V999999999", "<f8", "<f2", ">f4", "<c16", "|b1", "<M8[ns]", "<i8", "|S0"),
    *("<U0", "|S3", "<q999", "spam", [("a", "<f8"), ("b", "<U9")], [("a", "|O")], 7, None),
)
SHAPES = (
    *(
        "(2, 3)",
        "()",
        "(0,)",
        "(0, 3)",
        "(2, 0)",
        "(-1,)",
        "(2, -3)",
        "(1000000000000,)",
        "(1099511627776, 1099511627776)",
    ),
    *("(3, 2)", "(2, 3, 1)", "(2.5, 3)", "('x',)", "3", "None", "(" * 3000, "(True, 3)", "(2, 9223372036854775807)"),
)


def forge_npz(rng: random.Random, content: bytes, others: Sequence[bytes]) -> bytes:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, ValueError):
        return flip_bytes(rng, content, others)
    name = rng.choice(sorted(members))
    way = rng.choice(("header", "header", "header", "values", "values", "pickle", "bomb", "name", "missing", "twice"))
    if way == "bomb":
        descr, size = rng.choice((("<f8", 8), ("<f4", 4), ("<i8", 8), ("|S1", 1)))
        count = BOMB_BYTES // size
        shape = rng.choice((f"({count},)", f"(2, {count // 2})", "(2, 3)"))
        rest = tuple((other, data) for other, data in members.items() if other != name)
        return zip_bomb(name, _npy(_header(descr, shape)), rest)
    if way == "header":
        header = _header(rng.choice(KINDS_OF_NUMPY), rng.choice(SHAPES), rng.choice((False, True, "'x'")))
        members[name] = _npy(header, members[name][-rng.choice((0, 8, 48, 128)) :])
    elif way == "values":
        members[name] = _saved(_other_values(rng, members[name]))
    elif way == "pickle":
        members[name] = _saved(np.array([Planted(), {"a": 1}], dtype=object))
    elif way == "name":
        members[rng.choice((*CLIMBING, "q_\x00.npy", "q_x.npy", "distmat", "x" * 60_000, name + "/"))] = members[name]
    elif way == "missing":
        del members[name]
    stream = io.BytesIO()
    with zipfile.ZipFile(
        stream, "w", rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2))
    ) as made:
        for other, data in [*members.items(), *([(name, members[name])] if way == "twice" else [])]:
            made.writestr(zipfile.ZipInfo(other), data)
    return stream.getvalue()


def _saved(array: np.ndarray[Any, Any]) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=True)
    return stream.getvalue()


def _other_values(rng: random.Random, member: bytes) -> np.ndarray[Any, Any]:
    try:
        array: np.ndarray[Any, Any] = np.load(io.BytesIO(member), allow_pickle=False)
    except (ValueError, EOFError, OSError):
        array = np.zeros((2, 3))
    if rng.random() < 0.4 and array.size:
        array = array.astype(np.float64) if array.dtype.kind in "iuf" else array.astype("U20")
        special = (np.nan, np.inf, -np.inf, 1e308, -1e308, 5e-324, 0, -1)
        array.flat[rng.randrange(array.size)] = rng.choice(
            special if array.dtype.kind == "f" else ("", "-1", "nan", "0")
        )
        return array
    kind = rng.choice(("f2", "f4", "c16", "bool", "u8", "U5", "S5", "M8[s]", "U20000", "f8"))
    changed = (array.T, array[:0], array[None], np.concatenate([array, array]), array.reshape(-1), array[..., :1])
    try:
        return np.asarray(rng.choice(changed).astype(kind))
    except (ValueError, TypeError):
        return array[:0]


# Weights -------------------------------------------------------------------------------------------------------------


def forge_safetensors(rng: random.Random, content: bytes, others: Sequence[bytes]) -> bytes:
    """Another header over the same values, or other values."""
    try:
        state = safetensors.torch.load(content)
        size = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + size])
    except Exception:  # whatever an earlier mutation has damaged
        return flip_bytes(rng, content, others)
    if not state:
        return flip_bytes(rng, content, others)
    if rng.random() < 0.5:
        return safetensors.torch.save(
            {name: value.contiguous() for name, value in _other_state(rng, state, plain=True).items()}
        )
    name = rng.choice(sorted(state))
    entry = header[name]
    begin, end = entry["data_offsets"]
    key, value = rng.choice(
        (
            ("dtype", rng.choice(("F64", "F16", "I32", "F8_E4M3", "BOOL", "U64", "C64", "X", None))),
            ("shape", rng.choice(([2**62], [2**31, 2**31], [-1], [0], [], [1] * 5000, ["x"], entry["shape"] * 2))),
            ("data_offsets", rng.choice(([0, 2**63], [end, begin], [begin, begin], [0, end], [-1, 4], [1, 2, 3]))),
            ("extra", 1),
        )
    )
    entry[key] = value
    if rng.random() < 0.2:
        header[rng.choice(("__metadata__", "new", *TEXTS[:6]))] = rng.choice(
            (*VALUES[:12], {"a": 1}, {"a": "b"}, entry)
        )
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + content[8 + size :]


def _other_state(rng: random.Random, state: Mapping[str, Any], *, plain: bool) -> dict[str, Any]:
    """One tensor of a state changed, left out or renamed; a tensor of any kind unless ``plain``."""
    changed = {name: value.clone() if isinstance(value, torch.Tensor) else value for name, value in state.items()}
    name = rng.choice(sorted(changed, key=str))
    value = changed[name]
    way = rng.random()
    if not isinstance(value, torch.Tensor) or way < 0.1:
        del changed[name]
    elif way < 0.2:
        changed[rng.choice(("new", "module." + name, "identity_classifier.x", *TEXTS[:3]))] = changed.pop(name)
    elif way < 0.55 and value.is_floating_point() and value.numel():
        value.view(-1)[rng.randrange(value.numel())] = rng.choice((float("nan"), float("inf"), float("-inf")))
    elif way < 0.75 or plain:
        kind = rng.choice((torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.bool, torch.complex64))
        changed[name] = rng.choice(
            (value.to(kind), value[None], value.reshape(-1)[:0], value.T if value.ndim == 2 else value)
        )
    else:
        changed[name] = rng.choice(_strange_tensors(value))
    return changed


def _strange_tensors(value: torch.Tensor) -> list[object]:
    return [
        torch.zeros(1).expand(2**40),
        torch.zeros(1).as_strided((2**31, 2**31), (0, 0)),
        value.to_sparse(),
        torch.empty(value.shape, device="meta"),
        torch.nn.Parameter(value.float()),
        torch.quantize_per_tensor(value.float(), 0.1, 0, torch.qint8),
        torch.nested.nested_tensor([value.float().reshape(-1)]),
        [value],
        {"x": value},
        3,
        "text",
        None,
        np.float64(0.5),
    ]


def forge_torch(rng: random.Random, content: bytes, others: Sequence[bytes]) -> bytes:
    """Anything that torch.save could have written or a pickle could hold."""
    way = rng.choice(("state", "state", "state", "code", "part", "bomb", "pickle", "legacy"))
    if way == "bomb":
        return zip_bomb("archive/data.pkl", b"", (("archive/version", b"3\n"), ("archive/byteorder", b"little")))
    if way in ("pickle", "legacy"):
        return rng.choice(_PICKLES)
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception:  # whatever an earlier mutation has damaged
        return flip_bytes(rng, content, others)
    if way == "code" or not isinstance(state, dict):
        state = {"model_state_dict": {"conv1.weight": Planted()}, **(state if isinstance(state, dict) else {})}
    else:
        parts = [key for key, value in state.items() if isinstance(value, dict)]
        key = rng.choice(parts) if parts else None
        if way == "part" and key is not None:
            state[key] = rng.choice(
                (None, [], {}, 3, "x", {1: torch.ones(1)}, {"weight": torch.ones(())}, torch.ones(2))
            )
        elif key is not None and state[key]:
            state[key] = _other_state(rng, state[key], plain=False)
        elif state:
            state = _other_state(rng, state, plain=False)
    stream = io.BytesIO()
    try:
        torch.save(state, stream, _use_new_zipfile_serialization=rng.random() < 0.8)
    except Exception:  # a tensor that cannot be written this way
        return flip_bytes(rng, content, others)
    return stream.getvalue()


def _laughs(depth: int) -> Any:
    value: Any = ["lol"]
    for _ in range(depth):
        value = [value] * 10
    return value


def _deep(depth: int) -> bytes:
    return b"\x80\x02" + b"(" * depth + b"l" * depth + b"."


_PICKLES = (
    pickle.dumps(Planted()),
    pickle.dumps({"a": Planted()}, protocol=2),
    pickle.dumps(_laughs(30), protocol=2),
    pickle.dumps({"model_state_dict": {"x": _laughs(30)}}, protocol=2),
    _deep(100_000),
    b"\x80\x02cos\nsystem\nX\x0b\x00\x00\x00mkdir newnewtR.",
    b"\x80\x02]" + b"q\x00h\x00a" * 50_000 + b".",
    b"\x80\x02\x8b" + struct.pack("<i", 2**31 - 1) + b"\xff" * 100 + b".",
    b"\x80\x04\x8d" + struct.pack("<Q", 2**62) + b"a.",
    b"\x80\x04\x8e" + struct.pack("<Q", 2**40) + b"a.",
    b"\x80\x02r" + struct.pack("<I", 2**32 - 1) + b".",
    b"\x80\x02" + b"I" + b"9" * 100_000 + b"\n.",
    b"\x80\x02c__builtin__\nbytearray\n(\x8a\x05\x00\x00\x00\x00\x10tR.",
    b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(NK\x00(tK\x00)K\x00tR.",
)

# Tables --------------------------------------------------------------------------------------------------------------


def _invalid_text(count: int) -> pa.Array:
    offsets = np.arange(count + 1, dtype=np.int32) * 2
    return pa.StringArray.from_buffers(count, pa.py_buffer(offsets), pa.py_buffer(b"\xff\xfe" * count))


def _other_columns(count: int) -> list[pa.Array]:
    """Columns of ``count`` rows of every type that a reader may meet."""
    repeated: list[Any] = [
        *(
            [value] * count
            for value in (None, 1, -1, 2**62, 0.5, float("nan"), True, "x", "", "-1", b"\xff", [1.5], [])
        ),
        *([value] * count for value in ([None], ["x"], {"a": 1}, [[1.0]], "\x00\x1b[2J", "x" * 20_000)),
    ]
    made = [pa.array(column) for column in repeated]
    integers = pa.array([2**62] * count)
    made += [integers.view(kind) for kind in (pa.timestamp("ns"), pa.timestamp("s"), pa.duration("us"), pa.date64())]
    made += [pa.array([1.0] * count, kind) for kind in (pa.float16(), pa.float32())]
    made += [
        pa.array([[1.0, float("inf")]] * count, pa.list_(pa.float32(), 2)),
        pa.array([[]] * count, pa.list_(pa.float32(), 0)),
    ]
    made += [
        pa.array([10**30] * count, pa.decimal128(38)),
        pa.array(["x"] * count).dictionary_encode(),
        _invalid_text(count),
    ]
    made += [
        pa.array([[("a", "b")]] * count, pa.map_(pa.string(), pa.string())),
        pa.array([b"abcd"] * count, pa.large_binary()),
    ]
    return made


def change_table(rng: random.Random, table: pa.Table) -> pa.Table:
    """A column of another type, duplicated, left out or renamed; no row, or every row many times."""
    columns = {name: table.column(place) for place, name in enumerate(table.column_names)}
    name = rng.choice(sorted(columns))
    way = rng.random()
    if way < 0.6:
        columns[name] = rng.choice(_other_columns(table.num_rows))
    elif way < 0.7:
        del columns[name]
    elif way < 0.8:
        columns[rng.choice((*TEXTS[:8], *CLIMBING, *NUMBERS[:3], rng.choice(sorted(columns))))] = columns.pop(name)
    elif way < 0.85:
        return pa.Table.from_arrays([*columns.values(), columns[name]], names=[*columns, name])
    elif way < 0.9:
        return table.slice(0, 0)
    elif way < 0.95:
        return pa.concat_tables([table] * rng.choice((2, 300)))
    else:
        return table.take(rng.sample(range(table.num_rows), table.num_rows))
    return pa.table(columns)


@lru_cache(8)
def _bomb_table(written: bytes) -> bytes:
    """The first row of a table repeated about ten million times, in a small file."""
    first = pq.read_table(pa.BufferReader(written)).slice(0, 1)
    rows = pa.array(np.zeros(12_000_000, np.int32))
    columns = {name: pa.DictionaryArray.from_arrays(rows, first[name].combine_chunks()) for name in first.column_names
               if not pa.types.is_nested(first[name].type)}  # fmt: skip
    columns |= {name: pa.nulls(len(rows), first[name].type) for name in first.column_names if name not in columns}
    return _parquet(pa.table(columns), compression="zstd")


def _parquet(table: pa.Table, **options: Any) -> bytes:
    stream = io.BytesIO()
    pq.write_table(table, stream, **options)
    return stream.getvalue()


def forge_parquet(rng: random.Random, content: bytes, others: Sequence[bytes]) -> bytes:
    try:
        table = pq.read_table(pa.BufferReader(content))
    except (pa.ArrowException, OSError):
        return flip_bytes(rng, content, others)
    if not table.num_rows or not table.num_columns or len(set(table.column_names)) < table.num_columns:
        return flip_bytes(rng, content, others)
    try:
        if rng.random() < 0.04:
            return _bomb_table(content)
        return _parquet(
            change_table(rng, table),
            compression=rng.choice(("snappy", "zstd", "none")),
            store_schema=rng.random() < 0.7,
        )
    except (pa.ArrowException, OSError, ValueError):  # a type that Parquet does not have
        return flip_bytes(rng, content, others)


def forge_arrow(rng: random.Random, content: bytes, others: Sequence[bytes]) -> bytes:
    """A shard with other rows, types or frames, compressed or not; or with one row many times."""
    try:
        table = ipc.open_file(pa.BufferReader(content)).read_all()
    except (pa.ArrowException, OSError):
        return flip_bytes(rng, content, others)
    if not table.num_rows or not table.num_columns or len(set(table.column_names)) < table.num_columns:
        return flip_bytes(rng, content, others)
    schema = table.schema
    way = rng.choice(("frames", "frames", "frames", "column", "cells", "cells", "cells"))
    if rng.random() < 0.05:
        return _arrow_bomb(content)
    if way == "column":
        table = change_table(rng, table)
        schema = table.schema
    elif "frames" in schema.names and "frame_index" in schema.names:
        rows = table.to_pylist()
        row = rng.choice(rows)
        if way == "frames":
            row["frames"] = _other_frames(rng, row["frames"], others)
        else:
            _change_cell(rng, row)
        try:
            table = pa.Table.from_pylist(rows, schema)
        except (pa.ArrowException, OverflowError, TypeError, ValueError):
            return flip_bytes(rng, content, others)
    stream = io.BytesIO()
    options = ipc.IpcWriteOptions(compression=rng.choice((None, None, None, "zstd", "lz4")))
    size = rng.choice((1, 1, 1, 2, 100))
    try:
        with ipc.new_file(stream, schema, options=options) as writer:
            for batch in table.to_batches(max_chunksize=size):
                writer.write_batch(batch)
    except (pa.ArrowException, OSError):
        return flip_bytes(rng, content, others)
    return stream.getvalue()


@lru_cache(8)
def _arrow_bomb(written: bytes) -> bytes:
    """A row whose four frames take one gibibyte, compressed."""
    first = ipc.open_file(pa.BufferReader(written)).read_all().slice(0, 1)
    size, count = 2**28, 4
    offsets, zeros = np.arange(count + 1, dtype=np.int32) * (size - 1), np.zeros(size * count, np.uint8)
    pictures = pa.BinaryArray.from_buffers(pa.binary(), count, [None, pa.py_buffer(offsets), pa.py_buffer(zeros)])
    frames = pa.ListArray.from_arrays(pa.array([0, count], pa.int32()), pictures)
    columns = [frames.cast(first[name].type) if name == "frames" else first[name] for name in first.column_names]
    stream = io.BytesIO()
    with ipc.new_file(stream, first.schema, options=ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write_table(pa.Table.from_arrays(columns, schema=first.schema))
    return stream.getvalue()


def _change_cell(rng: random.Random, row: dict[str, Any]) -> None:
    choices: dict[str, tuple[Any, ...]] = {
        "id": ("", "x" * 100_000, "\x1b[2J", "../x"),
        "person": (None, "", "-1", "nobody"),
        "clothes": (None, "", "-1"),
        "camera": ("", "../x", "\x00"),
        "split": ("", "test", "Train", "train\n"),
        "attributes": ([], [("a", None)], [("a", "b"), ("a", "c")], [("start_seconds", "nan"), ("video", "\x00")]),
        "frame_index": ([], [-1], [2**31 - 1] * 3, [None], [0] * 10_000),
    }
    name = rng.choice(sorted(choices))
    row[name] = rng.choice(choices[name])


def _other_frames(rng: random.Random, frames: Sequence[bytes], others: Sequence[bytes]) -> list[bytes | None]:
    place = rng.randrange(len(frames)) if frames else 0
    picture = (frames[place] if frames else None) or b""
    new = rng.choice(
        (
            None,
            b"",
            b"\xff\xd8",
            *(forge_picture(rng, picture, others) for _ in range(3)),
            flip_bytes(rng, picture, others),
        )
    )
    return rng.choice(([*frames[:place], new, *frames[place + 1 :]], [], [new] * 3, [*frames, new]))


# Pictures and videos -------------------------------------------------------------------------------------------------

SIDES = (0, 1, 16, 255, 4000, 8191, 13_000, 16_384, 30_000, 65_500)


def forge_picture(rng: random.Random, content: bytes, others: Sequence[bytes]) -> bytes:
    """Another size in the headers of the JPEG or PNG pictures; or a small file that decodes to a large picture."""
    if rng.random() < 0.1:
        return large_png(rng.choice((9000, 14_000, 30_000, 100_000)))
    width, height = rng.choice(SIDES), rng.choice(SIDES)
    changed = bytearray(content)
    place, last = 0, len(changed) - 24
    while place < last:
        starts = [
            at for mark in (b"\xff\xc0\x00\x11", b"\xff\xc2\x00\x11", b"IHDR") if (at := content.find(mark, place)) >= 0
        ]
        if not starts or min(starts) > last:
            break
        place = min(starts)
        if content[place : place + 4] == b"IHDR":
            changed[place + 4 : place + 12] = struct.pack(">II", width, height)
            changed[place + 17 : place + 21] = struct.pack(">I", zlib.crc32(bytes(changed[place : place + 17])))
        else:
            changed[place + 5 : place + 9] = struct.pack(">HH", height, width)
        place += 8
    return flip_bytes(rng, content, others) if bytes(changed) == content else bytes(changed)


@cache
def large_png(side: int) -> bytes:
    """A grey square with one bit per pixel."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    size = (side // 8 + 1) * side
    packed = b"\x78\xda" + deflated_zeros(size + ZEROS)
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


PLAYLISTS = (
    "#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n{secret}\n#EXT-X-ENDLIST\n",
    "ffconcat version 1.0\nfile '{secret}'\n",
    "ffconcat version 1.0\nfile secret.mp4\nduration 1e308\n",
    "v=0\nc=IN IP4 127.0.0.1\nm=video 9 RTP/AVP 96\na=rtpmap:96 H264/90000\n",
    "<?xml version='1.0'?><MPD xmlns='urn:mpeg:dash:schema:mpd:2011' type='static'><Period><AdaptationSet "
    "mimeType='video/mp4'><Representation id='1'><BaseURL>{secret}</BaseURL></Representation></AdaptationSet>"
    "</Period></MPD>",
    "[playlist]\nFile1={secret}\n",
    "RTSPtext\n{secret}\n",
)


def forge_video(rng: random.Random, content: bytes, others: Sequence[bytes]) -> bytes:
    """A playlist that names another file; a picture; a changed picture size within the video."""
    if rng.random() < 0.4:
        secret = rng.choice(
            (f"{OUTSIDE}/secret.mp4", f"file:{OUTSIDE}/secret.mp4", "/etc/passwd", "http://127.0.0.1:9/x")
        )
        return rng.choice(PLAYLISTS).replace("{secret}", secret).encode()
    return forge_picture(rng, content, others)


# XML -----------------------------------------------------------------------------------------------------------------


def forge_xml(rng: random.Random, content: bytes, _: Sequence[bytes]) -> bytes:
    """Entities that refer to each other or to another file, deep nesting, unknown encodings."""
    laughs = '<!ENTITY l0 "lol">' + "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 12))
    secret = rng.choice((f"{OUTSIDE}/secret.txt", f"file:{OUTSIDE}/secret.txt", "http://127.0.0.1:9/x"))
    declarations = rng.choice(
        (
            laughs,
            f'<!ENTITY l11 SYSTEM "{secret}">',
            f'<!ENTITY % p SYSTEM "{secret}"> %p;',
            f'<!ENTITY l11 "{"x" * 1_000_000}">',
            '<!ATTLIST box xtl CDATA "7">',
        )
    )
    start = content.find(b"<annotations")
    head, body = content[: max(start, 0)], content[max(start, 0) :]
    way = rng.random()
    if way < 0.5:
        place = body.find(b">", rng.randrange(max(1, len(body)))) + 1
        body = body[:place] + b"&l11;" * rng.choice((1, 1000)) + body[place:]
        return head + f"<!DOCTYPE annotations [{declarations}]>".encode() + body
    if way < 0.6:
        return head + f'<!DOCTYPE annotations SYSTEM "{secret}">'.encode() + body
    if way < 0.8:
        encoding = rng.choice(("utf-7", "idna", "punycode", "rot13", "hex", "utf-16", "x" * 2000, "undefined", "cp437"))
        return f'<?xml version="1.0" encoding="{encoding}"?>'.encode() + body
    attributes = "".join(f' a{n}="1"' for n in range(20_000))
    return head + body.replace(
        b"<box", rng.choice((f"<box{attributes}", "<box" * 20_000, "<t " + "x" * 900_000)).encode(), 1
    )


FORGERIES: Mapping[str, Mutator] = {
    ".npz": forge_npz,
    ".safetensors": forge_safetensors,
    **dict.fromkeys((".pth", ".pt", ".tar"), forge_torch),
    ".parquet": forge_parquet,
    ".arrow": forge_arrow,
    ".xml": forge_xml,
    **dict.fromkeys((".jpg", ".png", ".bmp", ".webp"), forge_picture),
    **dict.fromkeys((".mp4", ".mov", ".mkv", ".webm", ".avi", ".ts", ".flv", ".h264"), forge_video),
}
"""Forgeries by file suffix."""

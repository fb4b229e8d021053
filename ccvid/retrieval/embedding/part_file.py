"""A part of an embedding store: one Arrow file, not compressed, with one record batch, read by memory map.

Opening reads its structure only. Labels are checked when they are first asked for; the embeddings are a view of the
file. Rows are in order of id. The columns ``key`` and ``key_row`` are an index: the sorted hashes of the ids, and the
row of each, by which a few ids are found without reading the others.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ccvid.retrieval.embedding.table import (
    ROW_SCHEMA,
    EmbeddingRows,
    EmbeddingTable,
    check_finite,
    check_labels,
    check_splits,
    read_embeddings,
)
from data_tools.arrow_compression import is_compressed
from data_tools.datasets.start_times import USUAL_TIME
from data_tools.errors import InputError
from data_tools.wording import one_line, shown

MODEL, FIRST_START, LAST_END = b"model", b"first_start", b"last_end"
"""Keys of the file's metadata."""
KEPT_COMPLETE = ("id", "camera", "split", "clip_count", "shard")


def keys_of(ids: Sequence[str]) -> npt.NDArray[np.uint64]:
    """64-bit hashes of ids (N,)."""
    return np.frombuffer(b"".join(hashlib.blake2b(id.encode(), digest_size=8).digest() for id in ids), np.uint64)


def write_part(table: EmbeddingTable, path: Path) -> None:
    """Write a part to ``path``, which should be a temporary file.

    Raises:
        InputError: values that are not finite, or duplicate ids.
    """
    check_finite(table.embedding_ND, path, table.rows)
    check_labels(table.rows, path)
    order, dimensions = pc.sort_indices(table.rows.columns["id"]).to_numpy(), table.embedding_ND.shape[1]
    rows = table.rows.take(order)
    key_N = keys_of(rows.columns["id"].to_pylist())
    key_row_N = np.argsort(key_N, kind="stable")
    arrays = [
        pa.array(key_N[key_row_N]),
        pa.array(key_row_N.astype(np.int32)),
        *(_fresh(rows.columns[field.name], field.type) for field in ROW_SCHEMA),
        pa.FixedSizeListArray.from_arrays(pa.array(table.embedding_ND[order].reshape(-1)), dimensions),
    ]
    schema = _schema(dimensions, table.model, _span(rows))
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, schema) as writer:
        writer.write_batch(pa.record_batch(arrays, schema=schema))


def _fresh(column: pa.ChunkedArray, kind: pa.DataType) -> pa.Array:
    """A column in one piece; a dictionary holds only what is in use, so that removed labels are gone."""
    if pa.types.is_dictionary(kind):
        return column.cast(pa.string()).combine_chunks().dictionary_encode()
    return column.combine_chunks()


def _span(rows: EmbeddingRows) -> dict[bytes, str]:
    """The earliest start and the latest end, as metadata, where all times of day are as footage writes them."""
    span = {}
    for key, name, side in ((FIRST_START, "start_time", "min"), (LAST_END, "end_time", "max")):
        known = rows.attribute(name).drop_null()
        if len(known) and pc.all(pc.match_substring_regex(known, USUAL_TIME)).as_py():
            span[key] = pc.min_max(known)[side].as_py()
    return span


def _schema(dimensions: int, model: str, span: Mapping[bytes, str] = MappingProxyType({})) -> pa.Schema:
    index = [pa.field("key", pa.uint64()), pa.field("key_row", pa.int32())]
    embedding = pa.field("embedding", pa.list_(pa.float32(), dimensions))
    return pa.schema([*index, *ROW_SCHEMA, embedding], {MODEL: model, **span})


class PartFile:
    """An open part with N rows of embeddings by ``model``; ``embedding_ND`` is a view of the file, float32.

    The embeddings are not checked for NaN. ``first_start`` and ``last_end`` bound the tracklets' times of day, as
    ``time_attribute`` writes them, or are None.

    Raises:
        InputError: it cannot be read, or is of another model or size; later, when they are used: labels are damaged.
    """

    def __init__(self, path: Path, *, model: str, dimensions: int) -> None:
        self.path, self.model = path, model
        expected = _schema(dimensions, model)
        try:
            mapped = pa.memory_map(str(path))
            if is_compressed(memoryview(mapped.read_buffer())):
                raise InputError(f"{path}: is compressed, expected a plain Arrow file")
            mapped.seek(0)
            reader = pa.ipc.open_file(mapped)
            metadata = {key: text.decode(errors="replace") for key, text in (reader.schema.metadata or {}).items()}
            found = metadata.get(MODEL, "")
            if found != model:
                raise InputError(f"{path}: embeddings of model {shown(found)}, expected model {shown(model)}")
            if not reader.schema.equals(expected):
                raise InputError(
                    f"{path}: has columns {one_line(reader.schema, 300)}, expected {one_line(expected, 300)}"
                )
            if reader.num_record_batches != 1:
                raise InputError(f"{path}: has {reader.num_record_batches} record batches, expected 1")
            self._batch = reader.get_batch(0)
            self._batch.validate()
        except FileNotFoundError:
            raise
        except (pa.ArrowException, OSError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"{path}: not a readable part of embeddings: {one_line(error)}") from None
        if not self._batch.num_rows or any(self._batch[name].null_count for name in ("key", "key_row", "embedding")):
            raise InputError(f"{path}: rows without key or embedding, expected complete rows")
        self.first_start, self.last_end = metadata.get(FIRST_START), metadata.get(LAST_END)
        self.embedding_ND = np.asarray(self._batch["embedding"].flatten()).reshape(len(self), dimensions)

    def __len__(self) -> int:
        return int(self._batch.num_rows)

    @cached_property
    def rows(self) -> EmbeddingRows:
        """The labels."""
        labels = pa.Table.from_batches([self._batch.select(ROW_SCHEMA.names)])
        with self._checking():
            labels.validate(full=True)
        for name in KEPT_COMPLETE:
            if labels[name].null_count:
                raise InputError(f"{self.path}: row {pc.index(pc.is_null(labels[name]), True).as_py()} has no {name}")
        ids = labels["id"]
        wrong = pc.index(pc.less(ids.slice(0, len(self) - 1), ids.slice(1)), False).as_py()
        if wrong >= 0:
            row = wrong + 1
            raise InputError(f"{self.path}: row {row}: id {shown(ids[row].as_py())}, expected one after the row before")
        rows = EmbeddingRows(labels)
        check_splits(rows, self.path)
        return rows

    @property
    def table(self) -> EmbeddingTable:
        """Labels and embeddings."""
        return EmbeddingTable(self.rows, self.embedding_ND, self.model)

    def values(self, column: str) -> frozenset[str]:
        """The different values of a dictionary-coded column; reads no rows."""
        known = self._batch[column].dictionary
        with self._checking():
            known.validate(full=True)
        return frozenset(known.to_pylist()) - {None}

    def shards_of(self, ids: Sequence[str], key_I: npt.NDArray[np.uint64]) -> dict[str, str]:
        """The shard of each of some ids, whose keys are given, that is in this part."""
        own_N, row_N = (np.asarray(self._batch[name]) for name in ("key", "key_row"))
        start_I, end_I = (np.searchsorted(own_N, key_I, side) for side in ("left", "right"))
        found = {}
        for number in np.flatnonzero(start_I < end_I).tolist():
            for row in row_N[start_I[number] : end_I[number]].tolist():
                if not 0 <= row < len(self):
                    raise InputError(f"{self.path}: key_row {row}, expected 0 to {len(self) - 1}")
                one = self._batch.slice(row, 1)
                if self._text(one, "id") == ids[number]:
                    found[ids[number]] = self._text(one, "shard")
        return found

    def _text(self, row: pa.RecordBatch, name: str) -> str:
        with self._checking():
            row[name].validate(full=True)
        return str(row[name][0].as_py())

    @contextmanager
    def _checking(self) -> Iterator[None]:
        try:
            yield
        except pa.ArrowException as error:
            raise InputError(f"{self.path}: damaged labels: {one_line(error)}") from None


class ParquetPart:
    """A part as earlier versions wrote it; everything is read at once."""

    def __init__(self, path: Path, *, model: str, dimensions: int) -> None:
        self.path, self.model = path, model
        self.table = read_embeddings(path, model=model)
        self.rows, self.embedding_ND = self.table.rows, self.table.embedding_ND
        self.first_start = self.last_end = None
        if self.embedding_ND.shape[1] != dimensions:
            raise InputError(f"{path}: embeddings of {self.embedding_ND.shape[1]} values, expected {dimensions}")

    def __len__(self) -> int:
        return len(self.rows)

    def values(self, column: str) -> frozenset[str]:
        return frozenset(self.rows.columns[column].unique().to_pylist()) - {None}

    def shards_of(self, ids: Sequence[str], key_I: npt.NDArray[np.uint64]) -> dict[str, str]:
        del key_I
        rows = self.rows.take(np.flatnonzero(self.rows.is_in("id", ids)))
        return dict(zip(rows.columns["id"].to_pylist(), rows.columns["shard"].to_pylist(), strict=True))


Part = PartFile | ParquetPart


def open_part(path: Path, *, model: str, dimensions: int) -> Part:
    """Open a part of either kind; raises as ``PartFile``, and FileNotFoundError."""
    kind = ParquetPart if path.suffix == ".parquet" else PartFile
    return kind(path, model=model, dimensions=dimensions)

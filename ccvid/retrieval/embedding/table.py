"""Tracklet embeddings: pooled from clip features and stored as Parquet."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from ccvid.retrieval.embedding.parquet import read_table, shown_type, write_tables
from data_tools.columnar_rows import CODED, LABELS, ColumnarRows, Numbers
from data_tools.errors import InputError
from data_tools.shards import ShardFolder
from data_tools.tracklet import SPLITS, Split
from data_tools.wording import one_line, shown


class ClipPool:
    """Averages the clip features of each tracklet as they arrive; memory does not grow with the number of clips.

    Args:
        tracklet_count: T tracklets, numbered from 0.
        feature_size: D.
        device: where the features are.
    """

    def __init__(self, tracklet_count: int, feature_size: int, device: torch.device | str = "cpu") -> None:
        self._total_TD = torch.zeros(tracklet_count, feature_size, dtype=torch.float64, device=device)
        self.clip_count_T = torch.zeros(tracklet_count, dtype=torch.int64)

    def add(self, clip_feature_ND: Tensor, tracklet_N: Tensor) -> None:
        """Add N clips, in any order: features of any float type on the pool's device, int64 numbers on the CPU."""
        self.clip_count_T += torch.bincount(tracklet_N, minlength=len(self.clip_count_T))
        self._total_TD.index_add_(0, tracklet_N.to(self._total_TD.device), clip_feature_ND.double())

    def embeddings(self) -> Tensor:
        """Mean of each tracklet's features, L2-normalised: float32 (T, D) on the CPU; every tracklet has a clip."""
        assert bool(self.clip_count_T.all()), "a tracklet without a clip"
        return torch.nn.functional.normalize(self._total_TD, dim=1).float().cpu()  # the mean has the sum's direction


@dataclass(frozen=True, slots=True)
class EmbeddingRow:
    """What is known about one embedded tracklet: its labels (None if unknown), clip count and origin.

    ``shard`` is the fingerprint of the shard that the frames came from.
    """

    id: str
    person: str | None
    clothes: str | None
    camera: str
    split: Split
    attributes: Mapping[str, str]
    clip_count: int
    shard: str


ROW_SCHEMA = pa.schema({**LABELS, "clip_count": pa.int32(), "shard": CODED})
_NO_TEXT = pa.array([], pa.string())


class EmbeddingRows(ColumnarRows[EmbeddingRow]):
    """Rows of a table of embeddings, as columns."""

    schema = ROW_SCHEMA
    row = staticmethod(EmbeddingRow)


def shared_codes(
    first: pa.ChunkedArray, second: pa.ChunkedArray
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Integer codes of two columns of text, equal where the text is; -1 where it is unknown."""
    both = pa.chunked_array([*first.chunks, *second.chunks], first.type).combine_chunks().dictionary_encode()
    codes = pc.fill_null(both.indices, -1).to_numpy(zero_copy_only=False).astype(np.int64)
    return codes[: len(first)], codes[len(first) :]


@dataclass(frozen=True, slots=True)
class EmbeddingTable:
    """Embeddings of N tracklets by one model: float32 (N, D), finite; row i of both belongs together.

    ``model`` is the fingerprint of the model: embeddings of two models are never in one table.
    """

    rows: EmbeddingRows
    embedding_ND: npt.NDArray[np.float32]
    model: str

    def __post_init__(self) -> None:
        assert self.embedding_ND.dtype == np.float32
        assert self.embedding_ND.ndim == 2
        assert len(self.embedding_ND) == len(self.rows)

    @classmethod
    def of(
        cls, store: ShardFolder, rows: Sequence[int], embedding_RD: Tensor, clip_count_R: Tensor, model: str
    ) -> EmbeddingTable:
        """Of the stored tracklets ``rows``, from what ``embed_tracklets`` returns."""
        stored = store.rows.take(rows)
        columns = {name: stored.columns[name] for name in LABELS}
        columns |= {"clip_count": clip_count_R.int().numpy(), "shard": store.fingerprints(stored)}
        return cls(EmbeddingRows(pa.table(columns, ROW_SCHEMA)), embedding_RD.numpy(), model)

    @classmethod
    def joined(cls, tables: Sequence[EmbeddingTable]) -> EmbeddingTable:
        """The rows of tables of one model, by id; a single table must be in that order, and is not copied.

        Raises:
            InputError: an id is in two tables.
        """
        (model,) = {table.model for table in tables}
        if len(tables) == 1:
            return tables[0]
        rows = EmbeddingRows(pa.concat_tables([table.rows.columns for table in tables]))
        order = pc.sort_indices(rows.columns["id"]).to_numpy()
        rows, place_N = rows.take(order), np.argsort(order)
        check_distinct(rows)
        embedding_ND = np.empty((len(rows), tables[0].embedding_ND.shape[1]), np.float32)
        ends = np.cumsum([len(table.rows) for table in tables])
        for table, place_R in zip(tables, np.split(place_N, ends[:-1]), strict=True):
            embedding_ND[place_R] = table.embedding_ND
        return cls(rows, embedding_ND, model)

    def part(self, split: Split) -> EmbeddingTable:
        """The rows of one split, in order."""
        return self.take(np.flatnonzero(self.rows.is_in("split", [split])))

    def take(self, numbers: Numbers) -> EmbeddingTable:
        """Some rows, in the order given; all of them, in their order, are not copied."""
        chosen = np.asarray(numbers, np.int64)
        if np.array_equal(chosen, np.arange(len(self.rows))):
            return self
        return EmbeddingTable(self.rows.take(chosen), self.embedding_ND[chosen], self.model)


def check_distinct(rows: EmbeddingRows) -> None:
    """Raise InputError if two rows, which are in order of id, have the same id."""
    ids = rows.columns["id"]
    row = pc.index(pc.equal(ids.slice(1), ids.slice(0, max(0, len(ids) - 1))), True).as_py()
    if row >= 0:
        raise InputError(f"duplicate tracklet id {ids[row].as_py()!r}, found in two parts")


def write_embeddings(tables: Iterable[EmbeddingTable], path: Path) -> None:
    """Write tables of one model, at least one, as one Parquet table, atomically; one is held at a time.

    Columns: id, person, clothes, camera, split (strings), attributes (map of strings), embedding
    (fixed_size_list<float32>), clip_count (int32), model_fingerprint, shard_fingerprint.
    Raises InputError for values that are not finite, duplicate ids, and a path that cannot be written.
    """
    write_tables(_checked_columns(tables, path), path, plain=["embedding"])


def _checked_columns(tables: Iterable[EmbeddingTable], path: Path) -> Iterator[pa.Table]:
    ids = []
    for table in tables:
        rows, (count, dimensions) = table.rows, table.embedding_ND.shape
        check_finite(table.embedding_ND, path, rows)
        check_splits(rows, path)
        ids += rows.columns["id"].chunks
        model = pa.DictionaryArray.from_arrays(np.zeros(count, np.int32), [table.model])
        columns = {
            **{name: rows.text(name) for name in ("id", "person", "clothes", "camera", "split")},
            "attributes": rows.columns["attributes"],
            "embedding": pa.FixedSizeListArray.from_arrays(pa.array(table.embedding_ND.ravel()), dimensions),
            "clip_count": rows.columns["clip_count"],
            "model_fingerprint": model.cast(pa.string()),
            "shard_fingerprint": rows.text("shard"),
        }
        yield pa.table(columns)
    _check_ids(pa.chunked_array(ids, pa.string()), path)


def read_embeddings(path: Path, *, model: str | None = None) -> EmbeddingTable:
    """Read a table written by ``write_embeddings`` or by another program.

    Only id, person, camera, split and embedding are required; labels may be of any type that can be cast to text, and
    the embedding any list of floats. ``model`` is the fingerprint that the table must have, if given.
    Raises InputError, naming the file and the row (from 0), for a missing value, rows of unequal size, values that
    are not finite, duplicate ids, an unknown split, and embeddings of another model or of several models.
    """
    data = read_table(path, required=("id", "person", "camera", "split", "embedding"))
    found_model = _one_model(data, path, model)
    table = EmbeddingTable(read_rows(data, path), embedding_column(data, path), found_model)
    check_finite(table.embedding_ND, path, table.rows)
    return table


def read_rows(data: pa.Table, path: Path) -> EmbeddingRows:
    """The labels of a table that ``read_table`` has read; raises InputError as ``read_embeddings`` does."""
    columns = {
        "id": text_column(data, "id", path, complete=True),
        "person": text_column(data, "person", path),
        "clothes": text_column(data, "clothes", path),
        "camera": text_column(data, "camera", path, complete=True),
        "split": text_column(data, "split", path, complete=True),
        "attributes": _attributes(data, path),
        "clip_count": _clip_counts(data, path),
        "shard": pc.fill_null(text_column(data, "shard_fingerprint", path), ""),
    }
    coded = {
        name: column.dictionary_encode() if pa.types.is_dictionary(ROW_SCHEMA.field(name).type) else column
        for name, column in columns.items()
    }
    rows = EmbeddingRows(pa.table(coded).cast(ROW_SCHEMA))
    check_labels(rows, path)
    return rows


def _place(path: Path, number: int, id: str) -> str:
    return f"{path}: row {number} ({shown(id)[1:-1]})"


def check_finite(embedding_ND: npt.NDArray[np.float32], path: Path, rows: EmbeddingRows) -> None:
    """Raise InputError for NaN and infinity."""
    infinite = np.flatnonzero(~np.isfinite(embedding_ND).all(axis=1))
    if len(infinite):
        number = int(infinite[0])
        raise InputError(f"{_place(path, number, rows[number].id)}: the embedding holds NaN or infinity")


def check_labels(rows: EmbeddingRows, path: Path) -> None:
    """Raise InputError for an unknown split and for duplicate ids."""
    check_splits(rows, path)
    _check_ids(rows.columns["id"], path)


def _check_ids(ids: pa.ChunkedArray, path: Path) -> None:
    if pc.count_distinct(ids).as_py() < len(ids):
        first_row: dict[str, int] = {}
        for number, id in enumerate(ids.to_pylist()):
            if first_row.setdefault(id, number) != number:
                raise InputError(f"{_place(path, number, id)}: duplicate id, first seen in row {first_row[id]}")


def check_splits(rows: EmbeddingRows, path: Path) -> None:
    """Raise InputError for an unknown split."""
    strange = np.flatnonzero(~rows.is_in("split", SPLITS))
    if len(strange):
        number = int(strange[0])
        place, split = _place(path, number, rows[number].id), rows[number].split
        raise InputError(f"{place}: split {shown(split)}, expected one of {', '.join(SPLITS)}")


def _one_model(data: pa.Table, path: Path, expected: str | None) -> str:
    models = sorted(name or "" for name in pc.unique(text_column(data, "model_fingerprint", path)).to_pylist())
    if len(models) > 1:
        raise InputError(f"{path}: embeddings of {len(models)} models in one table: {one_line(', '.join(models))}")
    if expected is not None and models[0] != expected:
        raise InputError(f"{path}: embeddings of model {shown(models[0])}, expected model {shown(expected)}")
    return models[0]


def embedding_column(data: pa.Table, path: Path) -> npt.NDArray[np.float32]:
    column = data["embedding"]
    kind = column.type
    is_list = pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind)
    if not (is_list and pa.types.is_floating(kind.value_type)):
        raise InputError(f"{path}: column embedding is {shown_type(column)}, expected a list of floats")
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy()
    wrong = np.flatnonzero((lengths != lengths[0]) | (lengths == 0))
    if len(wrong):
        length, expected = pc.list_value_length(column)[int(wrong[0])].as_py(), lengths[0] or "at least 1"
        raise InputError(f"{path}: row {wrong[0]}: embedding of {length} values, expected {expected}")
    values = np.concatenate([chunk.flatten().to_numpy(zero_copy_only=False) for chunk in column.chunks])
    return values.astype(np.float32, copy=False).reshape(len(lengths), lengths[0])


def text_column(data: pa.Table, name: str, path: Path, *, complete: bool = False) -> pa.ChunkedArray:
    """A column as strings, null where empty; all null if the column is absent."""
    if name not in data.column_names:
        return pa.chunked_array([pa.nulls(data.num_rows, pa.string())])
    try:
        values = data[name].cast(pa.string())
    except pa.ArrowException as error:
        raise InputError(f"{path}: column {name} is {shown_type(data[name])}, expected text") from error
    if complete and values.null_count:
        raise InputError(f"{path}: row {pc.index(pc.is_null(values), True).as_py()} has no {name}")
    return values


def _attributes(data: pa.Table, path: Path) -> pa.ChunkedArray:
    if "attributes" not in data.column_names or pa.types.is_null(data["attributes"].type):
        return pa.chunked_array([pa.MapArray.from_arrays(np.zeros(data.num_rows + 1, np.int32), _NO_TEXT, _NO_TEXT)])
    column = data["attributes"]
    if not pa.types.is_map(column.type) or not all(map(_is_text, (column.type.key_type, column.type.item_type))):
        raise InputError(f"{path}: column attributes is {shown_type(column)}, expected maps of text")
    return column


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _clip_counts(data: pa.Table, path: Path) -> pa.ChunkedArray:
    if "clip_count" not in data.column_names:
        return pa.chunked_array([np.ones(data.num_rows, np.int32)])
    column = data["clip_count"]
    if not pa.types.is_integer(column.type):
        raise InputError(f"{path}: column clip_count is {shown_type(column)}, expected integers")
    too_few = pc.fill_null(pc.less(column, 1), True)
    if pc.any(too_few).as_py():
        number = pc.index(too_few, True).as_py()
        raise InputError(f"{path}: row {number}: clip_count is {column[number].as_py()}, expected at least 1")
    return column

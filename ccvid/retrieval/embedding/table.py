"""Tracklet embeddings: pooled from clip features and stored as Parquet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from ccvid.retrieval.embedding.parquet import read_table, shown_type, write_table
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

    @classmethod
    def of(cls, store: ShardFolder, row: int, *, clip_count: int) -> EmbeddingRow:
        """Of a stored tracklet."""
        stored = store.rows[row]
        labels = {name: getattr(stored, name) for name in ("id", "person", "clothes", "camera", "split", "attributes")}
        return cls(**labels, clip_count=clip_count, shard=store.fingerprint(row))


@dataclass(frozen=True, slots=True)
class EmbeddingTable:
    """Embeddings of N tracklets by one model: float32 (N, D), finite, in the order of ``rows``.

    ``model`` is the model's fingerprint: a table never mixes embeddings of two models.
    """

    rows: tuple[EmbeddingRow, ...]
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
        counts = zip(rows, clip_count_R.tolist(), strict=True)
        labels = tuple(EmbeddingRow.of(store, row, clip_count=count) for row, count in counts)
        return cls(labels, embedding_RD.numpy(), model)

    def part(self, split: Split) -> EmbeddingTable:
        """The rows of one split, in order."""
        return self.take([number for number, row in enumerate(self.rows) if row.split == split])

    def take(self, numbers: Sequence[int]) -> EmbeddingTable:
        """Some rows, in the order given."""
        return EmbeddingTable(
            tuple(self.rows[number] for number in numbers), self.embedding_ND[list(numbers)], self.model
        )

    def __add__(self, other: EmbeddingTable) -> EmbeddingTable:
        """The rows of one table, then those of another of the same model."""
        assert self.model == other.model, f"{self.model} {other.model}"
        return EmbeddingTable(
            self.rows + other.rows, np.concatenate([self.embedding_ND, other.embedding_ND]), self.model
        )


def write_embeddings(table: EmbeddingTable, path: Path) -> None:
    """Write the table as Parquet, atomically.

    Columns: id, person, clothes, camera, split (strings), attributes (map of strings), embedding
    (fixed_size_list<float32>), clip_count (int32), model_fingerprint, shard_fingerprint.
    Raises InputError for values that are not finite, duplicate ids, and a path that cannot be written.
    """
    _check_values(table, path)
    rows, (count, dimensions) = table.rows, table.embedding_ND.shape
    columns = {
        "id": pa.array([row.id for row in rows], pa.string()),
        "person": pa.array([row.person for row in rows], pa.string()),
        "clothes": pa.array([row.clothes for row in rows], pa.string()),
        "camera": pa.array([row.camera for row in rows], pa.string()),
        "split": pa.array([row.split for row in rows], pa.string()),
        "attributes": pa.array([sorted(row.attributes.items()) for row in rows], pa.map_(pa.string(), pa.string())),
        "embedding": pa.FixedSizeListArray.from_arrays(pa.array(table.embedding_ND.ravel()), dimensions),
        "clip_count": pa.array([row.clip_count for row in rows], pa.int32()),
        "model_fingerprint": pa.array([table.model] * count, pa.string()),
        "shard_fingerprint": pa.array([row.shard for row in rows], pa.string()),
    }
    write_table(pa.table(columns), path)


def read_embeddings(path: Path, *, model: str | None = None) -> EmbeddingTable:
    """Read a table written by ``write_embeddings`` or by another program.

    Only id, person, camera, split and embedding are required; labels may be of any type that can be cast to text, and
    the embedding any list of floats. ``model`` is the fingerprint that the table must have, if given.
    Raises InputError, naming the file and the row (from 0), for a missing value, rows of unequal size, values that
    are not finite, duplicate ids, an unknown split, and embeddings of another model or of several models.
    """
    data = read_table(path, required=("id", "person", "camera", "split", "embedding"))
    found_model = _one_model(data, path)
    if model is not None and found_model != model:
        raise InputError(f"{path}: embeddings of model {shown(found_model)}, expected model {shown(model)}")
    embedding_ND = _embeddings(data, path)
    columns = (
        _text(data, "id", path, complete=True),
        _text(data, "person", path),
        _text(data, "clothes", path),
        _text(data, "camera", path, complete=True),
        _text(data, "split", path, complete=True),
        _attributes(data, path),
        _clip_counts(data, path),
        _text(data, "shard_fingerprint", path),
    )
    rows = tuple(
        EmbeddingRow(id, person, clothes, camera, split, attributes, clip_count, shard or "")
        for id, person, clothes, camera, split, attributes, clip_count, shard in zip(*columns, strict=True)
    )
    table = EmbeddingTable(rows, embedding_ND, found_model)
    _check_values(table, path)
    return table


def _check_values(table: EmbeddingTable, path: Path) -> None:
    finite = np.asarray(np.isfinite(table.embedding_ND).all(axis=1))
    first_row: dict[str, int] = {}
    for number, row in enumerate(table.rows):
        place = f"{path}: row {number} ({shown(row.id)[1:-1]})"
        if not finite[number]:
            raise InputError(f"{place}: the embedding holds NaN or infinity")
        if row.split not in SPLITS:
            raise InputError(f"{place}: split {shown(row.split)}, expected one of {', '.join(SPLITS)}")
        if row.id in first_row:
            raise InputError(f"{place}: duplicate id, first seen in row {first_row[row.id]}")
        first_row[row.id] = number


def _one_model(data: pa.Table, path: Path) -> str:
    models = sorted({name or "" for name in _text(data, "model_fingerprint", path)})
    if len(models) > 1:
        raise InputError(f"{path}: embeddings of {len(models)} models in one table: {one_line(', '.join(models))}")
    return models[0]


def _embeddings(data: pa.Table, path: Path) -> npt.NDArray[np.float32]:
    column = data["embedding"]
    kind = column.type
    is_list = pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind)
    if not (is_list and pa.types.is_floating(kind.value_type)):
        raise InputError(f"{path}: column embedding is {shown_type(column)}, expected a list of floats")
    lengths = pc.list_value_length(column).to_pylist()
    for number, length in enumerate(lengths):
        if not length or length != lengths[0]:
            expected = lengths[0] or "at least 1"
            raise InputError(f"{path}: row {number}: embedding of {length} values, expected {expected}")
    values = np.concatenate([chunk.flatten().to_numpy(zero_copy_only=False) for chunk in column.chunks])
    return values.astype(np.float32, copy=False).reshape(len(lengths), lengths[0])


def _text(data: pa.Table, name: str, path: Path, *, complete: bool = False) -> list[Any]:
    """A column as strings, None where empty; all None if the column is absent."""
    if name not in data.column_names:
        return [None] * data.num_rows
    try:
        values: list[str | None] = data[name].cast(pa.string()).to_pylist()
    except pa.ArrowException as error:
        raise InputError(f"{path}: column {name} is {shown_type(data[name])}, expected text") from error
    if complete and None in values:
        raise InputError(f"{path}: row {values.index(None)} has no {name}")
    return values


def _attributes(data: pa.Table, path: Path) -> list[dict[str, str]]:
    if "attributes" not in data.column_names or pa.types.is_null(data["attributes"].type):
        return [{}] * data.num_rows
    column = data["attributes"]
    if not pa.types.is_map(column.type) or not all(map(_is_text, (column.type.key_type, column.type.item_type))):
        raise InputError(f"{path}: column attributes is {shown_type(column)}, expected maps of text")
    return [{name: value for name, value in attributes or () if value is not None} for attributes in column.to_pylist()]


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _clip_counts(data: pa.Table, path: Path) -> list[int]:
    if "clip_count" not in data.column_names:
        return [1] * data.num_rows
    column = data["clip_count"]
    if not pa.types.is_integer(column.type):
        raise InputError(f"{path}: column clip_count is {shown_type(column)}, expected integers")
    counts: list[int | None] = column.to_pylist()
    for number, count in enumerate(counts):
        if count is None or count < 1:
            raise InputError(f"{path}: row {number}: clip_count is {count}, expected at least 1")
    return [count for count in counts if count is not None]

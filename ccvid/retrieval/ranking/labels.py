"""The labels of a query or gallery set, as columns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import eq
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from data_tools.columnar_rows import ColumnarRows, Numbers
from data_tools.errors import InputError

Column = Sequence[str | None]
"""A tuple, or an ``ArrowColumn``."""
_TEXTS_AT_A_TIME = 8192


class ArrowColumn(Sequence[Any]):
    """N texts, null where unknown, as an Arrow array: of labels, a code of 4 bytes each.

    A text becomes a Python string only when it is looked at.
    """

    def __init__(self, values: pa.ChunkedArray | pa.Array) -> None:
        self.values = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: Any) -> Any:
        return list(self)[index] if isinstance(index, slice) else self.values[int(index)].as_py()

    def __iter__(self) -> Iterator[Any]:
        for start in range(0, len(self), _TEXTS_AT_A_TIME):
            yield from self.values.slice(start, _TEXTS_AT_A_TIME).cast(pa.string()).to_pylist()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(other) == len(self) and all(map(eq, self, other))

    __hash__ = None  # type: ignore[assignment]


class LabelledTracklet(Protocol):
    """What a shard row and a tracklet have in common."""

    @property
    def id(self) -> str: ...
    @property
    def person(self) -> str | None: ...
    @property
    def clothes(self) -> str | None: ...
    @property
    def camera(self) -> str: ...
    @property
    def attributes(self) -> Mapping[str, str]: ...


@dataclass(frozen=True, slots=True)
class RetrievalLabels:
    """The labels of N tracklets, one column of length N for each kind; None where a label is unknown.

    Person and camera must be known: a tracklet without a person cannot be scored, so leave it out. Clothes labels
    distinguish outfits of one person only, as in ``Tracklet``.
    """

    ids: Sequence[str]
    person: Sequence[str]
    camera: Sequence[str]
    clothes: Column
    attributes: Mapping[str, Column] = field(default_factory=dict)

    def __post_init__(self) -> None:
        columns = {"person": self.person, "camera": self.camera, "clothes": self.clothes, **self.attributes}
        for name, column in columns.items():
            if len(column) != len(self.ids):
                raise InputError(f"label column {name!r} has {len(column)} rows, expected {len(self.ids)}")

    @classmethod
    def from_rows(cls, rows: Iterable[LabelledTracklet]) -> RetrievalLabels:
        """Columns of tracklets or rows of a table, in their order; raises InputError if one has no person.

        Those of rows that are columns already stay in Arrow.
        """
        if isinstance(rows, ColumnarRows):
            return cls._of_columns(rows)
        rows = list(rows)
        names = sorted({name for row in rows for name in row.attributes})
        return cls(
            ids=tuple(row.id for row in rows),
            person=tuple(_known_person(row) for row in rows),
            camera=tuple(row.camera for row in rows),
            clothes=tuple(row.clothes for row in rows),
            attributes={name: tuple(row.attributes.get(name) for row in rows) for name in names},
        )

    @classmethod
    def _of_columns(cls, rows: ColumnarRows[Any]) -> RetrievalLabels:
        unknown = np.flatnonzero(~rows.is_known("person"))
        if len(unknown):
            _known_person(rows[int(unknown[0])])
        names = sorted(pc.unique(rows.columns["attributes"].combine_chunks().keys).to_pylist())
        attributes = {name: ArrowColumn(rows.attribute(name).dictionary_encode()) for name in names}
        return cls(
            **{name: ArrowColumn(rows.columns[name]) for name in ("person", "camera", "clothes")},
            ids=ArrowColumn(rows.columns["id"]),
            attributes={name: column for name, column in attributes.items() if distinct_labels(column)},
        )

    def __len__(self) -> int:
        return len(self.ids)

    def column(self, name: str) -> Column:
        """The column that a protocol calls ``name``; all unknown if there is no such attribute."""
        known = {"id": self.ids, "person": self.person, "camera": self.camera, "clothes": self.clothes}
        return {**self.attributes, **known}.get(name, (None,) * len(self))

    def take(self, rows: Numbers) -> RetrievalLabels:
        """The labels of some rows, in the order given."""
        return RetrievalLabels(
            ids=_taken(self.ids, rows),
            person=_taken(self.person, rows),
            camera=_taken(self.camera, rows),
            clothes=_taken(self.clothes, rows),
            attributes={name: _taken(column, rows) for name, column in self.attributes.items()},
        )


def joint_codes(query: Column, gallery: Column) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Integer codes shared by both columns, numbered in sorted order of the labels; −1: unknown."""
    if isinstance(query, ArrowColumn) or isinstance(gallery, ArrowColumn):
        return _joint_codes(*map(_arrow, (query, gallery)))
    known = sorted(distinct_labels(query) | distinct_labels(gallery))
    code: dict[str | None, int] = {label: number for number, label in enumerate(known)} | {None: -1}
    return (
        np.fromiter((code[label] for label in query), np.int64, len(query)),
        np.fromiter((code[label] for label in gallery), np.int64, len(gallery)),
    )


def distinct_labels(column: Column) -> set[str]:
    """The known labels in a column."""
    some = pc.unique(column.values).to_pylist() if isinstance(column, ArrowColumn) else column
    return {label for label in some if label is not None}


def _joint_codes(query: pa.Array, gallery: pa.Array) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """``joint_codes`` of Arrow arrays of text."""
    both = pa.chunked_array([query, gallery]).combine_chunks().dictionary_encode()
    in_order = pc.sort_indices(both.dictionary).to_numpy()
    rank_L = np.empty(len(in_order) + 1, np.int64)
    rank_L[in_order], rank_L[-1] = np.arange(len(in_order)), -1
    code_N = rank_L[pc.fill_null(both.indices, -1).to_numpy()]  # −1: the last
    return code_N[: len(query)], code_N[len(query) :]


def _arrow(column: Column) -> pa.Array:
    return column.values.cast(pa.string()) if isinstance(column, ArrowColumn) else pa.array(column, pa.string())


def _taken(column: Sequence[Any], rows: Numbers) -> Sequence[Any]:
    if isinstance(column, ArrowColumn):
        return ArrowColumn(column.values.take(pa.array(np.asarray(rows, np.int64))))
    return tuple(column[row] for row in rows)


def _known_person(row: LabelledTracklet) -> str:
    if row.person is None:
        raise InputError(f"tracklet {row.id} has no person label; only labelled tracklets can be scored")
    return row.person

"""Labelled rows as Arrow columns: millions of them are opened and filtered without an object for each."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any, ClassVar, Self, TypeVar, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Row = TypeVar("Row")
Numbers = Sequence[int] | npt.NDArray[np.int64]
"""Of rows, from 0."""

CODED = pa.dictionary(pa.int32(), pa.string())
"""Type of a column of labels."""
LABELS = {
    "id": pa.string(),
    "person": CODED,
    "clothes": CODED,
    "camera": CODED,
    "split": CODED,
    "attributes": pa.map_(pa.string(), pa.string()),
}
"""Columns of every kind of row, and their types."""
_OBJECTS_AT_A_TIME = 8192


class ColumnarRows(Sequence[Row]):
    """N rows as Arrow columns, labels dictionary-coded. A row becomes an object only when it is looked at.

    The columns are the fields of ``Row``, by its names. A column that is one array stays where it is, so that columns
    of a memory-mapped file are not copied.
    """

    schema: ClassVar[pa.Schema]

    def __init__(self, columns: pa.Table) -> None:
        assert columns.schema.equals(self.schema), columns.schema
        self.columns = columns.replace_schema_metadata().unify_dictionaries().combine_chunks()

    @staticmethod
    @abstractmethod
    def row(*values: Any) -> Row:
        """One row from its values, in the order of the columns."""

    @classmethod
    def of(cls, rows: Iterable[Row]) -> Self:
        """Of single rows."""
        every = list(rows)
        values: dict[str, list[Any]] = {name: [getattr(row, name) for row in every] for name in cls.schema.names}
        values["attributes"] = [sorted(attributes.items()) for attributes in values["attributes"]]
        return cls(pa.table({name: pa.array(values[name], cls.schema.field(name).type) for name in values}))

    def __len__(self) -> int:
        return int(self.columns.num_rows)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> Self: ...
    def __getitem__(self, index: int | slice) -> Row | Self:
        numbers = range(len(self))[index]
        if isinstance(numbers, range):
            return self.take(numbers)
        return self._object([column[numbers].as_py() for column in self.columns.columns])

    def __iter__(self) -> Iterator[Row]:
        for start in range(0, len(self), _OBJECTS_AT_A_TIME):
            # Arrow decodes a dictionary's values one by one, forty times as slowly, unless they are cast before.
            part = self.columns.slice(start, _OBJECTS_AT_A_TIME).cast(self._plain_schema())
            yield from map(self._object, zip(*(column.to_pylist() for column in part.columns), strict=True))

    def __add__(self, other: Self) -> Self:
        return type(self)(pa.concat_tables([self.columns, other.columns]))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, type(self)) and self.plain().equals(other.plain())

    __hash__ = None  # type: ignore[assignment]

    def take(self, numbers: Numbers) -> Self:
        """Some rows, in the order given."""
        return type(self)(self.columns.take(pa.array(np.asarray(numbers, np.int64))))

    def text(self, name: str) -> pa.ChunkedArray:
        """A column of text, null where unknown."""
        return self.columns[name].cast(pa.string())

    def values(self, name: str) -> list[Any]:
        """A column of text as Python strings, None where unknown."""
        found: list[str | None] = self.text(name).to_pylist()
        return found

    def is_in(self, name: str, values: Collection[str]) -> npt.NDArray[np.bool_]:
        """Which rows have one of the values in a column of text, (N,)."""
        wanted, found = pa.array(list(values), pa.string()), np.zeros(len(self), np.bool_)
        start = 0
        for chunk in self.columns[name].chunks:  # of a coded column, only the few different values are compared
            coded = pa.types.is_dictionary(chunk.type)
            is_wanted = np.asarray(pc.is_in(chunk.dictionary if coded else chunk, wanted))
            if coded:
                is_wanted = np.append(is_wanted, False)[np.asarray(pc.fill_null(chunk.indices, -1))]  # -1: the last
            found[start : start + len(chunk)] = is_wanted
            start += len(chunk)
        return found

    def is_known(self, name: str) -> npt.NDArray[np.bool_]:
        """Which rows have a value in a column, (N,)."""
        return np.asarray(self.columns[name].is_valid().to_numpy(), np.bool_)

    def attribute(self, name: str) -> pa.Array:
        """An attribute of every row as text, null where it has none."""
        found = pc.map_lookup(self.columns["attributes"], pa.scalar(name), "first")
        return found.combine_chunks()

    def plain(self) -> pa.Table:
        """The columns without dictionaries, which may differ where the rows do not."""
        return self.columns.cast(self._plain_schema())

    @classmethod
    def _plain_schema(cls) -> pa.Schema:
        return pa.schema({field.name: pa.string() if field.type == CODED else field.type for field in cls.schema})

    def _object(self, values: Sequence[Any]) -> Row:
        named = dict(zip(self.schema.names, values, strict=True))
        named["attributes"] = {name: value for name, value in named["attributes"] or () if value is not None}
        return self.row(*named.values())

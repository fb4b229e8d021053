"""Tables without the rows that name certain tracklets or persons: CSV, lines of JSON, and Parquet."""

from __future__ import annotations

import csv
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_tools.parquet_files import open_parquet

TABLE_KINDS = (".csv", ".jsonl", ".parquet")
_PERSON_COLUMN, _NUMBER = re.compile("person|name"), re.compile(r"-?[0-9]+(\.[0-9]+)?")
_BETWEEN_WORDS = re.compile(r"[\s'\"`,;:()\[\]{}]+")


@dataclass(frozen=True)
class Named:
    """Tracklets, by their ids, and persons, by their names.

    A name that is a number, as released data sets have them, tells a person only in a column of persons.
    """

    ids: frozenset[str]
    persons: frozenset[str]

    def in_text(self, text: str) -> bool:
        """Whether a text, such as a message or a path, names one of them as a whole word."""
        if text in self.ids or not self.ids.isdisjoint(_BETWEEN_WORDS.split(text)):
            return True
        return self._person_words is not None and self._person_words.search(text) is not None

    def in_value(self, column: str, value: object) -> bool:
        """Whether a value of a table, or one of those within it, is one of them."""
        if isinstance(value, dict):
            return any(self.in_value(key, below) for key, below in value.items())
        if isinstance(value, list | tuple):  # tuples: the entries of a map
            return any(self.in_value(column, below) for below in value)
        if not isinstance(value, str):
            return False
        return value in self.words(column)

    def words(self, column: str) -> frozenset[str]:
        """The values of a column of text that are one of them."""
        return self._in_person_columns if _PERSON_COLUMN.search(column.lower()) else self._in_any_column

    @cached_property
    def _in_person_columns(self) -> frozenset[str]:
        return self.ids | self.persons

    @cached_property
    def _in_any_column(self) -> frozenset[str]:
        return self.ids | {name for name in self.persons if not _NUMBER.fullmatch(name)}

    @cached_property
    def _person_words(self) -> re.Pattern[str] | None:
        names = "|".join(re.escape(name) for name in sorted(self.persons) if not _NUMBER.fullmatch(name))
        return re.compile(rf"(?<!\w)(?:{names})(?!\w)") if names else None


def without_rows(path: Path, named: Named) -> tuple[int, bytes]:
    """How many rows of a table name one of them, and the content of the file without these rows.

    The other lines of text stay as they are, byte for byte.

    Args:
        path: of one of ``TABLE_KINDS``.

    Raises:
        InputError: a Parquet file cannot be read.
        OSError: a file cannot be read.
    """
    if path.suffix == ".parquet":
        return _without_parquet_rows(path, named)
    lines = path.read_bytes().decode(errors="surrogateescape").splitlines(keepends=True)
    rows = _csv_rows(lines, named) if path.suffix == ".csv" else _json_rows(lines, named)
    kept: list[str] = []
    removed = 0
    for text, is_named in rows:
        removed += is_named
        kept += [] if is_named else [text]
    return removed, "".join(kept).encode(errors="surrogateescape")


def named_ids(path: Path, persons: frozenset[str]) -> dict[str, set[str]]:
    """The ids of the rows of a Parquet table by the person that a column of persons or names gives them.

    Only of ``persons`` that are no numbers, which may be counted otherwise there.

    Raises:
        InputError: it cannot be read.
    """
    names = pa.array(sorted(name for name in persons if not _NUMBER.fullmatch(name)), pa.string())
    with open_parquet(path) as file:
        columns = [name for name in file.schema_arrow.names if name == "id" or _PERSON_COLUMN.search(name.lower())]
        table = file.read(columns) if "id" in columns else pa.table({})
    found: defaultdict[str, set[str]] = defaultdict(set)
    for name in table.column_names:
        if name != "id" and _holds_text(table[name].type) and not pa.types.is_nested(table[name].type):
            text = table[name].cast(pa.string())
            is_named = pc.is_in(text, names)
            for person, id in zip(
                text.filter(is_named).to_pylist(), table["id"].filter(is_named).to_pylist(), strict=True
            ):
                found[person].add(str(id))
    return found


def _csv_rows(lines: list[str], named: Named) -> Iterator[tuple[str, bool]]:
    """The text of each row, and whether it names one of them; a row in quotes may take several lines."""
    header = lines[0].removeprefix("\ufeff") if lines else ""
    reader = csv.reader(lines, delimiter=";" if ";" in header and "," not in header else ",")
    columns: list[str] = []
    start = 0
    try:
        for cells in reader:
            columns = columns or cells
            places = [*columns, *[""] * len(cells)]
            text, start = "".join(lines[start : reader.line_num]), reader.line_num
            yield text, any(named.in_value(column, cell.strip()) for column, cell in zip(places, cells, strict=False))
    except csv.Error:  # no table after all
        yield from ((line, named.in_text(line)) for line in lines[start:])


def _json_rows(lines: Iterable[str], named: Named) -> Iterator[tuple[str, bool]]:
    for line in lines:
        try:
            value: Any = json.loads(line)
        except ValueError:
            value = None
        yield line, named.in_text(line) if value is None else named.in_value("", value)


def _without_parquet_rows(path: Path, named: Named) -> tuple[int, bytes]:
    with open_parquet(path) as file:
        table = file.read()
    named_N = np.zeros(len(table), np.bool_)
    for name in table.column_names:
        named_N |= _is_named(name, table[name], named)
    sink = BytesIO()
    if named_N.any():
        kept = table.filter(pa.array(~named_N))
        for number, field in enumerate(kept.schema):  # a dictionary would keep what only removed rows had
            if pa.types.is_dictionary(field.type):
                plain = kept.column(number).cast(field.type.value_type)
                kept = kept.set_column(number, field, plain.dictionary_encode().cast(field.type))
        pq.write_table(kept, sink)
    return int(np.count_nonzero(named_N)), sink.getvalue()


def _is_named(name: str, column: pa.ChunkedArray, named: Named) -> npt.NDArray[np.bool_]:
    """Which rows have one of them in a column (N,)."""
    if not _holds_text(column.type):
        return np.zeros(len(column), np.bool_)
    if pa.types.is_nested(column.type):
        return np.array([named.in_value(name, value) for value in column.to_pylist()], np.bool_)
    found = pc.is_in(column.cast(pa.string()), pa.array(sorted(named.words(name)), pa.string()))
    return np.asarray(found, np.bool_)


def _holds_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        return _holds_text(kind.value_type)
    if pa.types.is_nested(kind):  # to_pylist of embeddings would take minutes
        return any(_holds_text(kind.field(number).type) for number in range(kind.num_fields))
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))

"""The labels of a query or gallery set, as columns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from data_tools.errors import InputError

Column = tuple[str | None, ...]


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
    """The labels of N tracklets, one tuple of length N per column; None where a label is unknown.

    Person and camera must be known: a tracklet without a person cannot be scored, so leave it out. Clothes labels
    distinguish outfits of one person only, as in ``Tracklet``.
    """

    ids: tuple[str, ...]
    person: tuple[str, ...]
    camera: tuple[str, ...]
    clothes: Column
    attributes: Mapping[str, Column] = field(default_factory=dict)

    def __post_init__(self) -> None:
        columns = {"person": self.person, "camera": self.camera, "clothes": self.clothes, **self.attributes}
        for name, column in columns.items():
            if len(column) != len(self.ids):
                raise InputError(f"label column {name!r} has {len(column)} rows, expected {len(self.ids)}")

    @classmethod
    def from_rows(cls, rows: Iterable[LabelledTracklet]) -> RetrievalLabels:
        """Columns of tracklets or shard rows, in their order; raises InputError if one has no person."""
        rows = list(rows)
        names = sorted({name for row in rows for name in row.attributes})
        return cls(
            ids=tuple(row.id for row in rows),
            person=tuple(_known_person(row) for row in rows),
            camera=tuple(row.camera for row in rows),
            clothes=tuple(row.clothes for row in rows),
            attributes={name: tuple(row.attributes.get(name) for row in rows) for name in names},
        )

    def __len__(self) -> int:
        return len(self.ids)

    def column(self, name: str) -> Column:
        """The column that a protocol calls ``name``; all unknown if there is no such attribute."""
        known = {"id": self.ids, "person": self.person, "camera": self.camera, "clothes": self.clothes}
        return {**self.attributes, **known}.get(name, (None,) * len(self))

    def take(self, rows: Sequence[int]) -> RetrievalLabels:
        """The labels of some rows, in the order given."""
        return RetrievalLabels(
            ids=tuple(self.ids[row] for row in rows),
            person=tuple(self.person[row] for row in rows),
            camera=tuple(self.camera[row] for row in rows),
            clothes=tuple(self.clothes[row] for row in rows),
            attributes={name: tuple(column[row] for row in rows) for name, column in self.attributes.items()},
        )


def joint_codes(query: Column, gallery: Column) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Integer codes shared by both columns, numbered in sorted order of the labels; −1: unknown."""
    known = sorted({label for column in (query, gallery) for label in column if label is not None})
    code: dict[str | None, int] = {label: number for number, label in enumerate(known)} | {None: -1}
    return (
        np.fromiter((code[label] for label in query), np.int64, len(query)),
        np.fromiter((code[label] for label in gallery), np.int64, len(gallery)),
    )


def _known_person(row: LabelledTracklet) -> str:
    if row.person is None:
        raise InputError(f"tracklet {row.id} has no person label; only labelled tracklets can be scored")
    return row.person

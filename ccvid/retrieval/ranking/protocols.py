"""Retrieval protocols as data: which gallery entries of the query's person count as matches.

Every protocol ranks the gallery by distance and divides it, for one query, into three groups:

    another person                                              wrong
    same person, agrees and differs as the protocol requires    match
    same person otherwise, and the query tracklet itself        junk: removed before ranking

For example, "same-clothes" is: same person, *agree* in clothes, *differ* in camera. An unknown label neither agrees
nor differs: a same-person entry without the label is junk, and a query without it has no match in the protocols that
use it. Labels are compared only within one person, so clothes labels need not be unique across persons.

``within`` restricts both sets, wrong entries included: VC-Clothes on cameras 2 and 3 alone is
``within={"camera": ("2", "3")}``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from ccvid.config import ProtocolOptions
from ccvid.retrieval.ranking.distances import Indices
from ccvid.retrieval.ranking.labels import RetrievalLabels, distinct_labels, joint_codes
from data_tools.errors import InputError


@dataclass(frozen=True, slots=True)
class Protocol:
    """A match agrees with the query in every column of ``agree`` and differs in every column of ``differ``.

    Columns are "camera", "clothes" or the name of an attribute ("location", "scale"). If ``within`` is not empty,
    only queries and gallery entries with one of the given labels in each of its columns take part.
    """

    name: str
    agree: tuple[str, ...] = ()
    differ: tuple[str, ...] = ("camera",)
    within: Mapping[str, tuple[str, ...]] = field(default_factory=dict, hash=False)

    @classmethod
    def of(cls, options: ProtocolOptions) -> Protocol:
        """The protocol that a recipe describes."""
        return cls(options.name, options.agree, options.differ, options.within)

    def taking_part(self, labels: RetrievalLabels) -> npt.NDArray[np.int64]:
        """The rows that take part, in order."""
        takes_part_N = np.ones(len(labels), np.bool_)
        for column, chosen in self.within.items():
            takes_part_N &= np.isin(*joint_codes(labels.column(column), chosen))
        return np.flatnonzero(takes_part_N)

    def describe(self) -> str:
        """The definition of a match, in words."""
        asked = [f"same {column}" for column in self.agree] + [f"different {column}" for column in self.differ]
        places = [f"only {column} {' and '.join(labels)}" for column, labels in self.within.items()]
        return ", ".join(["same person", *asked, *places])

    def obstacle(self, query: RetrievalLabels, gallery: RetrievalLabels) -> str | None:
        """Why the protocol cannot be applied: a label that no tracklet has, or a column unknown in a whole set."""
        for column, chosen in self.within.items():
            found = distinct_labels(query.column(column)) | distinct_labels(gallery.column(column))
            if absent := [repr(label) for label in chosen if label not in found]:
                return f"no tracklet has {column} {' or '.join(absent)}"
        for whole, rows in ((query, "query"), (gallery, "gallery")):
            labels = whole.take(self.taking_part(whole)) if self.within else whole
            if not len(labels):
                return f"no {rows} tracklet takes part"
            for column in self.agree + self.differ:
                if not distinct_labels(labels.column(column)):
                    return f"no {rows} tracklet has a {column} label"
        return None


PROTOCOLS: Mapping[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        Protocol("general"),
        Protocol("same_clothes", agree=("clothes",)),
        Protocol("clothes_changing", differ=("camera", "clothes")),
        Protocol("same_location", agree=("location",)),
        Protocol("different_location", differ=("camera", "location")),
        Protocol("same_scale", agree=("scale",)),
        Protocol("different_scale", differ=("camera", "scale")),
    )
}
"""The standard protocols by their names in metrics.json, in the order of reports."""


def with_own(own: tuple[ProtocolOptions, ...]) -> tuple[Protocol, ...]:
    """The standard protocols, then a recipe's own; raises InputError for a duplicate name."""
    protocols = dict(PROTOCOLS)
    for options in own:
        if options.name in protocols:
            raise InputError(f"score.protocols: duplicate name {options.name!r}; already used: {', '.join(protocols)}")
        protocols[options.name] = Protocol.of(options)
    return tuple(protocols.values())


@dataclass(frozen=True, slots=True)
class PersonPairLabels:
    """P pairs of a query and a gallery entry of the same person, by their rows, and how their labels compare."""

    query: RetrievalLabels
    gallery: RetrievalLabels
    query_P: Indices
    gallery_P: Indices
    _compared: dict[str, npt.NDArray[np.int8]] = field(default_factory=dict, init=False)
    """By column (P,): 1 where the labels agree, -1 where they differ, 0 where one is unknown."""

    def matches(self, protocol: Protocol) -> npt.NDArray[np.bool_]:
        """Which pairs are matches under the protocol (P,); the rest is junk."""
        match_P = self._compare("id") < 0
        for column in protocol.agree:
            match_P &= self._compare(column) > 0
        for column in protocol.differ:
            match_P &= self._compare(column) < 0
        return match_P

    def _compare(self, column: str) -> npt.NDArray[np.int8]:
        if column not in self._compared:
            query_code, gallery_code = joint_codes(self.query.column(column), self.gallery.column(column))
            query_P, gallery_P = query_code[self.query_P], gallery_code[self.gallery_P]
            known_P = (query_P >= 0) & (gallery_P >= 0)
            self._compared[column] = np.where(known_P, np.where(query_P == gallery_P, 1, -1), 0).astype(np.int8)
        return self._compared[column]

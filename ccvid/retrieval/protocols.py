"""Retrieval protocols as data: which gallery entries of the query's person count as matches.

Every protocol ranks the gallery by distance and divides it, for one query, into three:

    another person                                          wrong
    same person, agrees and differs as the protocol asks    match
    same person otherwise, and the query tracklet itself    junk: removed before ranking

so "same-clothes" is: same person, *agree* in clothes, *differ* in camera. An unknown label neither agrees
nor differs: it makes a same-person entry junk, and leaves a query without a match in the protocols that ask
for it. Labels are compared only within one person, where the clothes label says as much as the clothes class.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from ccvid.retrieval.labels import RetrievalLabels


@dataclass(frozen=True, slots=True)
class Protocol:
    """A match agrees with the query in every column of ``agree`` and differs in every column of ``differ``.

    Columns are "camera", "clothes" or the name of an attribute ("location", "scale").
    """

    name: str
    agree: tuple[str, ...] = ()
    differ: tuple[str, ...] = ("camera",)

    def with_same_camera(self) -> Protocol:
        """The protocol of a set without a camera rule (PRCC, LaST): the same camera is no junk."""
        return replace(self, differ=tuple(column for column in self.differ if column != "camera"))

    def describe(self) -> str:
        """What a match is, in words."""
        asked = [f"same {column}" for column in self.agree] + [f"other {column}" for column in self.differ]
        return ", ".join(["same person", *asked])

    def obstacle(self, query: RetrievalLabels, gallery: RetrievalLabels) -> str | None:
        """Why the protocol cannot be applied: a column that is unknown throughout one of the sets."""
        for column in self.agree + self.differ:
            for labels, rows in ((query, "query"), (gallery, "gallery")):
                if all(label is None for label in labels.column(column)):
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
"""Every protocol by its name in metrics.json, in the order of reports."""

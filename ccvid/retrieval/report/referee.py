"""The referee's table: checkpoints and controls on several data sets, as text, as JSON and as a page."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich import box
from rich.table import Table

from ccvid.model_cost import ModelCost
from ccvid.retrieval.ranking.bootstrap import Interval
from ccvid.retrieval.ranking.protocol_hash import SHOWN
from ccvid.retrieval.report.folder import report_folder, write_page
from ccvid.retrieval.report.tables import table_lines

Kind = Literal["oracle", "model", "random"]
NOTES = (
    "Figures in per cent, with 95 % intervals of a bootstrap over the queries' persons.",
    "Gap: mAP same-clothes minus clothes-changing: how far a model goes by clothes.",
    "ms, parameters and GFLOPs: the forward pass of one clip, without decoding; a multiply-add counts as two.",
    "Hash: of the rule, the queries and the gallery. Figures with other hashes answer another question.",
    "Oracle: a direction for each person, which must have 100 %. Random: a direction for each tracklet, whose top-1 "
    "must lie in the 99.9 % interval of a random order. Both are made beside the models, which see no label.",
)


@dataclass(frozen=True, slots=True)
class Figures:
    """One protocol's figures; fractions."""

    map: Interval
    top1: Interval
    queries: int
    persons: int
    hash: str


@dataclass(frozen=True, slots=True)
class Scored:
    """A model or a control on one data set; ``gap`` is None where a protocol is missing, ``cost`` of controls."""

    name: str
    kind: Kind
    protocols: Mapping[str, Figures]
    gap: Interval | None = None
    cost: ModelCost | None = None
    page: str | None = None
    """The address of its own report, seen from the referee's page."""

    def to_json(self) -> dict[str, object]:
        return {
            "name": self.name,
            "kind": self.kind,
            "protocols": {
                name: {
                    "map": found.map.to_json(),
                    "top-1": found.top1.to_json(),
                    "queries": found.queries,
                    "persons": found.persons,
                    "hash": found.hash,
                }
                for name, found in self.protocols.items()
            },
            "gap": None if self.gap is None else self.gap.to_json(),
            "cost": None if self.cost is None else self.cost.model_dump(mode="json"),
        }


@dataclass(frozen=True, slots=True)
class ProtocolFacts:
    """What a match is, how many queries have one, the protocol's hash on this data set, and top-1 of a random order."""

    meaning: str
    queries: int
    persons: int
    hash: str
    chance: float


@dataclass(frozen=True, slots=True)
class ScoredSet:
    """A data set with all that was scored on it; ``problems`` tell why its figures cannot be trusted."""

    name: str
    licence: str
    protocols: Mapping[str, ProtocolFacts]
    scored: Sequence[Scored]
    problems: Sequence[str]

    def rows(self, protocol: str) -> list[Scored]:
        """What was scored under a protocol: the oracle, the models with the best first, and the random embedder."""
        found = [each for each in self.scored if protocol in each.protocols]
        place = {"oracle": 0, "model": 1, "random": 2}
        return sorted(found, key=lambda each: (place[each.kind], -each.protocols[protocol].map.value, each.name))

    def to_json(self) -> dict[str, object]:
        return {
            "licence": self.licence,
            "problems": list(self.problems),
            "protocols": {name: dataclasses.asdict(facts) for name, facts in self.protocols.items()},
            "scored": [each.to_json() for each in self.scored],
        }


@dataclass(frozen=True, slots=True)
class RefereeTable:
    """All data sets, and for each pair that could not be scored why; keys are ``MODEL on DATA SET``."""

    sets: Sequence[ScoredSet]
    failures: Mapping[str, str]

    @property
    def alarms(self) -> list[str]:
        """Why figures cannot be trusted: a control is not as it must be."""
        return [f"{each.name}: {problem}" for each in self.sets for problem in each.problems]

    @property
    def incomparable(self) -> list[str]:
        """Which figures answer another question than the others of their data set."""
        return [
            f"{row.name} on {each.name}, {_shown(protocol)}: other queries or another gallery than the data set's "
            f"(hash {found.hash[:SHOWN]}, expected {facts.hash[:SHOWN]}), so it is not compared with the others"
            for each in self.sets
            for protocol, facts in each.protocols.items()
            for row in each.rows(protocol)
            if (found := row.protocols[protocol]).hash != facts.hash
        ]

    def to_json(self) -> dict[str, object]:
        return {
            "alarms": self.alarms,
            "failures": dict(self.failures),
            "not_compared": self.incomparable,
            "datasets": {each.name: each.to_json() for each in self.sets},
        }


def referee_text(found: RefereeTable) -> str:
    """The table, what is wrong with it, and the licences, as plain text."""
    lines = [line for alarm in found.alarms for line in ("", f"!!! DO NOT TRUST THESE FIGURES: {alarm}")]
    for each in found.sets:
        table = Table(title=f"{each.name} (%)", title_justify="left", box=box.SIMPLE_HEAD)
        for number, heading in enumerate(("protocol", "model", *HEADINGS, "hash")):
            table.add_column(heading, justify="right" if number > 1 else "left")
        for protocol in each.protocols:
            for place, (row, cells) in enumerate(_cells(each, protocol)):
                marks = row.protocols[protocol].hash[:SHOWN] + _mark(each, protocol, row)
                flat = (value if not between else f"{value} ({between})" for value, between in cells)
                table.add_row("" if place else _shown(protocol), row.name, *flat, marks)
        lines += ["", *table_lines(table), f"  licence: {each.licence}"]
    machines = {row.cost.machine for each in found.sets for row in each.scored if row.cost}
    lines += ["", *(f"  {line}" for note in NOTES for line in textwrap.wrap(note, 118))]
    lines += [f"  timed on: {machine}" for machine in sorted(machines)]
    lines += [f"  ≠ {line}" for line in found.incomparable]
    lines += [f"  not scored: {pair}: {reason}" for pair, reason in found.failures.items()]
    return "\n".join(lines).strip("\n")


HEADINGS = ("mAP", "top-1", "gap", "ms/clip", "param. (M)", "GFLOPs")


def write_referee(found: RefereeTable, folder: Path, title: str) -> None:
    """Write the page, completely or not at all; raises InputError like ``report_folder``."""
    models = {row.name for each in found.sets for row in each.scored if row.kind == "model"}
    pairs = sum(row.kind == "model" for each in found.sets for row in each.scored)
    machines = sorted({row.cost.machine for each in found.sets for row in each.scored if row.cost})
    shown = {
        "title": title,
        "cards": {"models": len(models), "data sets": len(found.sets), "pairs scored": pairs}
        | {"pairs not scored": len(found.failures)},
        "alarms": found.alarms,
        "failures": found.failures,
        "incomparable": found.incomparable,
        "headings": HEADINGS,
        "notes": NOTES,
        "machines": machines,
        "sets": [_set(each) for each in found.sets],
    }
    with report_folder(folder) as new:
        write_page(new, "index.html", "referee.html.j2", shown)


def _set(each: ScoredSet) -> dict[str, object]:
    protocols = [
        {
            "name": _shown(name),
            "meaning": facts.meaning,
            "queries": f"{facts.queries:,}",
            "persons": f"{facts.persons:,}",
            "hash": facts.hash[:SHOWN],
            "chance": f"{100 * facts.chance:.1f}",
            "rows": [
                (row.name + _mark(each, name, row), row.kind, row.page, cells) for row, cells in _cells(each, name)
            ],
        }
        for name, facts in each.protocols.items()
    ]
    return {"name": each.name, "licence": each.licence, "protocols": protocols}


def _cells(each: ScoredSet, protocol: str) -> Iterator[tuple[Scored, list[tuple[str, str]]]]:
    """Each row with its cells under ``HEADINGS``: a figure and its interval, both empty where there is none."""
    for row in each.rows(protocol):
        found, cost = row.protocols[protocol], row.cost
        intervals = [
            percent(found.map),
            percent(found.top1),
            ("", "") if row.gap is None else percent(row.gap, sign="+"),
        ]
        work = ["", "", ""]
        if cost is not None:
            millions, billions = (
                "" if count is None else f"{count / scale:,.1f}"
                for count, scale in ((cost.parameters, 1e6), (cost.flops, 1e9))
            )
            work = [f"{cost.milliseconds:,.1f}", millions, billions]
        yield row, [*intervals, *((figure, "") for figure in work)]


def percent(interval: Interval, *, sign: str = "") -> tuple[str, str]:
    """A fraction's interval in per cent: the value, and both ends."""
    value, low, high = (f"{100 * figure:{sign}.1f}" for figure in (interval.value, interval.low, interval.high))
    return value.replace("-", "−"), f"{low} … {high}".replace("-", "−")


def _mark(each: ScoredSet, protocol: str, row: Scored) -> str:
    return "" if row.protocols[protocol].hash == each.protocols[protocol].hash else " ≠"


def _shown(name: str) -> str:
    return name.replace("_", "-")

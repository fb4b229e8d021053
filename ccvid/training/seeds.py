"""Several seeds of one recipe, reported as mean ± standard deviation, because a single run says little."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ccvid.retrieval.ranking.metrics import CMC_RANKS
from ccvid.retrieval.ranking.single_shot import Spread, SpreadResult
from ccvid.retrieval.report.tables import spread_table
from data_tools.documents import parse_json
from data_tools.errors import InputError
from data_tools.files import atomic_file, read_document
from data_tools.wording import one_line, shown

SEEDS_FILE = "seeds.json"

SeedFigures = Mapping[str, tuple[tuple[float, ...], ...]]
"""Each seed's scores by protocol, as fractions: mAP, mINP, and top-k for CMC_RANKS."""


@dataclass(frozen=True, slots=True)
class SeedSummary:
    """The figures of several seeds' runs; ``single_shot`` has the means over the draws."""

    seeds: tuple[int, ...]
    protocols: SeedFigures
    single_shot: SeedFigures

    @classmethod
    def of(cls, metrics: Mapping[int, Mapping[str, Any]]) -> SeedSummary:
        """From the content of each seed's ``metrics.json``; protocols that any of them lacks are left out."""
        seeds = tuple(sorted(metrics))
        single_shot = [metrics[seed].get("single_shot", {}) for seed in seeds]
        return cls(seeds, _by_protocol([metrics[seed] for seed in seeds]), _by_protocol(single_shot))

    def to_json(self) -> dict[str, object]:
        """The content of seeds.json, as fractions; with a single seed, sd is null."""
        single_shot = {"single_shot": {"protocols": _to_json(self.single_shot)}} if self.single_shot else {}
        return {"seeds": list(self.seeds), "protocols": _to_json(self.protocols), **single_shot}

    def table(self, title: str) -> str:
        """Per cent, mean ± sample standard deviation over the seeds."""
        of_seeds = f"mean ± standard deviation of {len(self.seeds)} seed{'s' if len(self.seeds) > 1 else ''}"
        tables = [spread_table(f"{title}, {of_seeds}", _spreads(self.protocols))]
        if self.single_shot:
            title = f"One gallery tracklet per person, {of_seeds}, each averaged over its draws"
            tables.append(spread_table(title, _spreads(self.single_shot)))
        return "\n\n".join(tables)


def read_seed_metrics(file: Path) -> dict[str, Any]:
    """Read a finished run's metrics.json.

    Raises:
        InputError: it is missing, or not written by a run.
    """
    try:
        metrics = parse_json(read_document(file), file)
        SeedSummary.of({0: metrics})
    except FileNotFoundError:
        raise InputError(f"{file}: no such file; the run scored nothing") from None
    except InputError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{file}: not the metrics of a run ({type(error).__name__}: {one_line(error)})") from None
    return dict(metrics)


def write_seeds(summary: SeedSummary, folder: Path, *, title: str) -> str:
    """Write seeds.txt and, last, seeds.json under ``folder``; returns the table."""
    folder.mkdir(parents=True, exist_ok=True)
    text = summary.table(title)
    for name, content in (("seeds.txt", text), (SEEDS_FILE, json.dumps(summary.to_json(), indent=1))):
        with atomic_file(folder / name) as file:
            file.write(f"{content}\n".encode())
    return text


def _by_protocol(metrics: list[Mapping[str, Any]]) -> SeedFigures:
    found: list[Mapping[str, Any]] = [each.get("protocols", {}) for each in metrics]
    names = [name for name in found[0] if all(name in protocols for protocols in found)]
    return {name: tuple(_figures(protocols[name]) for protocols in found) for name in names}


def _figures(entry: Mapping[str, Any]) -> tuple[float, ...]:
    figures = (entry["map"], entry["minp"], *(entry["cmc"][str(rank)] for rank in CMC_RANKS))
    return tuple(_fraction(figure["mean"] if isinstance(figure, Mapping) else figure) for figure in figures)


def _fraction(value: object) -> float:
    if not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ValueError(f"got {shown(value)}, expected a number from 0 to 1")
    return float(value)


def _spreads(figures: SeedFigures) -> dict[str, SpreadResult]:
    return {name: SpreadResult.of(of_seeds) for name, of_seeds in figures.items()}


def _to_json(figures: SeedFigures) -> dict[str, object]:
    entries: dict[str, object] = {}
    for name, of_seeds in figures.items():
        precision, penalty, *cmc = (
            {**Spread.of(values).to_json(), "values": list(values)} for values in zip(*of_seeds, strict=True)
        )
        entries[name] = {"map": precision, "minp": penalty, "cmc": dict(zip(map(str, CMC_RANKS), cmc, strict=True))}
    return entries

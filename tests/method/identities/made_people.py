"""Made tracklets of people who change their clothes, as embeddings with labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from ccvid.identities.evidence import Evidence, learn_evidence
from ccvid.identities.grouping import Pairs
from ccvid.identities.sightings import Exclusions, Sightings, TravelTimes
from ccvid.retrieval.embedding.table import EmbeddingRow, EmbeddingRows, EmbeddingTable
from ccvid.retrieval.ranking.distances import Indices

DIMENSIONS = 24


def people(
    persons: int = 12, outfits: int = 3, each: int = 2, *, noise: float = 0.5, seed: int = 0, days: bool = True
) -> EmbeddingTable:
    """Every person in every outfit ``each`` times, an outfit a day; ids in order, ``p003/o1/0``."""
    random = np.random.default_rng(seed)
    body, coat = random.standard_normal((2, persons, outfits, DIMENSIONS))
    rows, embeddings = [], []
    for person in range(persons):
        for outfit in range(outfits):
            for take in range(each):
                at = f"2026-11-{2 + outfit:02}T{8 + take:02}:{person:02}:00.000+00:00"
                row = EmbeddingRow(
                    id=f"p{person:03}/o{outfit}/{take}",
                    person=f"P{person}",
                    clothes=f"O{outfit}",
                    camera=f"c{take}",
                    split="gallery",
                    attributes={"start_time": at, "end_time": at} if days else {},
                    clip_count=1,
                    shard="made",
                )
                rows.append(row)
                own = body[person, 0] + 0.8 * coat[person, outfit] + noise * random.standard_normal(DIMENSIONS)
                embeddings.append(own)
    return EmbeddingTable(EmbeddingRows.of(rows), np.array(embeddings, np.float32), "made")


def learnt() -> Evidence:
    return learn_evidence(people(24, seed=99))


def with_attributes(table: EmbeddingTable, attributes: Mapping[str, Mapping[str, str]]) -> EmbeddingTable:
    """The same with further attributes of some tracklets, by id."""
    rows = [replace(row, attributes={**row.attributes, **attributes.get(row.id, {})}) for row in table.rows]
    return EmbeddingTable(EmbeddingRows.of(rows), table.embedding_ND, table.model)


def pairs_of(table: EmbeddingTable, evidence: Evidence, travel: TravelTimes | None = None) -> Pairs:
    exclusions = Exclusions.of(Sightings.of(table.rows), travel or {})
    return Pairs(evidence, evidence.vectors(table.embedding_ND), exclusions, evidence.prior(len(table.rows)))


def all_pairs(count: int) -> tuple[Indices, Indices]:
    first_P, second_P = np.triu_indices(count, 1)
    return first_P, second_P

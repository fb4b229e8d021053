"""Other sources' evidence in Parquet files, any number of rows about any tracklets.

    id, embedding, quality            of tracklets, compared by cosine; a null embedding says nothing (no face in view)
    query_id, gallery_id, score, quality     of pairs; a higher score means more likely one person

The quality is optional, a number of at least 0 that grows with the trust in an embedding or score; null is unknown. Ids
are those of the tracklets; rows of other ids are left out. Pairs and tracklets without a row say nothing. That must not
depend on the score: a table of only the best matches would make all others look undecided.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ccvid.retrieval.embedding.parquet import read_table, shown_type
from ccvid.retrieval.embedding.table import embedding_column, text_column
from ccvid.retrieval.fusion.evidence import Evidence, PairEvidence, TrackletEvidence
from ccvid.retrieval.fusion.fusion import OWN
from ccvid.retrieval.ranking.distances import LARGEST, SMALLEST, CosineDistances, Floats, Indices, Scores
from data_tools.errors import InputError
from data_tools.wording import shown

COLUMNS = ("id", "embedding", "query_id", "gallery_id", "score", "quality", "model_fingerprint")


class EvidenceTable(Protocol):
    """One source's evidence about any tracklets."""

    @property
    def name(self) -> str: ...

    @property
    def model(self) -> str:
        """Fingerprint of the model behind it; empty if unknown."""

    def between(self, query_ids: Sequence[str], gallery_ids: Sequence[str]) -> Evidence:
        """What it says of these queries and entries."""


@dataclass(frozen=True, slots=True)
class TrackletTable:
    """Embeddings float32 (N, D) of N tracklets, and how good each is (N,), NaN where unknown."""

    name: str
    model: str
    ids: pa.ChunkedArray
    embedding_ND: Floats
    quality_N: Scores

    def between(self, query_ids: Sequence[str], gallery_ids: Sequence[str]) -> Evidence:
        row_Q, row_G = (numbers_of(ids, self.ids) for ids in (query_ids, gallery_ids))
        known_Q, known_G = (np.unique(row[row >= 0]) for row in (row_Q, row_G))
        distances = CosineDistances(self.embedding_ND[known_Q], self.embedding_ND[known_G], gallery_checked=True)
        places = (
            np.where(row >= 0, np.searchsorted(known, row), -1) for row, known in ((row_Q, known_Q), (row_G, known_G))
        )
        qualities = (np.where(row >= 0, self.quality_N[row], np.nan) for row in (row_Q, row_G))
        return TrackletEvidence(self.name, distances, *places, *qualities)


@dataclass(frozen=True, slots=True)
class PairTable:
    """Scores of N pairs, and how good each is (N,), NaN where unknown."""

    name: str
    model: str
    query_ids: pa.ChunkedArray
    gallery_ids: pa.ChunkedArray
    score_N: Scores
    quality_N: Scores

    def between(self, query_ids: Sequence[str], gallery_ids: Sequence[str]) -> Evidence:
        sides = (self.query_ids, query_ids), (self.gallery_ids, gallery_ids)
        query_N, gallery_N = (numbers_of(column, pa.array(list(ids), pa.string())) for column, ids in sides)
        known = np.flatnonzero((query_N >= 0) & (gallery_N >= 0))
        key_S = query_N[known] * len(gallery_ids) + gallery_N[known]
        order = np.argsort(key_S, kind="stable")
        row_S = known[order]
        shape = len(query_ids), len(gallery_ids)
        return PairEvidence(self.name, shape, key_S[order], self.score_N[row_S], self.quality_N[row_S])


def read_evidence(paths: Sequence[Path]) -> list[EvidenceTable]:
    """Read each file; a source gets the name of its file.

    Raises:
        InputError: a file cannot be read, lacks a column, holds a wrong value (the message names the row, from 0) or a
            tracklet or pair twice, or two files have one name.
    """
    names = [OWN, *(path.stem for path in paths)]
    for path in paths:
        if names.count(path.stem) > 1:
            raise InputError(f"{path}: the name {shown(path.stem)} is taken; files to fuse need distinct names")
    return [_read(path) for path in paths]


def _read(path: Path) -> EvidenceTable:
    data = read_table(path, required=(), wanted=lambda name: name in COLUMNS)
    of_tracklets = "embedding" in data.column_names
    needed = ("id", "embedding") if of_tracklets else ("query_id", "gallery_id", "score")
    if missing := [name for name in needed if name not in data.column_names]:
        raise InputError(
            f"{path}: no column {', '.join(missing)}; expected id and embedding, or query_id, gallery_id and score"
        )
    models = pc.unique(text_column(data, "model_fingerprint", path)).to_pylist()
    if len(models) > 1:
        raise InputError(f"{path}: holds evidence of {len(models)} models; give each its own file")
    _check_distinct([text_column(data, name, path, complete=True) for name in needed[:-1]], path)
    value_N = _numbers(data, "quality", path) if "quality" in data.column_names else np.full(data.num_rows, np.nan)
    if (wrong := np.flatnonzero(value_N < 0)).size:
        raise InputError(f"{path}: row {wrong[0]}: quality is {value_N[wrong[0]]:g}, expected at least 0")
    read = _tracklets if of_tracklets else _pairs
    return read(data, path, models[0] or "", value_N)


def _tracklets(data: pa.Table, path: Path, model: str, quality_N: Scores) -> TrackletTable:
    has_N = data["embedding"].is_valid().to_numpy(zero_copy_only=False)
    if not has_N.any():
        raise InputError(f"{path}: no row has an embedding")
    rows = np.flatnonzero(has_N)
    embedding_ND = embedding_column(data.take(rows), path)
    largest_N = np.abs(embedding_ND).max(axis=1)
    if (wrong := np.flatnonzero(~((largest_N >= SMALLEST) & (largest_N <= LARGEST)))).size:
        raise InputError(
            f"{path}: row {rows[wrong[0]]}: the largest absolute value of the embedding is {largest_N[wrong[0]]}, "
            f"expected {SMALLEST:g} to {LARGEST:g}; use null where there is none"
        )
    ids = text_column(data, "id", path).take(rows)
    return TrackletTable(path.stem, model, ids, embedding_ND, quality_N[rows])


def _pairs(data: pa.Table, path: Path, model: str, quality_N: Scores) -> PairTable:
    score_N = _numbers(data, "score", path)
    rows = np.flatnonzero(~np.isnan(score_N))
    if not len(rows):
        raise InputError(f"{path}: no row has a score")
    query_ids, gallery_ids = (text_column(data, f"{side}_id", path).take(rows) for side in ("query", "gallery"))
    return PairTable(path.stem, model, query_ids, gallery_ids, score_N[rows], quality_N[rows])


def _check_distinct(columns: Sequence[pa.ChunkedArray], path: Path) -> None:
    """Raise InputError if two rows agree in all the columns."""
    codes = [column.combine_chunks().dictionary_encode().indices.to_numpy().astype(np.int64) for column in columns]
    key_N = codes[0] if len(codes) == 1 else codes[0] * (codes[1].max() + 1) + codes[1]
    _, first_N, place_N = np.unique(key_N, return_index=True, return_inverse=True)
    if (twice := np.flatnonzero(first_N[place_N] != np.arange(len(key_N)))).size:
        row = twice[0]
        names = " and ".join(shown(column[row].as_py()) for column in columns)
        raise InputError(f"{path}: row {row}: {names} is also in row {first_N[place_N[row]]}")


def numbers_of(texts: Sequence[str] | pa.ChunkedArray, among: pa.ChunkedArray | pa.Array) -> Indices:
    """Where each text is among the others; −1 if it is not."""
    column = texts if isinstance(texts, pa.ChunkedArray) else pa.array(list(texts), pa.string())
    found: Indices = (
        pc.fill_null(pc.index_in(column, value_set=among), -1).to_numpy(zero_copy_only=False).astype(np.int64)
    )
    return found


def _numbers(data: pa.Table, name: str, path: Path) -> Scores:
    """A column of numbers in float64, NaN for null."""
    column = data[name]
    kind = column.type
    if not (pa.types.is_floating(kind) or pa.types.is_integer(kind)):
        raise InputError(f"{path}: column {name} is {shown_type(column)}, expected numbers")
    values: Scores = column.cast(pa.float64()).to_numpy()
    if (wrong := np.flatnonzero(column.is_valid().to_numpy(zero_copy_only=False) & ~np.isfinite(values))).size:
        raise InputError(f"{path}: row {wrong[0]}: {name} is {values[wrong[0]]}, expected a finite number, or null")
    return values

"""The first k entries of each query: candidates by quick scores, then the exact order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from ccvid.retrieval.ranking.distances import Floats, Indices, Scores

Codes = tuple[Indices, Indices]
"""A label of the queries (Q,) and of the gallery (G,) as shared integer codes; −1 is unknown."""

PIECE = 128
"""Scores whose highest is taken first: only pieces with a candidate are looked at one by one."""
MOST_KEPT = 2**18
"""Candidates of a group of queries; beyond it, those that exact scores rule out are dropped."""

LOWEST = torch.finfo(torch.float32).min


@dataclass(frozen=True, slots=True)
class NearestEntries:
    """``gallery_QK`` int64: gallery indices by decreasing score, −1 after the last; ``score_QK`` float64: the cosines.

    Where there is no entry, the score is −infinity.
    """

    gallery_QK: Indices
    score_QK: Scores

    @classmethod
    def of(
        cls,
        queries: int,
        k: int,
        query_C: Indices,
        gallery_C: Indices,
        score_C: Scores,
    ) -> NearestEntries:
        """The first k of C candidates for each query, by decreasing score, ties in gallery order."""
        gallery_QK, score_QK = np.full((queries, k), -1), np.full((queries, k), -np.inf)
        order = np.lexsort((gallery_C, -score_C, query_C))
        query_C, gallery_C, score_C = query_C[order], gallery_C[order], score_C[order]
        place_C = np.arange(len(query_C)) - np.searchsorted(query_C, query_C)
        kept = place_C < k
        place = query_C[kept], place_C[kept]
        gallery_QK[place], score_QK[place] = gallery_C[kept], score_C[kept]
        return cls(gallery_QK, score_QK)

    @classmethod
    def of_queries(cls, parts: Sequence[NearestEntries]) -> NearestEntries:
        """Of all queries, from the entries of consecutive parts of them."""
        return cls(
            np.concatenate([part.gallery_QK for part in parts]), np.concatenate([part.score_QK for part in parts])
        )

    @classmethod
    def of_parts(cls, parts: Sequence[NearestEntries], starts: Sequence[int], k: int) -> NearestEntries:
        """The first k of a gallery, from those of its parts, whose entries are numbered from ``starts`` on."""
        queries = len(parts[0].gallery_QK)
        places = [np.nonzero(part.gallery_QK >= 0) for part in parts]
        query_C = np.concatenate([query for query, _ in places])
        gallery_C = np.concatenate(
            [part.gallery_QK[place] + start for part, start, place in zip(parts, starts, places, strict=True)]
        )
        score_C = np.concatenate([part.score_QK[place] for part, place in zip(parts, places, strict=True)])
        return cls.of(queries, k, query_C, gallery_C, score_C)


@dataclass(frozen=True, slots=True)
class NearestOthers:
    """The K nearest entries of other persons for each query, by rank; −1 and infinity beyond the last."""

    gallery_QK: Indices
    distance_QK: Floats

    @classmethod
    def none(cls, queries: int, nearest: int) -> NearestOthers:
        return cls(np.full((queries, nearest), -1), np.full((queries, nearest), np.inf))


class NearCandidates:
    """Entries that could be among the first k of some queries, from quick scores that come tile by tile.

    Args:
        near: twice the largest error of a quick score.
        exact: the exact scores of pairs (query, gallery), for when too many candidates come so near one another that
            quick scores cannot tell them apart (``MOST_KEPT``).
        exclude: an entry with the same code as the query in one of these is left out.
        least_Q: exact scores; entries with lower ones are not wanted.
    """

    def __init__(
        self,
        queries: int,
        k: int,
        near: float,
        exact: Callable[[Indices, Indices], Scores],
        *,
        exclude: Sequence[Codes] = (),
        least_Q: Scores | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self._near, self._exact = near, exact
        self._exclude = [(torch.from_numpy(asked).to(device), torch.from_numpy(there)) for asked, there in exclude]
        self._best_QK = torch.full((queries, k), -torch.inf, device=device)
        self._floor_Q = torch.full((queries,), LOWEST, device=device)
        if least_Q is not None:
            self._raise_floor(least_Q)
        self._kept = [(self._none(torch.int64), self._none(torch.int64), self._none(torch.float32))]
        self._new: list[tuple[Tensor, Tensor, Tensor]] = []
        self._most = max(MOST_KEPT, 8 * queries * k)
        self._begun = False

    def look(self, score_QN: Tensor, start: int) -> None:
        """Take in the quick scores of N entries, which begin at ``start`` in the gallery."""
        if not self._begun:
            self._begin(score_QN, start)
        if missing := -score_QN.shape[1] % PIECE:
            score_QN = pad(score_QN, (0, missing), value=-torch.inf)
        piece_QBP = score_QN.view(len(score_QN), -1, PIECE)
        query_H, piece_H = torch.nonzero(piece_QBP.amax(dim=2) >= self._floor_Q[:, None], as_tuple=True)
        if not len(query_H):
            return
        score_HP = piece_QBP[query_H, piece_H]
        hit_C, place_C = torch.nonzero(score_HP >= self._floor_Q[query_H, None], as_tuple=True)
        query_C, gallery_C = query_H[hit_C], start + piece_H[hit_C] * PIECE + place_C
        new = query_C, gallery_C, score_HP[hit_C, place_C]
        if self._exclude:
            allowed_C = ~self._left_out(query_C, gallery_C)
            new = new[0][allowed_C], new[1][allowed_C], new[2][allowed_C]
        self._new.append(new)
        if sum(len(query_C) for query_C, *_ in self._new) >= len(self._floor_Q):
            self._merge()

    def found(self) -> tuple[Indices, Indices]:
        """Pairs (query, entry), by query, that include the first k of each query."""
        self._merge()
        self._drop_below()
        query_C, gallery_C, _ = self._kept[0]
        order = query_C.argsort(stable=True)
        return query_C[order].numpy(force=True), gallery_C[order].numpy(force=True)

    def _begin(self, score_QN: Tensor, start: int) -> None:
        """Set a floor that spares taking in the first tile whole."""
        self._begun = True
        k = self._best_QK.shape[1]
        if score_QN.shape[1] < k:
            return
        if self._exclude:
            query_Q1 = torch.arange(len(score_QN), device=score_QN.device)[:, None]
            gallery_N = start + torch.arange(score_QN.shape[1], device=score_QN.device)
            score_QN = score_QN.masked_fill(self._left_out(query_Q1, gallery_N), -torch.inf)
        self._floor_Q = torch.maximum(self._floor_Q, score_QN.topk(k).values[:, -1] - self._near)

    def _left_out(self, query: Tensor, gallery: Tensor) -> Tensor:
        left_out = torch.zeros((), dtype=torch.bool, device=query.device)
        for asked_Q, there_G in self._exclude:
            there = there_G[gallery.to(there_G.device)].to(query.device)
            left_out = left_out | ((asked_Q[query] == there) & (there >= 0))
        return left_out

    def _merge(self) -> None:
        """Raise the floors by the new candidates."""
        if not self._new:
            return
        query_C, gallery_C, score_C = (torch.cat(parts) for parts in zip(*self._new, strict=True))
        self._new = []
        order = query_C.argsort(stable=True)
        if len(order):
            self._best_QK = _with_more(self._best_QK, query_C[order], score_C[order])
            self._floor_Q = torch.maximum(self._floor_Q, self._best_QK[:, -1] - self._near)
        self._kept.append((query_C, gallery_C, score_C))
        if sum(len(query_C) for query_C, *_ in self._kept) > self._most:
            self._drop_below()
            if len(self._kept[0][0]) > self._most // 2:
                self._drop_by_exact_scores()

    def _drop_below(self) -> None:
        query_C, gallery_C, score_C = (torch.cat(parts) for parts in zip(*self._kept, strict=True))
        left_C = score_C >= self._floor_Q[query_C]
        self._kept = [(query_C[left_C], gallery_C[left_C], score_C[left_C])]

    def _drop_by_exact_scores(self) -> None:
        """Keep the first k of each query so far; a later entry must come within the quick error of the k-th."""
        queries, k = self._best_QK.shape
        query_C, gallery_C = (column.numpy(force=True) for column in self._kept[0][:2])
        exact_C = self._exact(query_C, gallery_C)
        nearest = NearestEntries.of(queries, k, query_C, gallery_C, exact_C)
        last_Q = nearest.score_QK[:, -1]
        last_gallery_Q = nearest.gallery_QK[:, -1]
        after_C = (exact_C == last_Q[query_C]) & (gallery_C > last_gallery_Q[query_C])
        left_C = (exact_C >= last_Q[query_C]) & ~after_C
        left = torch.from_numpy(left_C).to(self._floor_Q.device)
        self._kept = [tuple(column[left] for column in self._kept[0])]  # type: ignore[list-item]
        self._raise_floor(last_Q)

    def _raise_floor(self, least_Q: Scores) -> None:
        """To what an entry with such an exact score may have as its quick one."""
        floor_Q = torch.from_numpy(least_Q - self._near / 2).to(self._floor_Q)  # rounded, perhaps up
        lower_Q = torch.nextafter(floor_Q, torch.full_like(floor_Q, -torch.inf)).clamp(min=LOWEST)
        self._floor_Q = torch.maximum(self._floor_Q, lower_Q)

    def _none(self, dtype: torch.dtype) -> Tensor:
        return torch.empty(0, dtype=dtype, device=self._best_QK.device)


def _with_more(best_QK: Tensor, query_C: Tensor, score_C: Tensor) -> Tensor:
    """The k highest of each query's scores so far and the new ones; ``query_C`` is sorted."""
    count_Q = torch.bincount(query_C, minlength=len(best_QK))
    first_Q = count_Q.cumsum(0) - count_Q
    more = torch.full((len(best_QK), int(count_Q.max())), -torch.inf, device=best_QK.device)
    more[query_C, torch.arange(len(query_C), device=more.device) - first_Q[query_C]] = score_C
    return torch.cat((best_QK, more), dim=1).topk(best_QK.shape[1]).values

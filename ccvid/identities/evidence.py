"""How strongly two tracklets speak for one person, in log-odds, learnt from labelled tracklets of other people.

A pair of one person wears the same clothes or others. For each there is a calibrated curve against two persons' pairs:

    same clothes       of whitened cosines, which tell outfits apart best
    clothes-changing   of plain cosines, by which the network was trained to see through clothes

The two are mixed by how likely the clothes are the same (``SAME_CLOTHES``): within a day nearly always, between days
rarely. So a strong resemblance within a day is strong evidence, the same resemblance a day later less, and different
clothes within a day speak against one person.

Log-odds are whole millionths of a nat, so that their sums do not depend on the order of adding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt
from pydantic import Field
from safetensors import SafetensorError
from safetensors.numpy import load, save

from ccvid.retrieval.embedding.table import EmbeddingRows, EmbeddingTable
from ccvid.retrieval.ranking.distances import Floats, Indices, Scores, on_grid
from ccvid.retrieval.thresholds.calibration import MOST_IMPOSTORS, Calibration, PairSample, fit_calibration
from data_tools.documents import parse_json, parse_model
from data_tools.errors import InputError
from data_tools.options import Options

UNIT = 1_000_000
"""Of log-odds: a nat."""

SHRINKAGE = 0.3
"""Share of the mean variance that whitening adds to each; with less, it amplifies noise."""
FOLDS = 4
"""Of persons: the scores of each are whitened by the others', as those of a user's tracklets will be."""
LEAST_PERSONS = 2 * FOLDS
PAIRS_AT_A_TIME = 4096


class Relation(IntEnum):
    """When two tracklets are from."""

    UNKNOWN = 0
    WITHIN_A_DAY = 1
    OTHER_DAYS = 2


SAME_CLOTHES: Mapping[Relation, float] = {
    Relation.UNKNOWN: 0.3,
    Relation.WITHIN_A_DAY: 0.95,
    Relation.OTHER_DAYS: 0.05,
}
"""How likely one person wears the same clothes in two tracklets."""


@dataclass(frozen=True, slots=True)
class UnitVectors:
    """Unit vectors of N tracklets in float64 (``on_grid``), so that cosines are exact: plain, and whitened."""

    plain_ND: Scores
    whitened_ND: Scores


class Curves(Options):
    """What is learnt, but for the whitening."""

    format_version: int = Field(default=1, ge=1, le=1)
    same_clothes: Calibration
    clothes_changing: Calibration
    partners: float = Field(gt=0, allow_inf_nan=False)
    """Mean number of other tracklets of a tracklet's person."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """The learnt curves; ``mean_D`` and ``whitening_DD`` float64 make the whitened vectors."""

    curves: Curves
    mean_D: Scores
    whitening_DD: Scores

    @property
    def model(self) -> str:
        """Fingerprint of the embedder."""
        return self.curves.same_clothes.model

    @property
    def strongest(self) -> int:
        """The most that resemblance can say for one person: log-odds in millionths."""
        return max(
            _millionths(np.array(curve.log_odds[-1])).item()
            for curve in (self.curves.same_clothes, self.curves.clothes_changing)
        )

    def prior(self, tracklets: int, share: float | None = None) -> int:
        """Log-odds, in millionths, that any two of a gallery's tracklets show one person, before they are compared.

        Args:
            tracklets: in the gallery; a tracklet has as many partners as a labelled one, whatever the gallery's size.
            share: the share of such pairs, in (0, 1), if it is known.
        """
        found = min(0.5, self.curves.partners / max(1, tracklets - 1)) if share is None else share
        return _millionths(np.log(found / (1 - found))).item()

    def vectors(self, embedding_ND: Floats) -> UnitVectors:
        """Of embeddings by the same model."""
        plain_ND = on_grid(embedding_ND)
        return UnitVectors(plain_ND, _whitened(plain_ND, self.mean_D, self.whitening_DD))

    def log_odds(self, plain: Scores, whitened: Scores, relation: npt.NDArray[np.int8]) -> Indices:
        """Log-odds in millionths for cosines of pairs, arrays of one shape; those of the prior are not in it."""
        same, other = self._of_each(plain, whitened)
        share = np.array([SAME_CLOTHES[kind] for kind in Relation])[relation]
        return _millionths(np.logaddexp(same + np.log(share), other + np.log1p(-share)))

    def most_log_odds(self, plain: Scores, whitened: Scores) -> Indices:
        """What ``log_odds`` are at most, whenever two tracklets are from."""
        return _millionths(np.maximum(*self._of_each(plain, whitened))) + 1  # for rounding

    def clothes_log_odds(self, plain: Scores, whitened: Scores, relation: npt.NDArray[np.int8]) -> Indices:
        """Log-odds in millionths that one person wears the same clothes in both; arrays as for ``log_odds``."""
        same, other = self._of_each(plain, whitened)
        share = np.array([SAME_CLOTHES[kind] for kind in Relation])[relation]
        return _millionths(same - other + np.log(share / (1 - share)))

    def to_bytes(self) -> bytes:
        """A safetensors file."""
        arrays = {"mean": self.mean_D, "whitening": self.whitening_DD}
        return bytes(save(arrays, {"curves": self.curves.model_dump_json()}))

    @classmethod
    def from_bytes(cls, content: bytes, place: object) -> Evidence:
        """What ``to_bytes`` made; raises InputError, naming the file ``place``, for anything else."""
        try:
            arrays = load(content)
        except (SafetensorError, ValueError, KeyError) as error:
            raise InputError(f"{place}: not readable as safetensors: {error}") from None
        size = int.from_bytes(content[:8], "little")
        header = parse_json(content[8 : 8 + size], place)
        curves = parse_model(Curves, str(header.get("__metadata__", {}).get("curves", "")).encode(), place)
        mean_D, whitening_DD = (arrays.get(name) for name in ("mean", "whitening"))
        if mean_D is None or whitening_DD is None or mean_D.ndim != 1 or whitening_DD.shape != mean_D.shape * 2:
            raise InputError(f"{place}: expected a mean (D,) and a whitening (D, D)")
        if not all(array.dtype == np.float64 and np.isfinite(array).all() for array in (mean_D, whitening_DD)):
            raise InputError(f"{place}: mean and whitening must be finite float64")
        return cls(curves, mean_D, whitening_DD)

    def _of_each(self, plain: Scores, whitened: Scores) -> tuple[Scores, Scores]:
        curves = self.curves
        return (
            np.interp(whitened, curves.same_clothes.scores, curves.same_clothes.log_odds),
            np.interp(plain, curves.clothes_changing.scores, curves.clothes_changing.log_odds),
        )


def cosines(first_ND: Scores, second_ND: Scores, first_P: Indices, second_P: Indices) -> Scores:
    """Of P pairs of unit vectors on the grid, one of each side."""
    found_P = np.empty(len(first_P))
    for start in range(0, len(first_P), PAIRS_AT_A_TIME):
        part = slice(start, start + PAIRS_AT_A_TIME)
        found_P[part] = np.einsum("pd,pd->p", first_ND[first_P[part]], second_ND[second_P[part]])
    return found_P


def learn_evidence(labelled: EmbeddingTable, *, seed: int = 0) -> Evidence:
    """Learn from tracklets with known persons, none of whom should be in the model's training set.

    Where clothes are not known, or nobody has two tracklets in the same or none in other clothes, all pairs of one
    person serve for both curves.

    Raises:
        InputError: fewer than ``LEAST_PERSONS`` persons, or no person with two tracklets that can be compared, or pairs
            of one person score no higher than others.
    """
    known = np.flatnonzero(labelled.rows.is_known("person"))
    rows = labelled.rows.take(known)
    names, person_N = np.unique(rows.text("person").to_pylist(), return_inverse=True)
    if len(names) < LEAST_PERSONS:
        raise InputError(f"{len(names)} persons with labels, expected at least {LEAST_PERSONS} to learn probabilities")
    plain_ND = on_grid(labelled.embedding_ND[known])
    fold_N = person_N % FOLDS
    first_P, second_P = _genuine_pairs(person_N, seed)
    first_I, second_I = _impostor_pairs(person_N, fold_N, seed)
    if not len(first_P) or not len(first_I):
        raise InputError("no person has two tracklets, so there is nothing to learn probabilities from")
    whitened_ND = np.empty_like(plain_ND)
    for fold in range(FOLDS):
        mean_D, whitening_DD = _whitening(plain_ND[fold_N != fold])
        whitened_ND[fold_N == fold] = _whitened(plain_ND[fold_N == fold], mean_D, whitening_DD)
    same_P, other_P = _clothes(rows, first_P, second_P)
    curves = [
        fit_calibration(
            PairSample(
                cosines(vector_ND, vector_ND, first_P[chosen_P], second_P[chosen_P]),
                cosines(vector_ND, vector_ND, first_I, second_I),
            ),
            "logistic",
            model=labelled.model,
        )
        for vector_ND, chosen_P in ((whitened_ND, same_P), (plain_ND, other_P))
    ]
    partners = float((np.bincount(person_N)[person_N] - 1).mean())
    return Evidence(
        Curves(same_clothes=curves[0], clothes_changing=curves[1], partners=partners), *_whitening(plain_ND)
    )


def _genuine_pairs(person_N: Indices, seed: int) -> tuple[Indices, Indices]:
    """All pairs of one person, or of very many a sample."""
    order = np.argsort(person_N, kind="stable")
    size_M = np.bincount(person_N)
    begin_M = np.cumsum(size_M) - size_M
    pairs = size_M * (size_M - 1) // 2
    if pairs.sum() <= MOST_IMPOSTORS:
        found = [np.triu_indices(size, 1) for size in size_M.tolist()]
        first_P, second_P = (
            np.concatenate([begin + side[which] for begin, side in zip(begin_M.tolist(), found, strict=True)])
            for which in (0, 1)
        )
    else:
        random = np.random.Generator(np.random.PCG64(seed))
        person_P = random.choice(len(size_M), MOST_IMPOSTORS, p=pairs / pairs.sum())
        place_P = random.integers(0, size_M[person_P])
        step_P = random.integers(1, size_M[person_P])
        first_P = begin_M[person_P] + place_P
        second_P = begin_M[person_P] + (place_P + step_P) % size_M[person_P]
    return order[first_P], order[second_P]


def _impostor_pairs(person_N: Indices, fold_N: Indices, seed: int) -> tuple[Indices, Indices]:
    """Pairs of two persons whose vectors are whitened alike; of very many a sample."""
    count = len(person_N)
    if count * (count - 1) // 2 <= MOST_IMPOSTORS:
        first_P, second_P = np.triu_indices(count, 1)
    else:
        random = np.random.Generator(np.random.PCG64(seed + 1))
        first_P, second_P = random.integers(0, count, (2, MOST_IMPOSTORS))
    kept_P = (person_N[first_P] != person_N[second_P]) & (fold_N[first_P] == fold_N[second_P])
    return first_P[kept_P], second_P[kept_P]


def _clothes(
    rows: EmbeddingRows, first_P: Indices, second_P: Indices
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Which pairs of one person wear the same clothes, and which others; all for both if one of them has none."""
    clothes = rows.text("clothes").combine_chunks().dictionary_encode().indices.fill_null(-1)
    code_N = clothes.to_numpy(zero_copy_only=False).astype(np.int64)
    known_P = (code_N[first_P] >= 0) & (code_N[second_P] >= 0)
    same_P = known_P & (code_N[first_P] == code_N[second_P])
    other_P = known_P & ~same_P
    every_P = np.ones(len(first_P), np.bool_)
    return (same_P, other_P) if same_P.any() and other_P.any() else (every_P, every_P)


def _whitening(plain_ND: Scores) -> tuple[Scores, Scores]:
    mean_D = plain_ND.mean(axis=0)
    centred_ND = plain_ND - mean_D
    covariance_DD = centred_ND.T @ centred_ND / len(plain_ND)
    variance_D, axis_DD = np.linalg.eigh(covariance_DD)
    floor = SHRINKAGE * max(float(variance_D.mean()), 1e-12)
    return mean_D, axis_DD / np.sqrt(np.maximum(variance_D, 0) + floor) @ axis_DD.T


def _whitened(plain_ND: Scores, mean_D: Scores, whitening_DD: Scores) -> Scores:
    moved_ND = (plain_ND - mean_D) @ whitening_DD
    zero_N = ~np.abs(moved_ND).max(axis=1, initial=0).astype(bool)  # an embedding that is the mean has no direction
    moved_ND[zero_N] = 1.0
    return on_grid(moved_ND)


def _millionths(log_odds: Scores) -> Indices:
    return np.rint(np.asarray(log_odds) * UNIT).astype(np.int64)

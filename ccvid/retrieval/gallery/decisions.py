"""Apply the threshold, the probabilities and the fusion of a scored retrieval to an unlabelled one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from pydantic import BaseModel, Field

from ccvid.retrieval.fusion.evidence_file import EvidenceTable
from ccvid.retrieval.fusion.fusion import Fusion
from ccvid.retrieval.gallery.fused_search import FusedEvidence
from ccvid.retrieval.gallery.matches import RankedMatches
from ccvid.retrieval.ranking.distances import Scores
from ccvid.retrieval.thresholds.calibration import Calibration, read_calibration
from ccvid.retrieval.thresholds.separation import Separation
from ccvid.run_files import CALIBRATION_FILE, FUSION_FILE, THRESHOLDS_FILE
from data_tools.documents import parse_model
from data_tools.errors import InputError
from data_tools.storage import StorageFolder
from data_tools.wording import shown

LEAST_SHARE = 0.5
"""Of how far first matches stood out where the threshold comes from; less is warned of."""


class _Threshold(BaseModel):
    value: float = Field(allow_inf_nan=False)


class FarElsewhere(BaseModel):
    """The range of the threshold's false accept rate on other cameras, with other people."""

    low: float = Field(ge=0, le=1)
    high: float = Field(ge=0, le=1)


class _Recommended(BaseModel):
    threshold: _Threshold | None
    far_elsewhere: FarElsewhere | None = None


class _ThresholdsFile(BaseModel):
    """The parts of thresholds.json that are used."""

    model: str
    recommended: _Recommended
    separation: Separation | None = None


@dataclass(frozen=True, slots=True)
class Decisions:
    """Threshold and calibration for one model; ``threshold`` is a score, None if the pairs were too few for one.

    ``model`` is the fingerprint that scores must come from: of the embedder, or of ``fusion`` if they are fused.
    """

    source: str
    model: str
    threshold: float | None
    calibration: Calibration | None
    far_elsewhere: FarElsewhere | None = None
    separation: Separation | None = None
    fusion: Fusion | None = None

    @property
    def embedder(self) -> str:
        """Fingerprint of the embedder."""
        return self.model if self.fusion is None else self.fusion.model

    def check(self, embedder: str) -> None:
        """Raises InputError if they are for embeddings of another model or other clips."""
        if embedder != self.embedder:
            raise InputError(
                f"{self.source}: threshold and probabilities are for embeddings of another model or of other clips"
            )

    def with_tables(self, tables: Sequence[EvidenceTable]) -> FusedEvidence | None:
        """The given evidence in the order of the fusion; None if there is neither.

        Raises:
            InputError: the fusion has other sources than those given, or of other models.
        """
        given = {table.name: table for table in tables}
        names = () if self.fusion is None else self.fusion.names
        if set(given) != set(names):
            asked, there = (", ".join(sorted(some)) or "none" for some in (given, names))
            raise InputError(f"{self.source}: its scores are fused with {there}, but --fuse gives {asked}")
        if self.fusion is None:
            return None
        for source in self.fusion.sources[1:]:
            found = given[source.name].model
            if source.model and found and source.model != found:
                raise InputError(f"{self.source}: {source.name} was of another model than the one that --fuse gives")
        return FusedEvidence(self.fusion, [given[name] for name in names])

    def add_probabilities(self, matches: RankedMatches, *, model: str, prior: float | None = None) -> RankedMatches:
        """The matches, with probabilities if there is a calibration.

        Raises:
            InputError: the matches are of another model or other clips.
        """
        self.check(model)
        if self.calibration is None:
            return matches
        probability_QK = self.calibration.probability(matches.score_QK, model=self.model, prior=prior)
        return replace(matches, probability_QK=probability_QK)

    def compared(self, random_N: Scores, first_Q: Scores) -> list[str]:
        """Lines on whether unlabelled data looks like that of the threshold; warnings begin with that word.

        Args:
            random_N: scores of random pairs of the data, nearly all of two persons.
            first_Q: the score of each query's first match.
        """
        lines, here = [], Separation.of(random_N, first_Q)
        if here is not None and self.separation is not None:
            ours, theirs = here.stands_out, self.separation.stands_out
            lines.append(
                f"first matches stand out by {ours:.1f} spreads of random pairs; by {theirs:.1f} in the data that the "
                "threshold comes from"
            )
            if ours < LEAST_SHARE * theirs:
                lines.append(
                    "warning: matches stand out much less here: persons may not be told apart on these cameras"
                )
        if self.threshold is None or self.far_elsewhere is None or not len(random_N):
            return lines
        share, far = float(np.mean(random_N >= self.threshold)), self.far_elsewhere
        expected = f"{100 * far.low:.2g} to {100 * far.high:.2g} %"
        lines.append(
            f"{100 * share:.2g} % of random pairs reach the threshold; false accepts expected on other cameras: "
            f"{expected}"
        )
        if share > far.high:
            lines.append(
                f"warning: this data looks unlike that of {self.source}: more random pairs reach the threshold than "
                "its false accept rate allows; score some labelled tracklets of these cameras with evaluate.py"
            )
        return lines


def read_decisions(results: StorageFolder) -> Decisions:
    """Read threshold and calibration from a results folder.

    Raises:
        InputError: there is no thresholds.json, or a file cannot be read.
    """
    try:
        found = parse_model(_ThresholdsFile, results.read(THRESHOLDS_FILE), results / THRESHOLDS_FILE)
    except FileNotFoundError:
        raise InputError(
            f"{results}: no {THRESHOLDS_FILE}; give results of train.py or evaluate.py on labelled tracklets"
        ) from None
    calibration = None
    if results.exists(CALIBRATION_FILE):
        with results.fetched(CALIBRATION_FILE) as path:
            calibration = read_calibration(path)
        if calibration.model != found.model:
            raise InputError(
                f"{results / CALIBRATION_FILE}: is for model {shown(calibration.model)}, but {THRESHOLDS_FILE} next to "
                f"it for model {shown(found.model)}; both must come from one evaluation"
            )
    threshold = found.recommended.threshold
    return Decisions(
        str(results),
        found.model,
        None if threshold is None else threshold.value,
        calibration,
        found.recommended.far_elsewhere,
        found.separation,
        _read_fusion(results, found.model),
    )


def _read_fusion(results: StorageFolder, model: str) -> Fusion | None:
    if not results.exists(FUSION_FILE):
        return None
    fusion = parse_model(Fusion, results.read(FUSION_FILE), results / FUSION_FILE)
    if fusion.fingerprint != model:
        raise InputError(f"{results / FUSION_FILE}: does not belong to {THRESHOLDS_FILE} next to it; evaluate again")
    return fusion

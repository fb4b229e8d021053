"""Apply the threshold and probabilities of a scored retrieval to the matches of an unlabelled one."""

from __future__ import annotations

from dataclasses import dataclass, replace

from pydantic import BaseModel, Field

from ccvid.retrieval.gallery.matches import RankedMatches
from ccvid.retrieval.thresholds.calibration import Calibration, read_calibration
from ccvid.run_files import CALIBRATION_FILE, THRESHOLDS_FILE
from data_tools.documents import parse_model
from data_tools.errors import InputError
from data_tools.storage import StorageFolder
from data_tools.wording import shown


class _Threshold(BaseModel):
    value: float = Field(allow_inf_nan=False)


class _Recommended(BaseModel):
    threshold: _Threshold | None


class _ThresholdsFile(BaseModel):
    """The parts of thresholds.json that are used."""

    model: str
    recommended: _Recommended


@dataclass(frozen=True, slots=True)
class Decisions:
    """Threshold and calibration for one model; ``threshold`` is a score, None if the pairs were too few for one."""

    source: str
    model: str
    threshold: float | None
    calibration: Calibration | None

    def check(self, model: str) -> None:
        """Raises InputError if they are for embeddings of another model or other clips."""
        if model != self.model:
            raise InputError(
                f"{self.source}: threshold and probabilities are for embeddings of another model or of other clips"
            )

    def add_probabilities(self, matches: RankedMatches, *, model: str, prior: float | None = None) -> RankedMatches:
        """The matches, with probabilities if there is a calibration.

        Raises:
            InputError: the matches are of another model or other clips.
        """
        self.check(model)
        if self.calibration is None:
            return matches
        return replace(matches, probability_QK=self.calibration.probability(matches.score_QK, model=model, prior=prior))


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
    return Decisions(str(results), found.model, None if threshold is None else threshold.value, calibration)

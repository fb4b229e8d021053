"""The records of a search's trials, kept in one file of the run folder, so that a killed search can be resumed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ccvid.config import Recipe, TrainOptions
from data_tools.documents import differences, parse_model
from data_tools.errors import InputError
from data_tools.storage import StorageFolder
from data_tools.wording import shown
from ray_jobs.begun_runs import MAY_CHANGE, refuse_changes
from ray_jobs.recipe_flags import todays_name
from ray_jobs.tuning.space import Space

SEARCH_FILE = "search.json"

_MAY_CHANGE = frozenset(f"recipe.{name}" for name in MAY_CHANGE)
"""An older search may have written some of them down."""

State = Literal["waiting", "running", "finished", "stopped", "failed"]
"""``stopped``: by the scheduler, because others are better; waiting and running trials continue with the search."""


Score = Annotated[float, Field(allow_inf_nan=False)]


class TrialRecord(BaseModel):
    """One trial; scores are clothes-changing mAP on the held-out identities, fractions."""

    model_config = ConfigDict(extra="forbid")

    number: int = Field(ge=0)
    values: dict[str, Any]
    """Drawn values by field."""
    epochs: int = Field(ge=0)
    """Epochs to train, unless it is stopped early."""
    state: State = "waiting"
    epoch: int = Field(default=0, ge=0)
    """Epochs done."""
    history: list[tuple[int, Score]] = []
    """(epoch, score) of each reported validation."""
    score: Score | None = None
    """Score at the last validation."""
    best_score: Score | None = None
    """The highest score of all validations."""
    seconds: float = Field(default=0, ge=0, lt=1e10)
    """Running time over all attempts."""
    reason: str | None = None
    """Why it failed."""

    @property
    def name(self) -> str:
        """Name of its run."""
        return f"trial-{self.number:05}"

    @property
    def unfinished(self) -> bool:
        return self.state in ("waiting", "running")

    def counted_score(self, train: TrainOptions) -> float | None:
        """Score of the weights with which the recipe would score the test set: the best or the last."""
        return self.best_score if train.test_weights == "best" else self.score

    def score_at(self, epoch: int) -> float | None:
        """Score at the last validation up to an epoch."""
        return next((score for done, score in reversed(self.history) if done <= epoch), None)


class _Content(BaseModel):
    model_config = ConfigDict(extra="forbid")

    settings: dict[str, Any]
    trials: list[TrialRecord]
    bf16: bool | None = None
    """The precision of all trials, once decided, if the recipe says auto."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        for place, trial in enumerate(self.trials):
            if trial.number != place:
                raise ValueError(f"found trial {trial.number}, expected trial {place}")
            if trial.values.keys() != self.trials[0].values.keys():
                raise ValueError(f"trial {place} does not have the same searched fields as trial 0")
        return self


def _by_todays_names(settings: Mapping[str, Any]) -> dict[str, Any]:
    recipe = settings.get("recipe")
    if not isinstance(recipe, Mapping):
        return dict(settings)
    return {**settings, "recipe": {todays_name(name): value for name, value in recipe.items()}}


class SearchRecords:
    """The trials in the order in which they were drawn; ``save`` writes them atomically.

    Args:
        folder: the search's run folder; trials of an earlier attempt are read from it.
        settings: the settings that determine the search, as JSON values.
        space: the space of the trials' values; None: not checked.

    Raises:
        InputError: the folder holds a search with other settings or another space, or something else.
    """

    def __init__(self, folder: StorageFolder, settings: Mapping[str, Any], space: Space | None = None) -> None:
        self.folder = folder
        self.settings = json.loads(json.dumps(settings))
        self.trials: list[TrialRecord] = []
        self._bf16: bool | None = None
        if folder.exists(SEARCH_FILE):
            content = _read(folder)
            reason = "holds a search with other settings; choose another --run.name or remove it"
            refuse_changes(folder, reason, differences(_by_todays_names(content.settings), self.settings, _MAY_CHANGE))
            self.trials, self._bf16 = content.trials, content.bf16
            for trial in self.trials:
                if space is not None and not space.takes(trial.values):
                    place = f"{folder / SEARCH_FILE}: trials.{trial.number}.values"
                    raise InputError(f"{place}: {shown(trial.values)}, expected values in the search space")

    def with_precision(self, recipe: Recipe) -> Recipe:
        """The recipe with the precision decided by an earlier attempt, if the recipe says auto."""
        return recipe.with_bf16(self._bf16) if recipe.train.bf16 == "auto" and self._bf16 is not None else recipe

    def keep_precision(self, recipe: Recipe) -> None:
        """Record the precision of a recipe."""
        self._bf16 = recipe.train.bf16 is True

    def add(self, values: dict[str, Any], epochs: int) -> TrialRecord:
        """Add a trial; it is saved before it starts."""
        record = TrialRecord(number=len(self.trials), values=values, epochs=epochs)
        self.trials.append(record)
        self.save()
        return record

    def save(self) -> None:
        """Write the records; raises ``OSError`` if the folder cannot be written."""
        content = _Content(settings=self.settings, trials=self.trials, bf16=self._bf16)
        self.folder.write(SEARCH_FILE, content.model_dump_json(indent=1).encode())

    def ranked(self, train: TrainOptions) -> list[TrialRecord]:
        """Best first: finished trials, then stopped, unfinished and failed ones."""
        order: tuple[State, ...] = ("finished", "stopped", "running", "waiting", "failed")

        def key(record: TrialRecord) -> tuple[int, float, int]:
            score = record.counted_score(train)
            return order.index(record.state), 1.0 if score is None else -score, record.number

        return sorted(self.trials, key=key)

    def best(self, train: TrainOptions) -> TrialRecord | None:
        """The first of ``ranked`` that has a score."""
        return next((record for record in self.ranked(train) if record.counted_score(train) is not None), None)


def _read(folder: StorageFolder) -> _Content:
    return parse_model(_Content, folder.read(SEARCH_FILE), folder / SEARCH_FILE)

"""What a search knows of its trials, kept in one file of the run folder, so that it can go on after a kill."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from ccvid.config import Recipe, TrainOptions
from data_tools.errors import InputError
from data_tools.storage import StorageFolder

SEARCH_FILE = "search.json"

State = Literal["waiting", "running", "finished", "stopped", "failed"]
"""stopped: by the scheduler, being worse than others; waiting and running ones go on when the search does."""


class TrialRecord(BaseModel):
    """One trial; scores are clothes-changing mAP on the held-out identities, fractions."""

    model_config = ConfigDict(extra="forbid")

    number: int
    values: dict[str, Any]
    """Drawn value by field."""
    epochs: int
    """That it trains if nothing stops it."""
    state: State = "waiting"
    epoch: int = 0
    """Epochs done."""
    history: list[tuple[int, float]] = []
    """(epoch, score) of each validation that was told of."""
    score: float | None = None
    """At the last validation."""
    best_score: float | None = None
    """The highest of all validations."""
    seconds: float = 0
    """That it ran, over all attempts."""
    reason: str | None = None
    """Why it failed."""

    @property
    def name(self) -> str:
        """Of its run."""
        return f"trial-{self.number:05}"

    @property
    def unfinished(self) -> bool:
        return self.state in ("waiting", "running")

    def counted_score(self, train: TrainOptions) -> float | None:
        """Of the weights that the recipe would score the test set with: the best, or the last."""
        return self.best_score if train.test_weights == "best" else self.score

    def score_at(self, epoch: int) -> float | None:
        """At the last validation up to an epoch."""
        return next((score for done, score in reversed(self.history) if done <= epoch), None)


class _Content(BaseModel):
    model_config = ConfigDict(extra="forbid")

    settings: dict[str, Any]
    trials: list[TrialRecord]
    bf16: bool | None = None
    """The precision of all trials, where the recipe left it open and it is decided."""


class SearchRecords:
    """The trials in the order in which they were drawn; ``save`` writes them, whole or not at all.

    Args:
        folder: the search's run folder; trials of an earlier attempt are read from it.
        settings: what decides the search's course, as JSON has it.

    Raises:
        InputError: the folder holds a search with other settings, or something else.
    """

    def __init__(self, folder: StorageFolder, settings: Mapping[str, Any]) -> None:
        self.folder = folder
        self.settings = json.loads(json.dumps(settings))
        self.trials: list[TrialRecord] = []
        self._bf16: bool | None = None
        if folder.exists(SEARCH_FILE):
            content = _read(folder)
            self._refuse_other(content.settings)
            self.trials, self._bf16 = content.trials, content.bf16

    def with_precision(self, recipe: Recipe) -> Recipe:
        """The recipe in the precision that an earlier attempt has decided on, where it leaves it open."""
        return recipe.with_bf16(self._bf16) if recipe.train.bf16 == "auto" and self._bf16 is not None else recipe

    def keep_precision(self, recipe: Recipe) -> None:
        """Remember the precision of a recipe that has been decided."""
        self._bf16 = recipe.train.bf16 is True

    def add(self, values: dict[str, Any], epochs: int) -> TrialRecord:
        """A further trial, written down before it starts."""
        record = TrialRecord(number=len(self.trials), values=values, epochs=epochs)
        self.trials.append(record)
        self.save()
        return record

    def save(self) -> None:
        """Raises ``OSError`` where the folder cannot be written."""
        content = _Content(settings=self.settings, trials=self.trials, bf16=self._bf16)
        self.folder.write(SEARCH_FILE, content.model_dump_json(indent=1).encode())

    def ranked(self, train: TrainOptions) -> list[TrialRecord]:
        """Best first: those that trained to their end, then the stopped, the unfinished and the failed."""
        order: tuple[State, ...] = ("finished", "stopped", "running", "waiting", "failed")

        def key(record: TrialRecord) -> tuple[int, float, int]:
            score = record.counted_score(train)
            return order.index(record.state), 1.0 if score is None else -score, record.number

        return sorted(self.trials, key=key)

    def best(self, train: TrainOptions) -> TrialRecord | None:
        """The first of ``ranked`` that has a score."""
        return next((record for record in self.ranked(train) if record.counted_score(train) is not None), None)

    def _refuse_other(self, found: Mapping[str, Any]) -> None:
        changes = [f"  {name}: {old!r} there, {new!r} now" for name, old, new in _differences(found, self.settings)]
        if changes:
            raise InputError(
                f"{self.folder}: holds a search with other settings; name another --run.name or remove it\n"
                + "\n".join(changes)
            )


def _read(folder: StorageFolder) -> _Content:
    try:
        return _Content.model_validate_json(folder.read(SEARCH_FILE))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise InputError(f"{folder}/{SEARCH_FILE}: not a search's file: {place}: {first['msg']}") from None


def _differences(old: object, new: object, place: str = "") -> list[tuple[str, object, object]]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        return [
            difference
            for name in dict.fromkeys([*old, *new])
            for difference in _differences(old.get(name), new.get(name), f"{place}.{name}".lstrip("."))
        ]
    return [] if old == new else [(place, old, new)]

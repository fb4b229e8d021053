"""The hooks called by Ray Tune: they suggest trials, stop them early and record them."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from pydantic import ValidationError
from ray import tune
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search import Searcher

from ccvid.config import Recipe, TrainOptions
from data_tools.documents import reason_of
from ray_jobs.tuning.propose import SearcherName, propose
from ray_jobs.tuning.records import SearchRecords, TrialRecord
from ray_jobs.tuning.space import Space, with_values
from ray_jobs.tuning.trial import COUNTED, OUTCOME

_NO_CONTROLLER: Any = None


class TrialSource(Searcher):
    """Gives Tune the unfinished trials of an earlier attempt, then new ones up to ``count``."""

    def __init__(
        self, records: SearchRecords, recipe: Recipe, space: Space, searcher: SearcherName, count: int
    ) -> None:
        super().__init__()
        self._records, self._recipe, self._space, self._searcher, self._count = records, recipe, space, searcher, count
        self._waiting = [record for record in records.trials if record.unfinished]
        self.ending = False

    @property
    def left(self) -> int:
        """Number of trials still to be given."""
        return len(self._waiting) + max(0, self._count - len(self._records.trials))

    def suggest(self, trial_id: str) -> Any:  # noqa: ARG002
        while not self.ending and (record := self._next()):
            if record.unfinished:
                return {"number": record.number, "name": record.name, "values": record.values}
        return Searcher.FINISHED

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        """Nothing to do: the records are already up to date."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing to do: the records are the state of the search."""

    def _next(self) -> TrialRecord | None:
        if self._waiting:
            return self._waiting.pop(0)
        if len(self._records.trials) >= self._count:
            return None
        values = propose(self._searcher, self._space, self._records.trials, self._recipe.train)
        try:
            epochs, problem = with_values(self._recipe, values).train.epochs, None
        except ValidationError as error:  # fields that cannot be combined
            epochs, problem = self._recipe.train.epochs, reason_of(error.errors()[0])
        record = self._records.add(values, epochs)
        if problem is not None:
            record.state, record.reason = "failed", problem
            self._records.save()
        return record


class RecordedAsha(ASHAScheduler):
    """Ray's asynchronous successive halving, which is first given the earlier scores when a search is resumed."""

    def __init__(
        self, records: SearchRecords, train: TrainOptions, *, grace: int, reduction: float, epochs: int
    ) -> None:
        # The last epoch is not a rung: a trial that reaches it has finished.
        super().__init__(
            time_attr="epoch",
            metric=COUNTED,
            mode="max",
            max_t=max(grace, epochs - 1),
            grace_period=grace,
            reduction_factor=reduction,
            stop_last_trials=False,
        )
        self._records, self._counts_best = records, train.test_weights == "best"
        for record in records.trials:
            if not record.unfinished and record.history:
                trial: Any = SimpleNamespace(trial_id=record.name)
                super().on_trial_add(_NO_CONTROLLER, trial)
                self._replay(trial, record)

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        super().on_trial_add(tune_controller, trial)
        self._replay(trial, self._records.trials[trial.config["number"]])

    def _replay(self, trial: Any, record: TrialRecord) -> None:
        best = float("-inf")
        for epoch, score in record.history:
            best = max(best, score)
            counted = best if self._counts_best else score
            self.on_trial_result(_NO_CONTROLLER, trial, {"epoch": epoch, COUNTED: counted})


class Notes(tune.Callback):
    """Updates the records, and calls ``show`` after each of Tune's steps."""

    def __init__(self, records: SearchRecords, source: TrialSource, show: Callable[[], None]) -> None:
        self._records, self._source, self._show = records, source, show
        self._started: dict[int, float] = {}
        self.problem: OSError | None = None
        """Why the records could not be written."""

    def on_trial_start(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:  # noqa: ARG002
        record = self._record(trial)
        self._started[record.number] = time.monotonic() - record.seconds
        record.state = "running"
        self._save()

    def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: Any, **info: Any) -> None:  # noqa: ARG002
        record = self._record(trial)
        record.seconds = time.monotonic() - self._started[record.number]
        epoch = int(result.get("epoch", 0))
        record.epoch = max(record.epoch, epoch)
        if "held_out_score" in result:
            record.score, record.best_score = result["held_out_score"], result["best_score"]
            if all(scored < epoch for scored, _ in record.history):
                record.history.append((epoch, result["held_out_score"]))
        outcome = result.get(OUTCOME)
        if outcome == "asked":
            self._source.ending = True
        elif outcome is not None:
            record.state, record.reason = outcome, result.get("reason")
        self._save()

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:  # noqa: ARG002
        record = self._record(trial)
        if record.state == "running" and OUTCOME not in trial.last_result:
            record.state = "stopped"
            self._save()

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:  # noqa: ARG002
        record = self._record(trial)
        lines = Path(trial.error_file).read_text().split("\n") if trial.error_file else []
        lines = [line.strip() for line in lines if line.strip()]
        record.state, record.reason = "failed", f"its process died: {lines[-1] if lines else 'no reason given'}"
        self._save()

    def on_step_end(self, iteration: int, trials: Any, **info: Any) -> None:  # noqa: ARG002
        self._show()

    def _record(self, trial: Any) -> TrialRecord:
        number: int = trial.config["number"]
        return self._records.trials[number]

    def _save(self) -> None:
        try:
            self._records.save()
        except OSError as error:
            self.problem = error
            raise

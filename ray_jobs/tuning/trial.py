"""One trial: a Ray Train run inside a Ray Tune trainable, which releases all resources when it is stopped."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import ray
from ray import tune
from ray.exceptions import RayActorError
from ray.train import Checkpoint, Result, UserCallback
from ray.util.queue import Empty, Queue

from ccvid.config import Recipe
from ccvid.run_files import CONFIG_FILE
from ccvid.training.stopping import EndedOnRequestError
from data_tools.errors import InputError
from data_tools.storage import StorageFolder
from ray_jobs.cli import write_config
from ray_jobs.cluster.connection import connect
from ray_jobs.cluster.workers import Workers
from ray_jobs.training.run import fit, make_trainer
from ray_jobs.tuning.space import with_values
from video_backbones import BackboneError

POLL_SECONDS = 0.5
ABORT_SECONDS = 90.0
"""How long a stopped trial may take to stop its workers; a controller that is starting workers answers only then."""

COUNTED = "counted_score"
"""Key of the score for comparing trials, that of the weights with which the recipe would score the test set."""
OUTCOME = "outcome"
"""Key of a trial's last result: finished, failed, or asked (to stop)."""


@dataclass(frozen=True)
class TrialJob:
    """What all trials of a search have in common."""

    recipe: Recipe
    """With the workers per trial decided."""
    shards: str
    folder: StorageFolder
    """The parent of the trials' run folders."""
    guard: Any
    """The search's guard, see :mod:`ray_jobs.training.guard`."""

    def recipe_of(self, name: str, values: Mapping[str, Any]) -> Recipe:
        """The recipe of one trial's run; raises pydantic's ``ValidationError``."""
        return with_values(self.recipe, {**values, "run.name": name, "run.storage": str(self.folder)})


class TrialRun(tune.Trainable):
    """Runs one trial; each step is one report of the run, and ``cleanup`` stops its workers.

    A class instead of a function: Tune kills a function's process and with it the run's controller, whose placement
    group then stays reserved until Ray's cleaner notices. A class can clean up first: it lets the controller stop its
    workers and release their resources.
    """

    def setup(self, config: dict[str, Any], job: TrialJob) -> None:  # type: ignore[override]  # tune.with_parameters
        connect()  # sets environment variables for Ray Train
        self._recipe = job.recipe_of(config["name"], config["values"])
        self._folder = job.folder / config["name"]
        self._job = job
        self._controller: Any = None
        self._epoch = 0
        self._outcome: dict[str, Any] = {}
        self._reports = Queue(actor_options={"num_cpus": 0})
        self._thread = threading.Thread(target=self._run, daemon=True, name="trial")
        self._thread.start()

    def step(self) -> dict[str, Any]:
        """The run's next report, or its outcome."""
        while True:
            ended = not self._thread.is_alive()  # read before the last report
            with suppress(Empty):
                self._controller, metrics = self._reports.get(timeout=POLL_SECONDS)
                self._epoch = max(self._epoch, int(metrics["epoch"]))  # a validator's score may be of an earlier one
                return self._result(metrics)
            if ended:
                return self._result(self._last_metrics()) | self._outcome | {"done": True}

    def cleanup(self) -> None:
        if self._thread.is_alive() and self._controller is not None:
            with suppress(RayActorError):  # raised by an aborted controller
                try:
                    ray.get(self._controller.abort.remote(), timeout=ABORT_SECONDS)
                except ray.exceptions.GetTimeoutError:
                    ray.kill(self._controller)  # Ray's cleaner then removes its placement group
            self._thread.join(POLL_SECONDS)
        self._controller = None
        self._reports.shutdown(force=True)

    def _result(self, metrics: Mapping[str, Any]) -> dict[str, Any]:
        counted = "best_score" if self._recipe.train.test_weights == "best" else "held_out_score"
        scored = "held_out_score" in metrics
        return {**metrics, COUNTED: metrics[counted]} if scored else dict(metrics)

    def _run(self) -> None:
        try:
            self._folder.write(CONFIG_FILE, write_config(self._recipe).encode())
            trainer = make_trainer(
                self._recipe,
                self._job.shards,
                Workers(self._recipe.compute, validators=self._recipe.compute.validators),
                guard=self._job.guard,
                score_test=False,
                shown=False,
                callbacks=[_Reporter(self._reports)],
            )
            fit(trainer, self._folder)
            self._outcome = {OUTCOME: "finished"}
        except EndedOnRequestError:
            self._outcome = {OUTCOME: "asked"}
        except (InputError, BackboneError, OSError) as error:
            reason = str(error).removeprefix(f"run {self._folder} failed: ")
            self._outcome = {OUTCOME: "failed", "reason": reason.splitlines()[0]}
        except Exception as error:  # any error affects only this trial
            self._outcome = {OUTCOME: "failed", "reason": f"{type(error).__name__}: {str(error).strip():.300}"}

    def _last_metrics(self) -> dict[str, Any]:
        """Metrics of the last checkpoint, in case a killed search did not receive them."""
        if self._outcome[OUTCOME] != "finished" or self._epoch >= self._recipe.train.epochs:
            return {}
        return dict(Result.from_path(self._folder.path, self._folder.filesystem).metrics or {})


class _Reporter(UserCallback):
    """Lives in the run's controller; forwards its reports and its actor handle."""

    def __init__(self, reports: Queue) -> None:
        self._reports = reports

    def after_report(
        self,
        run_context: Any,  # noqa: ARG002
        metrics: list[dict[str, Any]],
        checkpoint: Checkpoint | None,  # noqa: ARG002
    ) -> None:
        self._reports.put((ray.get_runtime_context().current_actor, metrics[0]))

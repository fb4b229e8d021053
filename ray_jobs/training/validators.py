"""Scoring the held-out identities in actors of their own, while the training workers go on.

    rank 0: weights of an epoch ──object store──▶ Validator, an actor: embed, score
    rank 0 ◀──────────── HeldOutScores ──────────────┘

A validator that dies is replaced and its epoch scored again. An epoch that two validators have not survived, or whose
validator finds no room in the cluster, is given up: the training workers score it themselves.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError
from safetensors.torch import load

from ccvid.training.held_out import HeldOut, HeldOutScores
from data_tools.cpus import limit_threads
from data_tools.errors import InputError
from data_tools.progress import message
from data_tools.shards import ShardFolder
from data_tools.wording import first_line
from ray_jobs.training.watchdog import Watchdog

MOST_TRIES = 2
"""Validators that an epoch may cost."""
ROOM_SECONDS = 120.0
"""How long a validator may take to start before its epoch is given up: the cluster has no room for it."""

OpenStore = Callable[[], ShardFolder]


class Validator:
    """The actor. It opens the shards as its own node sees them; input errors are returned, not raised.

    Args:
        held_out: its model is on the CPU.
        cpus: threads of all libraries.
        hang_seconds: without an embedded batch for so long it ends itself.
    """

    def __init__(self, held_out: HeldOut, open_store: OpenStore, cpus: int, hang_seconds: float) -> None:
        recipe = held_out.recipe.within(limit_threads(cpus))
        model = held_out.model.to("cuda" if ray.get_gpu_ids() else "cpu")
        self._held_out = replace(held_out, model=model, recipe=recipe)
        self._open_store = open_store
        self._store: ShardFolder | None = None
        self._watchdog = Watchdog(hang_seconds)

    def score(self, weights: bytes) -> HeldOutScores | InputError:
        """Score the weights, the content of a safetensors file, on the held-out identities."""
        self._held_out.model.load_state_dict(load(weights))
        try:
            if self._store is None:
                self._store = self._open_store()
            return self._held_out.score(self._store, lambda _: self._watchdog.alive())
        except (InputError, OSError) as error:
            address = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
            return InputError(f"validator on node {address}: {error}")
        finally:
            self._watchdog.rest()


class RemoteValidators:
    """Rank 0's validators; implements ``ccvid.training.context.Validators``.

    Args:
        held_out: its model is on the CPU.
        open_store: opens the shards on any node; picklable.
        number: at least 1.
        resources: of each, in Ray's format.
        hang_seconds: after so long without an embedded batch a validator is taken to hang, and dies.
    """

    def __init__(
        self,
        held_out: HeldOut,
        open_store: OpenStore,
        *,
        number: int,
        resources: Mapping[str, float],
        hang_seconds: float,
    ) -> None:
        assert number >= 1, f"{number=}"
        self.number = number
        # Scheduled explicitly, to escape Ray Train's placement group.
        self._kind: Any = ray.remote(Validator).options(
            num_cpus=resources["CPU"], num_gpus=resources.get("GPU", 0), scheduling_strategy="SPREAD"
        )
        self._arguments = ray.put(held_out), open_store, int(resources["CPU"]), hang_seconds
        self._validators = [self._start() for _ in range(number)]
        self._jobs: dict[int, _Job] = {}

    def submit(self, epoch: int, weights: Path) -> None:
        """Have the weights in a safetensors file scored by the validator with the least to do."""
        self._jobs[epoch] = self._asked(ray.put(weights.read_bytes()), tries=1)

    def is_done(self, epoch: int, seconds: float) -> bool:
        """Whether a submitted epoch is scored or given up; waits for that up to ``seconds``."""
        job = self._jobs[epoch]
        if job.answer is None:
            return True
        if not _is_ready(job.answer, seconds):
            if job.validator.lacks_room():
                self._give_up(epoch, f"the cluster has had no room for it for {ROOM_SECONDS:.0f} s")
            return job.answer is None
        try:
            ray.get(job.answer)
        except RayTaskError:
            raise
        except RayError as lost:
            if job.validator in self._validators:  # else replaced when another of its epochs found it dead
                self._validators[self._validators.index(job.validator)] = self._start()
            if job.tries >= MOST_TRIES:
                self._give_up(epoch, f"it died {job.tries} times: {first_line(lost)}")
                return True
            message(f"the validator of epoch {epoch} is lost and replaced: {first_line(lost)}")
            self._jobs[epoch] = self._asked(job.weights, tries=job.tries + 1)
            return False
        return True

    def result(self, epoch: int) -> HeldOutScores | None:
        """The scores of an epoch that is done; None if it was given up.

        Raises:
            InputError: the data cannot be read.
        """
        job = self._jobs.pop(epoch)
        found: HeldOutScores | InputError | None = None if job.answer is None else ray.get(job.answer)
        if isinstance(found, InputError):
            raise found
        return found

    def close(self) -> None:
        """Stop the validators."""
        for validator in self._validators:
            ray.kill(validator.actor)
        self._validators, self._jobs = [], {}

    def _start(self) -> _Handle:
        return _Handle(self._kind.remote(*self._arguments))

    def _asked(self, weights: Any, *, tries: int) -> _Job:
        waiting = [job.validator for job in self._jobs.values() if job.answer is not None and not _is_ready(job.answer)]
        idlest = min(self._validators, key=waiting.count)
        return _Job(weights, idlest, idlest.actor.score.remote(weights), tries)

    def _give_up(self, epoch: int, reason: str) -> None:
        self._jobs[epoch].answer = None
        message(f"warning: no validator could score epoch {epoch}: {reason}")


class _Handle:
    """A validator as seen by rank 0."""

    def __init__(self, actor: Any) -> None:
        self.actor = actor
        self._up, self._since = actor.__ray_ready__.remote(), time.monotonic()

    def lacks_room(self) -> bool:
        """Whether it has not started for long."""
        return time.monotonic() - self._since > ROOM_SECONDS and not _is_ready(self._up)


@dataclass(slots=True)
class _Job:
    """An epoch to score: its weights in the object store, and the answer of the validator that scores them."""

    weights: Any
    validator: _Handle
    answer: Any
    """None: given up."""
    tries: int


def _is_ready(reference: Any, seconds: float = 0) -> bool:
    return bool(ray.wait([reference], timeout=seconds)[0])

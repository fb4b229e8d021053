"""Which setting the next trial gets: a function of the seed, the trial's number and what the others scored.

Nothing else is remembered, so a search that was killed and goes on draws as if it had never stopped.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any, Literal

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

from ccvid.config import TrainOptions
from ray_jobs.tuning.records import TrialRecord
from ray_jobs.tuning.space import Parameter, Space, Values

SearcherName = Literal["random", "optuna", "grid"]

REDRAWS = 100
"""Draws after which a setting that was tried before is tried again."""

optuna.logging.set_verbosity(optuna.logging.WARNING)


def propose(searcher: SearcherName, space: Space, known: Sequence[TrialRecord], train: TrainOptions) -> Values:
    """The setting of the trial after all those that are known; as long as possible one that none of them has."""
    tried = [record.values for record in known]
    for attempt in range(REDRAWS):
        seed = random.Random(f"{train.seed}, {len(known)}, {attempt}").getrandbits(32)
        values = _SEARCHERS[searcher](space, known, train, seed)
        if values not in tried:
            break
    return values


def study_of(trials: Sequence[FrozenTrial], seed: int) -> optuna.Study:
    """An Optuna study that knows these trials, and goes on with TPE."""
    # constant_liar: what others just try counts as bad, so that trials at the same time do not crowd together.
    sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=True)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    study.add_trials(trials)
    return study


def told_to_optuna(
    space: Space, record: TrialRecord, score: float | None, state: TrialState = TrialState.COMPLETE
) -> FrozenTrial:
    """A trial as Optuna has it."""
    done = state is not TrialState.RUNNING
    return optuna.trial.create_trial(
        state=state,
        value=score if state is TrialState.COMPLETE else None,
        params={each.name: _to_optuna(each, record.values[each.name]) for each in space.parameters},
        distributions=_distributions(space),
        intermediate_values=dict(record.history) if done else None,
    )


def _random(space: Space, _known: Sequence[TrialRecord], _train: TrainOptions, seed: int) -> Values:
    return space.draw(random.Random(seed))


def _grid(space: Space, known: Sequence[TrialRecord], _train: TrainOptions, _seed: int) -> Values:
    return next(islice(space.grid(), len(known), None))


def _tpe(space: Space, known: Sequence[TrialRecord], train: TrainOptions, seed: int) -> Values:
    """TPE (Bergstra et al., 2011). What ASHA stopped counts by how far it came, and its score there."""
    trials = []
    for record in known:
        score = record.counted_score(train)
        if record.unfinished:
            trials.append(told_to_optuna(space, record, None, TrialState.RUNNING))
        elif score is not None and record.state != "failed":
            state = TrialState.PRUNED if record.state == "stopped" else TrialState.COMPLETE
            trials.append(told_to_optuna(space, record, score, state))
    trial = study_of(trials, seed).ask(fixed_distributions=_distributions(space))
    return {each.name: _from_optuna(each, trial.params[each.name]) for each in space.parameters}


_SEARCHERS: dict[SearcherName, Callable[[Space, Sequence[TrialRecord], TrainOptions, int], Values]] = {
    "random": _random,
    "optuna": _tpe,
    "grid": _grid,
}


def _distributions(space: Space) -> dict[str, BaseDistribution]:
    return {parameter.name: _distribution(parameter) for parameter in space.parameters}


def _distribution(parameter: Parameter) -> BaseDistribution:
    if parameter.kind == "choices":  # a choice may be a list, which Optuna does not take: it gets positions
        return CategoricalDistribution(range(len(parameter.values)))
    low, high = parameter.values
    log = parameter.kind == "log_range"
    return IntDistribution(low, high, log=log) if parameter.integer else FloatDistribution(low, high, log=log)


def _to_optuna(parameter: Parameter, value: Any) -> Any:
    return parameter.values.index(value) if parameter.kind == "choices" else value


def _from_optuna(parameter: Parameter, value: Any) -> Any:
    return parameter.values[value] if parameter.kind == "choices" else value

"""The setting of the next trial, as a function of the seed, the trial's number and the scores of the others.

There is no other state, so a resumed search draws as if it had never stopped.
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
"""Number of attempts to draw a new setting before one is repeated."""

optuna.logging.set_verbosity(optuna.logging.WARNING)


def propose(searcher: SearcherName, space: Space, known: Sequence[TrialRecord], train: TrainOptions) -> Values:
    """The setting of the next trial; a new one, if possible."""
    tried = [record.values for record in known]
    for attempt in range(REDRAWS):
        seed = random.Random(f"{train.seed}, {len(known)}, {attempt}").getrandbits(32)
        values = _SEARCHERS[searcher](space, known, train, seed)
        if values not in tried:
            break
    return values


def study_of(trials: Sequence[FrozenTrial], seed: int) -> optuna.Study:
    """An Optuna study with these trials that continues with TPE."""
    # constant_liar: running trials count as bad, so that concurrent trials do not cluster.
    sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=True)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    study.add_trials(trials)
    return study


def to_optuna_trial(
    space: Space, record: TrialRecord, score: float | None, state: TrialState = TrialState.COMPLETE
) -> FrozenTrial:
    """A trial in Optuna's format."""
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
    """TPE (Bergstra et al., 2011). A trial stopped by ASHA counts with its last epoch and its score there."""
    trials = []
    for record in known:
        score = record.counted_score(train)
        if record.unfinished:
            trials.append(to_optuna_trial(space, record, None, TrialState.RUNNING))
        elif score is not None and record.state != "failed":
            state = TrialState.PRUNED if record.state == "stopped" else TrialState.COMPLETE
            trials.append(to_optuna_trial(space, record, score, state))
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
    if parameter.kind == "choices":  # a choice may be a list, which Optuna does not accept, so it gets positions
        return CategoricalDistribution(range(len(parameter.values)))
    low, high = parameter.values
    log = parameter.kind == "log_range"
    return IntDistribution(low, high, log=log) if parameter.integer else FloatDistribution(low, high, log=log)


def _to_optuna(parameter: Parameter, value: Any) -> Any:
    return parameter.values.index(value) if parameter.kind == "choices" else value


def _from_optuna(parameter: Parameter, value: Any) -> Any:
    return parameter.values[value] if parameter.kind == "choices" else value

"""Search hyper-parameters: `python ray_jobs/tune.py --recipe NAME_OR_FILE --space NAME_OR_FILE --trials N`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

if __name__ == "__main__":  # run as a script, the packages stand beside this folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from data_tools.errors import InputError
from data_tools.wording import shown
from ray_jobs.cli import parse_recipe, run_job, whole_number_flag
from ray_jobs.cluster.connection import connect

DESCRIPTION = (
    "Search hyper-parameters with Ray Tune. Each trial is a training run, scored by clothes-changing mAP on held-out "
    "training identities (train.held_out_share), never on the test set, with compute.workers of its own. Results in "
    "run.storage/run.name: all trials (trials.txt, trials.parquet), parallel_coordinates.svg, importance.txt, and the "
    "best recipe (best.yaml), which train.py takes. The same command resumes a search that was stopped."
)
MOST_TRIALS = 100_000
READS = (
    *("run", "data", "clip", "batch", "augment", "loader", "model", "method", "optim", "train", "compute"),
    *("score.clips_per_batch", "score.flip", "score.protocols"),
)


def main(arguments: Sequence[str]) -> None:
    """Search, and print the results."""
    recipe, own = parse_recipe(
        arguments,
        program="tune.py",
        description=DESCRIPTION,
        reads=READS,
        extra=_own_flags(),
        defaults={"run.name": "{}-search".format, "compute.workers": lambda workers: workers or 1},
    )
    missing = [name for name in ("optuna", "pandas") if find_spec(name) is None]
    if missing:
        raise InputError(f"a search needs {' and '.join(missing)}: pip install 'ccvid[tune]'")
    from ray_jobs.tuning.runner import SearchOptions, check_search, search
    from ray_jobs.tuning.space import read_space

    if vars(own).get("run.name") is None:  # beside the recipe's own run
        run = recipe.run.model_copy(update={"name": f"{recipe.run.name}-search"})
        recipe = recipe.model_copy(update={"run": run})
    space = read_space(own.space, recipe)
    options = SearchOptions(own.trials, own.searcher, own.scheduler, own.concurrency, own.grace, own.reduction)
    check_search(recipe, space, options)
    connect()
    search(recipe, space, options)


def _own_flags() -> argparse.ArgumentParser:
    own = argparse.ArgumentParser(add_help=False)
    own.add_argument(
        "--space",
        default="cal",
        metavar="NAME_OR_FILE",
        help="space to search: a YAML file of recipe fields, each with {choices: [...]}, {range: [low, high]} or "
        "{log_range: [low, high]}, both ends included; or the name of one that comes with the project. Default: cal",
    )
    own.add_argument(
        "--trials",
        type=whole_number_flag(MOST_TRIALS),
        metavar="N",
        help="number of trials. Default: all combinations, if they are finite",
    )
    own.add_argument(
        "--searcher",
        choices=("optuna", "random", "grid"),
        default="optuna",
        help="optuna: TPE, which learns from earlier trials; random; grid: every combination. Default: optuna",
    )
    own.add_argument(
        "--scheduler",
        choices=("asha", "none"),
        default="asha",
        help="asha: stop trials that score worse than others at the same epoch; none: train all to the end. "
        "Default: asha",
    )
    own.add_argument(
        "--concurrency",
        type=whole_number_flag(MOST_TRIALS),
        metavar="N",
        help="trials at the same time. Default: as many as fit the cluster",
    )
    own.add_argument(
        "--grace",
        type=whole_number_flag(MOST_TRIALS),
        metavar="EPOCHS",
        help="epochs before asha may stop a trial. Default: a ninth of train.epochs, at least one epoch with CAL's "
        "losses, rounded up to a validation",
    )
    own.add_argument(
        "--reduction",
        type=_above_one,
        default=3.0,
        metavar="X",
        help="one in X trials continues at each of asha's rungs, which are at epochs grace, grace*X, grace*X*X, .... "
        "Default: 3",
    )
    return own


def _above_one(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 1 < value <= 1000:
        raise argparse.ArgumentTypeError(f"expected a number above 1 and of at most 1000, got {shown(text)}")
    return value


if __name__ == "__main__":
    run_job(main)

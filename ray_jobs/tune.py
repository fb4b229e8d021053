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
from ray_jobs.cli import parse_recipe, run_job
from ray_jobs.cluster.connection import connect

DESCRIPTION = (
    "Search a recipe's fields with Ray Tune: each trial is a training run of its own, scored by clothes-changing mAP "
    "on held-out training identities (train.held_out_share), never on the test set. compute.workers is that of one "
    "trial, 1 if nothing is said. Under --run.storage/--run.name (the recipe's name and -search if nothing is said) "
    "stand all trials (trials.txt, trials.parquet), a picture (parallel_coordinates.svg), which fields mattered "
    "(importance.txt), and the best setting as a recipe (best.yaml), which train.py runs as it is. The same command "
    "goes on with a search that was stopped."
)


def main(arguments: Sequence[str]) -> None:
    """Search, and print the results."""
    recipe, own = parse_recipe(arguments, program="tune.py", description=DESCRIPTION, extra=_own_flags())
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
        help="what is searched: a YAML file of recipe fields, each with {choices: [...]}, {range: [low, high]} or "
        "{log_range: [low, high]}, ends included; or one that comes with the project: cal (the default)",
    )
    own.add_argument(
        "--trials", type=_whole, metavar="N", help="trials in all; without it, every setting of a space of choices"
    )
    own.add_argument(
        "--searcher",
        choices=("optuna", "random", "grid"),
        default="optuna",
        help="optuna: TPE, which learns from the trials before; random; grid: every setting (default: optuna)",
    )
    own.add_argument(
        "--scheduler",
        choices=("asha", "none"),
        default="asha",
        help="asha: trials that do worse than others at the same epoch are stopped; none: all train to their end "
        "(default: asha)",
    )
    own.add_argument(
        "--concurrency", type=_whole, metavar="N", help="trials at once (default: as many as the cluster has room for)"
    )
    own.add_argument(
        "--grace",
        type=_whole,
        metavar="EPOCHS",
        help="epochs before asha stops a trial (default: a ninth of train.epochs, and at least one epoch with CAL's "
        "losses, rounded up to a validation)",
    )
    own.add_argument(
        "--reduction",
        type=_above_one,
        default=3.0,
        metavar="X",
        help="one of so many trials goes on from each of asha's rungs, which stand at epochs grace, grace X, grace X "
        "X, ... (default: 3)",
    )
    return own


def _whole(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 100_000:
        raise argparse.ArgumentTypeError(f"{text!r}, expected a whole number from 1 to 100000")
    return int(text)


def _above_one(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 1 < value <= 1000:
        raise argparse.ArgumentTypeError(f"{text!r}, expected a number above 1, at most 1000")
    return value


if __name__ == "__main__":
    run_job(main)

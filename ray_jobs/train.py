"""Train and score: `python ray_jobs/train.py --recipe NAME_OR_FILE`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

if __name__ == "__main__":  # run as a script, the packages stand beside this folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from ccvid.config import Recipe
from data_tools.progress import message
from data_tools.storage import StorageFolder
from ray_jobs.cli import parse_recipe, run_job, show_results
from ray_jobs.cluster.connection import connect
from ray_jobs.training.run import train


def train_on_ray(recipe: Recipe) -> StorageFolder:
    """One run on the cluster; returns its folder."""
    connect()
    return train(recipe)


def main(arguments: Sequence[str], train_run: Callable[[Recipe], StorageFolder] = train_on_ray) -> None:
    """Make shards if there are none, train, score the test set, and report where the results are."""
    recipe, own = parse_recipe(
        arguments,
        program="train.py",
        description="Train clothes-changing video person re-identification and score the test set. With no flag: "
        "synthetic walkers, a small network, a few minutes.",
        extra=_own_flags(),
    )
    if own.seeds is not None:
        from ray_jobs.training.seeds import train_seeds  # with torch, which one run's driver does not need

        message(f"results: {train_seeds(recipe, own.seeds, train_run)}")
        return
    show_results(train_run(recipe))


def _own_flags() -> argparse.ArgumentParser:
    own = argparse.ArgumentParser(add_help=False)
    own.add_argument(
        "--seeds",
        type=_seeds,
        metavar="N",
        help="N runs, one after the other, with train.seed and the next ones, named NAME-seed1, NAME-seed2, ...; then "
        "mean and standard deviation over them, in storage/NAME/seeds.json. The same command goes on with them",
    )
    return own


def _seeds(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 1000:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of runs, expected 1 to 1000")
    return int(text)


if __name__ == "__main__":
    run_job(main)

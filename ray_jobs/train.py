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
from ray_jobs.cli import parse_recipe, run_job, show_results, whole_number_flag


def train_on_ray(recipe: Recipe) -> StorageFolder:
    """One run on the cluster; returns its folder."""
    from ray_jobs.cluster.connection import connect  # with Ray and torch, which --help does not need
    from ray_jobs.training.run import train

    connect()
    return train(recipe)


def main(arguments: Sequence[str], train_run: Callable[[Recipe], StorageFolder] = train_on_ray) -> None:
    """Make shards if there are none, train, score the test set, and report where the results are."""
    recipe, own = parse_recipe(
        arguments,
        program="train.py",
        description="Train clothes-changing video person re-identification and score the test set. Without flags it "
        "trains a small network on synthetic walkers, which takes a few minutes.",
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
        type=whole_number_flag(most=1000),
        metavar="N",
        help="train N runs in turn, with train.seed and the seeds after it, named NAME-seed1, NAME-seed2, ...; write "
        "mean and standard deviation to storage/NAME/seeds.json. The same command resumes them. Default: one run",
    )
    return own


if __name__ == "__main__":
    run_job(main)

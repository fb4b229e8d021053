"""Train and score: `python ray_jobs/train.py --recipe NAME_OR_FILE`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":  # run as a script, the packages stand beside this folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from ray_jobs.cli import parse_recipe, run_job
from ray_jobs.cluster import connect
from ray_jobs.training import train


def main(arguments: Sequence[str]) -> None:
    """Make shards where there are none, train, score the test set, and say where everything lies."""
    recipe, _ = parse_recipe(
        arguments,
        program="train.py",
        description="Train clothes-changing video person re-identification and score the test set. With no flag: "
        "synthetic walkers, a small network, a few minutes.",
    )
    connect()
    folder = train(recipe)
    table = folder / "metrics.txt"
    if table.exists():
        print(table.read_text())
    print(f"results: {folder}")
    for picture in sorted(folder.glob("rankings_*.svg")):
        print(f"pictures: {picture}")


if __name__ == "__main__":
    run_job(main)

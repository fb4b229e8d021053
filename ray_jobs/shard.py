"""Make Arrow shards: `python ray_jobs/shard.py --recipe ccvid_cal --data.root CCVID --data.shards FOLDER`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":  # run as a script, the packages stand beside this folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from data_tools.progress import message
from ray_jobs.cli import parse_recipe, run_job
from ray_jobs.cluster.connection import connect
from ray_jobs.sharding.shards import make_index, make_shards, summary, verify
from ray_jobs.sharding.sources import shard_folder


def main(arguments: Sequence[str]) -> None:
    """Make the recipe's shards, or verify or index them."""
    own = argparse.ArgumentParser(add_help=False)
    own.add_argument(
        "--verify",
        action="store_true",
        help="check finished shards instead: compare their checksums and their index, and decode every frame",
    )
    own.add_argument(
        "--index",
        action="store_true",
        help="write the index of finished shards again: where it is damaged, or an earlier version made none",
    )
    recipe, flags = parse_recipe(
        arguments,
        program="shard.py",
        description="Turn a data set, footage with tracks, or a folder of clips into Arrow shards.",
        reads=("data",),
        extra=own,
    )
    connect()
    folder = shard_folder(recipe.data)
    if flags.index:
        message(summary(make_index(folder), folder))
    if flags.verify:
        message(summary(verify(folder, frames=True), folder))
        message("all checksums and frames are correct")
    if not (flags.index or flags.verify):
        make_shards(recipe.data)


if __name__ == "__main__":
    run_job(main)

"""Score a retrieval: `python ray_jobs/evaluate.py --distances FILE.npz`, `--embeddings FILE` or `--checkpoint PATH`.

`--compare RESULTS RESULTS` sets finished results side by side.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":  # run as a script, the packages stand beside this folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from ccvid.retrieval.ranking.given import read_distances, read_features
from data_tools.storage import StorageFolder
from ray_jobs.cli import parse_recipe, run_job, show_results
from ray_jobs.scoring.comparison import compare_results
from ray_jobs.scoring.evaluation import name_after, results_folder, score_checkpoint, score_given

DESCRIPTION = (
    "Score general, same-clothes, clothes-changing and further retrieval protocols: CMC, mAP, mINP. A match is "
    "another tracklet of the query's person before another camera; other entries of that person are removed as junk. "
    "Equal distances stand in the order of the gallery. Prints a table and writes metrics.json, metrics.txt and a "
    "row for each query (queries.parquet) under --run.storage/--run.name, by default named after what is scored."
)


def main(arguments: Sequence[str]) -> None:
    """Score what the flags name, print the table, and report where the results are."""
    recipe, flags = parse_recipe(arguments, program="evaluate.py", description=DESCRIPTION, extra=_own_flags())
    if flags.compare:
        compare_results(flags.compare, recipe.run, recipe.data.cache, name=vars(flags).get("run.name"))
        return
    checkpoint: StorageFolder | None = flags.checkpoint
    file: Path = flags.distances or flags.embeddings
    run = recipe.run
    if vars(flags).get("run.name") is None:
        run = run.model_copy(update={"name": name_after(run.name if checkpoint else file.stem)})
    folder = results_folder(run, checkpoint or file)
    if checkpoint:
        score_checkpoint(recipe, checkpoint, folder)
    else:
        given = read_distances(file) if flags.distances else read_features(file)
        score_given(given, recipe, file, folder, keep_junk=flags.keep_junk)
    show_results(folder)


def _own_flags() -> argparse.ArgumentParser:
    own = argparse.ArgumentParser(add_help=False)
    source = own.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--distances",
        type=_path,
        metavar="FILE.npz",
        help="distances that others made: distmat (queries x gallery), q_pids, g_pids, q_camids, g_camids; further "
        "q_oids, g_oids (outfits), and pairs like q_location, g_location or q_scale, g_scale. Needs no cluster",
    )
    source.add_argument(
        "--embeddings",
        type=_path,
        metavar="FILE",
        help="features that others made, compared by cosine: Parquet with the columns id, person, camera, split "
        "(query, gallery), embedding, further clothes and attributes; or .npz with qf, gf in place of distmat",
    )
    own.add_argument(
        "--keep-junk",
        action="store_true",
        help="with --distances and --embeddings: take persons -1 and 0 for persons like any other. Without it they are "
        "what Market-1501 makes of them: entries of person -1 (or nan, none, null, N/A, unknown) are junk, left out "
        "of queries and gallery; entries of person 0 are distractors, which stay in the gallery as wrong answers, "
        "unless a query is of person 0: then persons are counted from 0, and it is one of them",
    )
    source.add_argument(
        "--checkpoint",
        type=_place,
        metavar="PATH",
        help="trained weights to embed and score the recipe's query and gallery with: a run folder, a checkpoint "
        "folder, or a released .pth.tar file; a path or a URI (s3://bucket/runs/NAME)",
    )
    source.add_argument(
        "--compare",
        type=_place,
        nargs="+",
        metavar="RESULTS",
        help="two or more folders of results (of train.py or this command) side by side: each against the first, by "
        "the queries that both hold, with a bootstrap over persons",
    )
    return own


def _path(text: str) -> Path:
    return Path(text).expanduser().absolute()


def _place(text: str) -> StorageFolder:
    try:
        return StorageFolder(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


if __name__ == "__main__":
    run_job(main)

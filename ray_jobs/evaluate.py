"""Score a retrieval: `python ray_jobs/evaluate.py --distances FILE.npz`, `--embeddings FILE` or `--checkpoint PATH`.

`--checkpoints A B --datasets R1 R2` scores every pair into one table; `--compare RESULTS RESULTS` sets finished results
side by side; `--standing RESULTS …` shows where they stand and what costs them most.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

if __name__ == "__main__":  # run as a script, the packages stand beside this folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from ccvid.config import Recipe, RunOptions
from ccvid.retrieval.ranking.given import read_distances, read_features
from data_tools.storage import StorageFolder
from ray_jobs.cli import UsageError, parse_recipe, path_flag, place_flag, run_job, show_results
from ray_jobs.scoring.comparison import compare_results
from ray_jobs.scoring.evaluation import name_after, results_folder, score_checkpoint, score_given, score_store
from ray_jobs.scoring.judged_sets import judged_sets
from ray_jobs.scoring.referee import judge
from ray_jobs.scoring.standing import show_standing

DESCRIPTION = (
    "Score general, same-clothes, clothes-changing and further retrieval protocols: CMC, mAP, mINP. A match is a "
    "tracklet of the query's person from another camera; other entries of that person are removed as junk. Equal "
    "distances rank in gallery order. Prints a table and writes metrics.json, metrics.txt and a row for each query "
    "(queries.parquet) to run.storage/run.name."
)
READS = (
    *("run.name", "run.storage", "run.patience_seconds", "data", "clip.length", "clip.stride", "loader", "model"),
    *("train.bf16", "train.log_every_seconds", "score", "report"),
    *("compute.workers", "compute.use_gpu", "compute.cpus_per_worker"),
)


def main(arguments: Sequence[str]) -> None:
    """Score what the flags name, print the table, and report where the results are."""
    recipe, flags = _parse(arguments)
    if flags.datasets and not flags.checkpoints:
        raise UsageError("--datasets: only with --checkpoints")
    if flags.fuse and (flags.checkpoints or flags.standing):
        raise UsageError("--fuse: not with --checkpoints or --standing; fuse the evidence of one checkpoint at a time")
    if flags.checkpoints:
        run = _named(recipe.run, flags, "referee")
        judge(flags.checkpoints, judged_sets(flags.datasets, recipe, partial(_parse, arguments)), run)
        return
    if flags.standing:
        show_standing(flags.standing, _named(recipe.run, flags, "standing"), recipe)
        return
    if flags.compare:
        compare_results(flags.compare, recipe.run, recipe.data.cache, recipe.report, name=vars(flags).get("run.name"))
        return
    source: StorageFolder | Path = flags.checkpoint or flags.distances or _file_or_store(flags.embeddings)
    run = recipe.run
    if vars(flags).get("run.name") is None:
        named = run.name if flags.checkpoint else source.stem if isinstance(source, Path) else source.name
        run = run.model_copy(update={"name": name_after(named)})
    folder = results_folder(run, source)
    if flags.checkpoint:
        score_checkpoint(recipe, flags.checkpoint, folder, fuse=flags.fuse)
    elif isinstance(source, StorageFolder):
        score_store(recipe, source, folder, fuse=flags.fuse)
    else:
        given = read_distances(source) if flags.distances else read_features(source)
        score_given(given, recipe, source, folder, keep_junk=flags.keep_junk, fuse=flags.fuse)
    show_results(folder)


def _parse(arguments: Sequence[str], *further: str) -> tuple[Recipe, argparse.Namespace]:
    return parse_recipe(
        [*arguments, *further],
        program="evaluate.py",
        description=DESCRIPTION,
        reads=READS,
        extra=_own_flags(),
        defaults={"run.name": "FILE-scores, or {}-scores with --checkpoint".format},
    )


def _named(run: RunOptions, flags: argparse.Namespace, default: str) -> RunOptions:
    """The run with its ``default`` name, unless a flag gives one."""
    return run if vars(flags).get("run.name") else run.model_copy(update={"name": default})


def _file_or_store(place: StorageFolder) -> Path | StorageFolder:
    """A file of embeddings of this machine, or a gallery."""
    return place if place.local is None or place.is_folder() else place.local


def _own_flags() -> argparse.ArgumentParser:
    own = argparse.ArgumentParser(add_help=False)
    source = own.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--distances",
        type=path_flag,
        metavar="FILE.npz",
        help="score a distance matrix: distmat (queries x gallery), q_pids, g_pids, q_camids, g_camids; optional "
        "q_oids, g_oids (outfits), and pairs such as q_location, g_location or q_scale, g_scale. Needs no cluster",
    )
    source.add_argument(
        "--embeddings",
        type=place_flag,
        metavar="PATH",
        help="score features by cosine: Parquet with the columns id, person, camera, split (query, gallery), "
        "embedding, optional clothes and attributes; .npz with qf, gf instead of distmat; or the folder or URI of a "
        "gallery of score.py, whose tracklets of split query and gallery with a known person are scored. A large "
        "gallery stays in its parts, which the cluster's tasks look at",
    )
    own.add_argument(
        "--keep-junk",
        action="store_true",
        help="with --distances and files of --embeddings: take persons -1 and 0 as ordinary persons. Default: as in "
        "Market-1501, entries of person -1 (or nan, none, null, N/A, unknown) are junk and left out; entries of person "
        "0 are distractors that stay in the gallery as wrong answers, unless a query has person 0",
    )
    source.add_argument(
        "--checkpoint",
        type=place_flag,
        metavar="PATH",
        help="embed query and gallery of the recipe's data with trained weights and score them: the path or URI of a "
        "run folder, a checkpoint folder, a released .pth.tar file, an exported model.onnx, or any re-id network "
        "NAME.onnx with its card NAME.yaml",
    )
    source.add_argument(
        "--checkpoints",
        type=place_flag,
        nargs="+",
        metavar="PATH",
        help="score each of them, as --checkpoint does, on each of --datasets, into one table: intervals, how far each "
        "goes by clothes, milliseconds a clip, parameters, FLOPs, hashes of protocols, licences, and two controls, a "
        "perfect oracle and a random embedder. What is scored already is not scored again",
    )
    own.add_argument(
        "--datasets",
        nargs="+",
        default=[],
        metavar="SET",
        help="with --checkpoints: RECIPE=SHARDS (a recipe of the project or a YAML file, and a folder or URI of its "
        "shards), a YAML file that names its data itself, or finished shards. Default: the data of --recipe",
    )
    own.add_argument(
        "--fuse",
        type=path_flag,
        action="append",
        default=[],
        metavar="FILE.parquet",
        help="add others' evidence for the same tracklets (a face, gait or body model): id, embedding, or query_id, "
        "gallery_id, score, each with an optional quality; null where there is none. Each is calibrated and weighed on "
        "the labelled pairs of other persons; may be repeated. fusion.json keeps the fit for score.py --decisions",
    )
    source.add_argument(
        "--compare",
        type=place_flag,
        nargs="+",
        metavar="RESULTS",
        help="compare two or more folders of results (of train.py or evaluate.py): each with the first, on the queries "
        "that both have, with a bootstrap over persons",
    )
    source.add_argument(
        "--standing",
        type=place_flag,
        nargs="+",
        metavar="RESULTS",
        help="show where models stand, from folders of results or of --checkpoints: accuracy against cost, queries "
        "that all miss, and which cameras and other attributes cost most",
    )
    return own


if __name__ == "__main__":
    run_job(main)

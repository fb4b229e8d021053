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
from ray_jobs.cli import parse_recipe, path_flag, place_flag, run_job, show_results
from ray_jobs.scoring.comparison import compare_results
from ray_jobs.scoring.evaluation import name_after, results_folder, score_checkpoint, score_given, score_store

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
    recipe, flags = parse_recipe(
        arguments,
        program="evaluate.py",
        description=DESCRIPTION,
        reads=READS,
        extra=_own_flags(),
        defaults={"run.name": "FILE-scores, or {}-scores with --checkpoint".format},
    )
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
    return own


if __name__ == "__main__":
    run_job(main)

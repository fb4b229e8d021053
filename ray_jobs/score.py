"""Rank a gallery without labels: `python ray_jobs/score.py --checkpoint PATH --data.kind footage ...`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

if __name__ == "__main__":  # run as a script, the packages stand beside this folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from ccvid.config import Recipe
from ccvid.retrieval.gallery.clusters import REACH
from data_tools.datasets.start_times import parse_time
from data_tools.errors import InputError
from data_tools.storage import StorageFolder
from data_tools.wording import shown
from ray_jobs.cli import UsageError, parse_recipe, path_flag, place_flag, run_job, show_results, whole_number_flag
from ray_jobs.scoring.forgetting import ForgetRequest, forget
from ray_jobs.scoring.gallery import GalleryRequest, score_gallery
from ray_jobs.scoring.time_limits import TimeLimit, parse_limit
from ray_jobs.scoring.watching import watch

DESCRIPTION = (
    "Embed footage and rank its tracklets by cosine for each query tracklet. It needs no labels. Queries are the "
    "tracklets of split query, in this data or in another gallery; all others are the gallery. Embeddings are kept in "
    "a gallery, to which each run adds what is new. Writes matches.parquet, matches.csv and pages of filmstrips to "
    "run.storage/run.name. With --watch, does so for what arrives in a folder, until it is told to end."
)
READS = (
    *("run.name", "run.storage", "run.patience_seconds", "data", "clip.length", "clip.stride", "loader", "model"),
    *(
        "train.bf16",
        "train.log_every_seconds",
        "score.clips_per_batch",
        "score.flip",
        "score.report",
        "score.threshold.prior",
        "report",
    ),
    *("compute.workers", "compute.use_gpu", "compute.cpus_per_worker"),
)


def main(arguments: Sequence[str]) -> None:
    """Embed what is new, rank, and report where the results are; or watch a folder; or forget a person."""
    own_flags = _own_flags()
    recipe, own = parse_recipe(
        [*_watched_footage(arguments), *arguments],
        program="score.py",
        description=DESCRIPTION,
        reads=READS,
        extra=own_flags,
    )
    folder = StorageFolder(recipe.run.storage, recipe.run.patience_seconds) / recipe.run.name
    gallery = own.gallery or folder / "gallery"
    if own.remove_person or own.remove_id or own.forget_before is not None:
        forget(recipe, gallery, folder, ForgetRequest(own.remove_person, own.remove_id, own.forget_before))
        return
    if own.checkpoint is None:
        raise UsageError("--checkpoint is required: a run folder, a checkpoint folder, a released file or a model.onnx")
    request = GalleryRequest(
        gallery=gallery,
        queries=own.queries,
        top=own.top,
        cameras=tuple(own.camera),
        since=own.since,
        until=own.until,
        other_cameras=own.other_cameras,
        only_new=own.only_new,
        approximate=own.approximate,
        decisions=own.decisions,
        groups=own.groups,
        fuse=tuple(own.fuse),
    )
    if request.fuse and (request.decisions is None or request.approximate):
        raise UsageError(
            "--fuse needs --decisions, which say how to weigh it, and cannot be combined with --approximate"
        )
    if own.watch is None:
        score_gallery(recipe, own.checkpoint, request, folder)
    else:
        _check_watching(recipe, own)
        watch(recipe, own.checkpoint, request, folder, settle_seconds=own.watch_settle, once=own.watch_once)
    show_results(folder)


def _watched_footage(arguments: Sequence[str]) -> list[str]:
    """Flags of the recipe that ``--watch`` stands for."""
    only = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    only.add_argument("--watch")
    try:
        folder = only.parse_known_args(arguments)[0].watch
    except argparse.ArgumentError:  # the whole parser says it
        folder = None
    values = {"data.kind": "footage", "data.footage.videos": folder, "data.footage.people_from_tracks": "false"}
    return [] if folder is None else [word for name, value in values.items() for word in (f"--{name}", value)]


def _check_watching(recipe: Recipe, own: argparse.Namespace) -> None:
    """Raises ``UsageError`` for flags that have no meaning with ``--watch``."""
    footage = recipe.data.footage
    if recipe.data.kind != "footage" or footage is None or footage.videos != own.watch or footage.people_from_tracks:
        raise UsageError(
            "--watch says what is read; leave out --data.kind, --data.footage.videos and "
            "--data.footage.people_from_tracks"
        )
    for flag in ("groups", "only_new", "approximate", "fuse"):
        if getattr(own, flag):
            raise UsageError(f"--watch cannot be combined with --{flag.replace('_', '-')}")


def _own_flags() -> argparse.ArgumentParser:
    own = argparse.ArgumentParser(add_help=False)
    for add in (_add_gallery, _add_filters, _add_evidence, _add_watching, _add_forgetting):
        add(own)
    return own


def _add_gallery(own: argparse.ArgumentParser) -> None:
    own.add_argument(
        "--checkpoint",
        type=place_flag,
        metavar="PATH",
        help="trained weights: the path or URI of a run folder, a checkpoint folder, a released file, or any "
        "re-id network NAME.onnx with its card NAME.yaml",
    )
    own.add_argument(
        "--gallery",
        type=place_flag,
        metavar="PATH",
        help="folder or URI of the gallery. Default: run.storage/run.name/gallery",
    )
    own.add_argument(
        "--queries",
        type=place_flag,
        metavar="PATH",
        help="gallery whose tracklets are the queries. Default: the split query",
    )


def _add_filters(own: argparse.ArgumentParser) -> None:
    own.add_argument(
        "--top", type=whole_number_flag(10**6), default=20, metavar="K", help="matches per query. Default: 20"
    )
    own.add_argument("--camera", action="append", default=[], metavar="NAME", help="only this camera; may be repeated")
    time = "seconds of its video, or a date and time such as 2026-11-20T08:00 (UTC unless it names a zone)"
    own.add_argument("--since", type=_time, metavar="TIME", help=f"only tracklets that end at or after this: {time}")
    own.add_argument("--until", type=_time, metavar="TIME", help="only tracklets that start at or before this")
    own.add_argument("--other-cameras", action="store_true", help="leave out the camera of the query")
    own.add_argument("--only-new", action="store_true", help="rank only what this run adds to the gallery")
    own.add_argument(
        "--approximate",
        action="store_true",
        help="search with an index (usearch): faster for millions of tracklets, but may miss some; prints its recall",
    )


def _add_evidence(own: argparse.ArgumentParser) -> None:
    own.add_argument(
        "--decisions",
        type=place_flag,
        metavar="RESULTS",
        help="results of train.py or evaluate.py on labelled tracklets, with the same weights and clips: the pages "
        "show their recommended threshold, and scores become probabilities",
    )
    own.add_argument(
        "--fuse",
        type=path_flag,
        action="append",
        default=[],
        metavar="FILE.parquet",
        help="rank by others' evidence, too, as in the results of --decisions, which evaluate.py made with files of "
        "the same names: id, embedding or query_id, gallery_id, score, each with an optional quality; may be repeated. "
        "Scores are then log-likelihood ratios. Groups are of embeddings alone",
    )
    own.add_argument(
        "--groups",
        type=_share,
        nargs="?",
        const=REACH,
        metavar="REACH",
        help="also group the tracklets of the gallery into probable people (clusters.parquet and pages); a larger "
        f"reach, between 0 and 1, makes larger groups. {REACH} without a value. Default: do not group",
    )


def _add_watching(own: argparse.ArgumentParser) -> None:
    own.add_argument(
        "--watch",
        type=path_flag,
        metavar="FOLDER",
        help="take in the videos with track files that arrive in the folder, until interrupted: rank them for the "
        "queries, add a line of JSON to matches.jsonl for each match that reaches the threshold of --decisions or, "
        "without one, is among the first K, and update the pages. Run again, it goes on where it was",
    )
    own.add_argument(
        "--watch-settle",
        type=_seconds,
        default=10.0,
        metavar="SECONDS",
        help="watch: a video is complete when its track file is there and neither has changed for so long. Default: 10",
    )
    own.add_argument("--watch-once", action="store_true", help="watch: end when all that is complete is taken in")


def _add_forgetting(own: argparse.ArgumentParser) -> None:
    own.add_argument(
        "--remove-person",
        action="append",
        default=[],
        metavar="NAME",
        help="only remove what is kept of a person: embeddings in the gallery, matches, pages and pictures of the run, "
        "rows of tables, and the frames in the shards; writes a certificate; may be repeated",
    )
    own.add_argument("--remove-id", action="append", default=[], metavar="ID", help="the same for a tracklet")
    own.add_argument(
        "--forget-before",
        type=_moment,
        metavar="DATE",
        help="the same for all tracklets that start earlier, such as 2026-11-20 or 2026-11-20T08:00 (UTC unless it "
        "names a zone)",
    )


def _time(text: str) -> TimeLimit:
    try:
        return parse_limit(text)
    except InputError as error:
        raise argparse.ArgumentTypeError(f"{error}, or seconds") from None


def _moment(text: str) -> datetime:
    try:
        return parse_time(text)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= 86_400:
        raise argparse.ArgumentTypeError(f"expected seconds from 0 to 86400, got {shown(text)}")
    return seconds


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    if not 0 < share < 1:
        raise argparse.ArgumentTypeError(f"expected a number above 0 and below 1, got {shown(text)}")
    return share


if __name__ == "__main__":
    run_job(main)

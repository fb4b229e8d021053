"""Rank a gallery without labels: `python ray_jobs/score.py --checkpoint PATH --data.kind footage ...`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":  # run as a script, the packages stand beside this folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from ccvid.retrieval.gallery.clusters import REACH
from data_tools.errors import InputError
from data_tools.storage import StorageFolder
from ray_jobs.cli import UsageError, parse_recipe, run_job, show_results
from ray_jobs.scoring.gallery import GalleryRequest, remove_from_gallery, score_gallery
from ray_jobs.scoring.time_limits import TimeLimit, parse_limit

DESCRIPTION = (
    "Embed footage and rank its tracklets for each query tracklet by cosine: exactly, whatever is known of the people. "
    "Queries are the tracklets of split query, of this data or of another gallery; the gallery is all others. "
    "Embeddings are kept in a gallery (--gallery, by default under the run), to which each run adds what is new. "
    "Writes matches.parquet, matches.csv and pages of filmstrips under --run.storage/--run.name."
)


def main(arguments: Sequence[str]) -> None:
    """Embed what is new, rank, and report where the results are; or remove a person."""
    recipe, own = parse_recipe(arguments, program="score.py", description=DESCRIPTION, extra=_own_flags())
    folder = StorageFolder(recipe.run.storage, recipe.run.patience_seconds) / recipe.run.name
    gallery = own.gallery or folder / "gallery"
    if own.remove_person or own.remove_id:
        remove_from_gallery(gallery, folder, persons=own.remove_person, ids=own.remove_id)
        return
    if own.checkpoint is None:
        raise UsageError("--checkpoint is missing: give a run folder, a checkpoint or a released file")
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
    )
    score_gallery(recipe, own.checkpoint, request, folder)
    show_results(folder)


def _own_flags() -> argparse.ArgumentParser:
    own = argparse.ArgumentParser(add_help=False)
    own.add_argument(
        "--checkpoint",
        type=StorageFolder,
        metavar="PATH",
        help="trained weights: a run folder, a checkpoint of it, or a released file; folders and files may be URIs",
    )
    own.add_argument("--gallery", type=StorageFolder, metavar="PATH", help="where embeddings are kept, a folder or URI")
    own.add_argument(
        "--queries", type=StorageFolder, metavar="PATH", help="a gallery all of whose tracklets are the queries"
    )
    own.add_argument("--top", type=_whole, default=20, metavar="K", help="matches of a query (default: 20)")
    own.add_argument("--camera", action="append", default=[], metavar="NAME", help="only this camera; may be repeated")
    time = "seconds of its video, or a time of day such as 2026-11-20T08:00 (UTC where it names no zone)"
    own.add_argument("--since", type=_time, metavar="TIME", help=f"only tracklets that end at or after this: {time}")
    own.add_argument("--until", type=_time, metavar="TIME", help="only tracklets that start at or before this")
    own.add_argument("--other-cameras", action="store_true", help="not the query's own camera")
    own.add_argument("--only-new", action="store_true", help="rank only what this run adds to the gallery")
    own.add_argument(
        "--approximate",
        action="store_true",
        help="search by an index (usearch): faster in galleries of millions, may miss some; prints its recall",
    )
    own.add_argument(
        "--decisions",
        type=StorageFolder,
        metavar="RESULTS",
        help="results of train.py or evaluate.py with the same weights and clips, on labelled tracklets: their "
        "recommended threshold is drawn into the pages, and scores become probabilities",
    )
    own.add_argument(
        "--groups",
        type=_share,
        nargs="?",
        const=REACH,
        metavar="REACH",
        help="also group the gallery's tracklets into probable people: clusters.parquet and pages of groups; the "
        f"further the reach, the larger the groups (0 to 1, without a number: {REACH})",
    )
    own.add_argument(
        "--remove-person",
        action="append",
        default=[],
        metavar="NAME",
        help="remove a person's embeddings from the gallery, with the run's matches and pages, and do nothing else; "
        "may be repeated",
    )
    own.add_argument("--remove-id", action="append", default=[], metavar="ID", help="the same for one tracklet")
    return own


def _time(text: str) -> TimeLimit:
    try:
        return parse_limit(text)
    except InputError as error:
        raise argparse.ArgumentTypeError(f"{error}, or seconds") from None


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    if not 0 < share < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number between 0 and 1")
    return share


def _whole(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number from 1")
    return int(text)


if __name__ == "__main__":
    run_job(main)

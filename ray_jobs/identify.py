"""Find out who is who in a gallery: `python ray_jobs/identify.py --gallery PATH --calibration RESULTS`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":  # run as a script, the packages stand beside this folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from data_tools.storage import StorageFolder
from ray_jobs.cli import UsageError, parse_recipe, path_flag, place_flag, run_job, show_results, whole_number_flag
from ray_jobs.scoring.identities import IdentityRequest, identify_gallery
from ray_jobs.scoring.identity_results import write_identities

DESCRIPTION = (
    "Give every tracklet of a gallery the number of its person, on all cameras and days. The gallery is one that "
    "score.py keeps, or is made here. Numbers are kept in it: run again with the next day's footage, and new tracklets "
    "join known persons or open new ones. What resemblance is worth is learnt from labelled tracklets; what is "
    "doubtful stays apart and becomes a question. Writes identities.parquet, questions.csv and pages to "
    "run.storage/run.name, and on request the footage's tracks with persons, and annotated videos."
)
READS = (
    *("run.name", "run.storage", "run.patience_seconds", "data", "clip.length", "clip.stride", "loader", "model"),
    *("train.bf16", "train.log_every_seconds", "score.clips_per_batch", "score.flip"),
    *("score.report", "score.threshold.prior", "report"),
    *("compute.workers", "compute.use_gpu", "compute.cpus_per_worker"),
)


def main(arguments: Sequence[str]) -> None:
    """Find the persons, and report where the results are."""
    recipe, own = parse_recipe(
        arguments, program="identify.py", description=DESCRIPTION, reads=READS, extra=_own_flags()
    )
    folder = StorageFolder(recipe.run.storage, recipe.run.patience_seconds) / recipe.run.name
    if own.gallery is None and own.checkpoint is None:
        raise UsageError("--gallery is required: the folder or URI of a gallery; or --checkpoint, to make one")
    if (own.tracks or own.annotate) and recipe.data.kind not in ("footage", "synthetic"):
        raise UsageError(f"--tracks and --annotate need footage; --data.kind is {recipe.data.kind}")
    request = IdentityRequest(
        gallery=own.gallery or folder / "gallery",
        checkpoint=own.checkpoint,
        calibration=own.calibration,
        corrections=own.corrections,
        travel=own.travel,
        neighbours=own.neighbours,
        approximate=own.approximate,
        tracks=own.tracks,
        annotate=tuple(own.annotate),
    )
    found = identify_gallery(recipe, request, folder)
    write_identities(found, recipe, request, folder)
    show_results(folder)


def _own_flags() -> argparse.ArgumentParser:
    own = argparse.ArgumentParser(add_help=False)
    own.add_argument(
        "--gallery",
        type=place_flag,
        metavar="PATH",
        help="folder or URI of the gallery. Default, with --checkpoint: run.storage/run.name/gallery",
    )
    own.add_argument(
        "--checkpoint",
        type=place_flag,
        metavar="PATH",
        help="first embed the data into the gallery with these weights, as score.py does: a run folder, a checkpoint "
        "folder, a released file or a model.onnx. Default: the gallery stays as it is",
    )
    own.add_argument(
        "--calibration",
        type=place_flag,
        metavar="RESULTS",
        help="results of train.py or evaluate.py on labelled tracklets of other people, with the same weights and "
        "clips: what resemblance is worth is learnt from them. Needed at first, then kept in the gallery",
    )
    own.add_argument(
        "--corrections",
        type=path_flag,
        metavar="FILE.csv",
        help="decisions of people, obeyed for ever: a header verdict,tracklet,other, and rows such as "
        "same,gate/3,yard/5 or different,gate/3,yard/8 or name,gate/3,Anna; undecided takes back. The pages offer rows "
        "to copy",
    )
    own.add_argument(
        "--travel",
        type=path_flag,
        metavar="FILE.csv",
        help="least travel times: a header camera_a,camera_b,least_seconds. Tracklets nearer in time are two persons. "
        "It needs --data.footage.start_times when the footage is read",
    )
    own.add_argument(
        "--neighbours",
        type=whole_number_flag(1000),
        default=20,
        metavar="K",
        help="most similar tracklets of each new one that may be its person. Default: 20",
    )
    own.add_argument(
        "--approximate",
        action="store_true",
        help="search them with an index (usearch): faster for millions of tracklets, but may miss some",
    )
    own.add_argument(
        "--tracks",
        choices=("replace", "beside"),
        help="also write the footage's track files (text, Parquet) with persons in place of their tracks, or in a "
        "column beside them",
    )
    own.add_argument(
        "--annotate",
        action="append",
        default=[],
        metavar="VIDEO",
        help="also write this video of the footage with boxes and persons drawn; may be repeated. With --report.mosaic "
        "the heads in the boxes are made unrecognisable; people without a box stay as they are",
    )
    return own


if __name__ == "__main__":
    run_job(main)

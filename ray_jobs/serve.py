"""Answer searches of a gallery over HTTP: `python ray_jobs/serve.py --checkpoint PATH --gallery PATH`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":  # run as a script, the packages stand beside this folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from data_tools.wording import shown
from ray_jobs.cli import UsageError, parse_recipe, path_flag, place_flag, run_job, whole_number_flag
from ray_jobs.scoring.endpoint import Limits
from ray_jobs.scoring.serving import serve

DESCRIPTION = (
    "Serve a gallery that score.py keeps, also while it grows. POST /search takes JSON, "
    '{"embedding": [...], "top": K}, or with Content-Type video/… (and ?top=K) a video file whose frames are crops of '
    "one person, and answers with the K most similar tracklets as JSON. Needs the header Authorization: Bearer TOKEN; "
    "GET /health does not. Ends on Ctrl-C or SIGTERM, after the requests under way."
)
READS = (
    *("data.cache", "data.frames", "clip.length", "clip.stride", "loader", "model", "train.bf16"),
    *("score.clips_per_batch", "score.flip", "score.threshold.prior"),
    *("compute.workers", "compute.use_gpu", "compute.cpus_per_worker"),
)
TOKEN_FILE = "~/ccvid/serve_token"


def main(arguments: Sequence[str]) -> None:
    """Serve until told to end."""
    any_data = ["--data.kind", "synthetic"]  # no tracklets are read, so the recipe's need not be there
    recipe, own = parse_recipe(
        [*any_data, *arguments], program="serve.py", description=DESCRIPTION, reads=READS, extra=_own_flags()
    )
    for flag in ("checkpoint", "gallery"):
        if getattr(own, flag) is None:
            raise UsageError(f"--{flag} is required")
    limits = Limits(requests_per_second=own.rate, body_bytes=own.most_mebibytes * 2**20)
    serve(
        recipe,
        own.checkpoint,
        own.gallery,
        decisions=own.decisions,
        host=own.host,
        port=own.port,
        token_file=own.token_file,
        limits=limits,
    )


def _own_flags() -> argparse.ArgumentParser:
    own = argparse.ArgumentParser(add_help=False)
    own.add_argument(
        "--checkpoint",
        type=place_flag,
        metavar="PATH",
        help="the weights that the gallery was embedded with: a run folder, a checkpoint folder, a released file or a "
        "model.onnx",
    )
    own.add_argument("--gallery", type=place_flag, metavar="PATH", help="folder or URI of the gallery")
    own.add_argument(
        "--decisions",
        type=place_flag,
        metavar="RESULTS",
        help="results of train.py or evaluate.py, which turn scores into probabilities",
    )
    own.add_argument(
        "--host",
        default="127.0.0.1",
        metavar="ADDRESS",
        help="address to serve at; any other than this machine's own lets others in, without TLS. Default: 127.0.0.1",
    )
    own.add_argument("--port", type=_port, default=8460, metavar="PORT", help="0: any that is free. Default: 8460")
    own.add_argument(
        "--token-file",
        type=path_flag,
        default=path_flag(TOKEN_FILE),
        metavar="FILE",
        help=f"file with the token, readable only by you; made if there is none. Default: {TOKEN_FILE}",
    )
    own.add_argument(
        "--rate", type=_rate, default=10.0, metavar="N", help="searches a second; more are refused. Default: 10"
    )
    own.add_argument(
        "--most-mebibytes",
        type=whole_number_flag(1024),
        default=32,
        metavar="N",
        help="size of the largest clip in MiB; eight may be held at once. Default: 32",
    )
    return own


def _port(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 6 and int(text) < 2**16):
        raise argparse.ArgumentTypeError(f"expected a whole number from 0 to 65535, got {shown(text)}")
    return int(text)


def _rate(text: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        rate = 0.0
    if not 0 < rate <= 1e6:
        raise argparse.ArgumentTypeError(f"expected a number above 0, at most 1000000, got {shown(text)}")
    return rate


if __name__ == "__main__":
    run_job(main)

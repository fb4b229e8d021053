"""Export trained weights for other programs: `python ray_jobs/export.py --checkpoint PATH --to FOLDER ...`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

if __name__ == "__main__":  # run as a script, the packages stand beside this folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
import torch
from torch import Tensor

from ccvid.config import Recipe
from ccvid.exported_model import CARD_FILE, ModelCard
from ccvid.exporting import export_model
from ccvid.trained_model import TrainedModel
from data_tools.clips import all_clips
from data_tools.errors import InputError
from data_tools.manifest import MANIFEST_NAME
from data_tools.progress import message
from data_tools.shard_cache import open_shards
from data_tools.storage import StorageFolder
from data_tools.stored_frames import decode_clip_
from ray_jobs.cli import parse_recipe, place_flag, run_job
from ray_jobs.scoring.embedding import read_weights
from ray_jobs.sharding.sources import shard_folder

DESCRIPTION = (
    "Export a trained backbone as safetensors, ONNX and torch.export program into a new folder, with a card that "
    "describes their inputs and outputs. Each file is read back and compared with the original on clips from the "
    "recipe's shards. score.py and evaluate.py take FOLDER/model.onnx as --checkpoint."
)
READS = ("data.kind", "data.shards", "data.frames.format", "data.cache", "clip.length", "clip.stride", "model")
CLIPS = 8


def main(arguments: Sequence[str]) -> None:
    """Export, and report how far each file is from the original."""
    recipe, own = parse_recipe(arguments, program="export.py", description=DESCRIPTION, reads=READS, extra=_own_flags())
    place: StorageFolder = own.to
    if place.exists():
        raise InputError(f"{place}: already exists; choose a new folder")
    lacking = [name for name in ("onnx", "onnxscript", "onnxruntime") if find_spec(name) is None]
    if lacking:
        raise InputError(f"export needs {', '.join(lacking)}: pip install 'ccvid[export]'")
    trained = read_weights(own.checkpoint, recipe.model)
    clips_NTCHW = real_clips(recipe, trained)
    with TemporaryDirectory(prefix="ccvid-") as folder:
        card = export_model(trained, clips_NTCHW, Path(folder))
        place.upload_folder(Path(folder), last=CARD_FILE)
    message(description(card))
    message(f"exported: {place}")


def real_clips(recipe: Recipe, trained: TrainedModel) -> Tensor:
    """uint8 (N, T, 3, H, W): the first clip of some tracklets, test tracklets first, as the model embeds them.

    Raises:
        InputError: there are no shards, or they have fewer than two tracklets.
    """
    shards = shard_folder(recipe.data)
    if not shards.exists(MANIFEST_NAME):
        reason = "no shards, but an export is checked on real clips"
        raise InputError(f"{shards}: {reason}; make them with ray_jobs/shard.py")
    store = open_shards(str(shards), recipe.data.cache)
    clip, options = trained.clip or recipe.clip, trained.options
    rows = np.argsort(store.rows.is_in("split", ["train"]), kind="stable")[:CLIPS].tolist()
    if len(rows) < 2:
        raise InputError(f"{shards}: {len(rows)} tracklets, but checking an export needs at least two")
    clips_NTCHW = torch.empty((len(rows), clip.length, 3, options.height, options.width), dtype=torch.uint8)
    for clip_TCHW, row in zip(clips_NTCHW, rows, strict=True):
        positions = all_clips(store.rows[row].frame_count, clip)[0]
        decode_clip_(clip_TCHW, store, row, positions, options.resize_filter)
    return clips_NTCHW


def description(card: ModelCard) -> str:
    """The results of the check, one line per file."""
    if card.most_frames is None:
        lengths = f"any number of frames from {card.least_frames}"
    else:
        lengths = f"{card.most_frames} frames"
    lines = [f"{card.model.backbone}, {card.feature_size} features, clips of {lengths}"]
    for name, found in card.checked.items():
        lines.append(
            f"  {name}: {found.clips} clips, largest difference {found.largest_difference:.1e} of the largest value, "
            f"smallest cosine {found.least_cosine:.7f}"
        )
    return "\n".join(lines)


def _own_flags() -> argparse.ArgumentParser:
    own = argparse.ArgumentParser(add_help=False)
    own.add_argument(
        "--checkpoint",
        type=place_flag,
        required=True,
        metavar="PATH",
        help="trained weights: the path or URI of a run folder, a checkpoint folder, or a released file. Required",
    )
    own.add_argument("--to", type=place_flag, required=True, metavar="FOLDER", help="new folder, or its URI. Required")
    return own


if __name__ == "__main__":
    run_job(main)

"""Trained backbones on disk: the description in a checkpoint folder, and reading a backbone to embed with."""

from __future__ import annotations

import atexit
import hashlib
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from typing import Literal

import torch
from pydantic import Field

from ccvid.config import ModelOptions
from ccvid.run_files import BEST_FOLDER, CHECKPOINT_PREFIX, CONFIG_FILE, DESCRIPTION_FILE, PROGRESS_FILE, WEIGHTS_FILE
from data_tools.clips import ClipOptions
from data_tools.documents import parse_json, parse_model, parse_yaml
from data_tools.errors import InputError
from data_tools.files import read_document
from data_tools.manifest import write_model
from data_tools.options import Options
from data_tools.storage import StorageFolder
from data_tools.wording import one_line
from video_backbones import BackboneError, WeightsError
from video_backbones.backbone import VideoBackbone
from video_backbones.factory import build_backbone


class ModelDescription(Options):
    """The content of ``model.json``: everything needed to build the network for the weights beside it."""

    format_version: Literal[1] = 1
    model: ModelOptions
    clip: ClipOptions | None
    """The clips it was trained on; None if unknown."""
    persons: int = Field(ge=0)
    """Classes of the identity classifier; 0 without one."""
    clothes: int = Field(ge=0)
    """Classes of the clothes classifier; 0 without one."""


@dataclass(frozen=True, slots=True)
class TrainedModel:
    """A backbone to embed with."""

    backbone: VideoBackbone
    """In evaluation mode, on the CPU."""
    options: ModelOptions
    """The backbone and frame size that it was trained with."""
    clip: ClipOptions | None
    """The clips it was trained on; None if the file does not say."""
    fingerprint: str


def write_description(
    folder: Path, options: ModelOptions, clip: ClipOptions | None, *, persons: int, clothes: int
) -> None:
    """Write ``model.json`` into a checkpoint folder."""
    write_model(folder / DESCRIPTION_FILE, ModelDescription(model=options, clip=clip, persons=persons, clothes=clothes))


def read_description(folder: Path) -> ModelDescription:
    """Read ``model.json`` of a checkpoint folder.

    Raises:
        InputError: it is missing or invalid.
    """
    path = folder / DESCRIPTION_FILE
    try:
        return parse_model(ModelDescription, read_document(path), path)
    except FileNotFoundError:
        raise InputError(
            f"{path}: no such file; a checkpoint folder needs it to say which network {WEIGHTS_FILE} belongs to"
        ) from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None


def read_trained_model(path: Path, options: ModelOptions) -> TrainedModel:
    """Read a trained backbone.

    Args:
        path: A checkpoint folder; a run folder, to read the weights that scored its test set; or a file that holds the
            whole backbone, released (``.pth.tar``) or not.
        options: The network in a file; folders describe their own.

    Raises:
        InputError: the path is missing or damaged, or holds another network than ``options`` describe.
    """
    if not path.is_dir():
        return _read(path, options, None)
    folder = find_checkpoint(StorageFolder(str(path))).local
    assert folder is not None
    description = read_description(folder)
    return _read(folder / WEIGHTS_FILE, description.model, description.clip)


def find_checkpoint(place: StorageFolder) -> StorageFolder:
    """The checkpoint at ``place``, or in a run folder the one that its recipe scores with: best, or newest complete.

    Raises:
        InputError: ``place`` is neither.
    """
    if place.exists(WEIGHTS_FILE):
        return place
    best = place / BEST_FOLDER
    if _scores_with_best(place) and best.exists(WEIGHTS_FILE):
        return best
    folders = [place / name for name in place.names() if name.startswith(CHECKPOINT_PREFIX) and place.is_folder(name)]
    whole = [folder for folder in folders if {WEIGHTS_FILE, DESCRIPTION_FILE} <= set(folder.names())]
    if not whole:
        raise InputError(f"{place}: neither a checkpoint ({WEIGHTS_FILE}) nor a run folder with one (checkpoint*)")
    return max(whole, key=lambda folder: (*_progress(folder), folder.name))


def configured_backbone(
    options: ModelOptions, clip: ClipOptions | None, *, trained: Path | None = None
) -> VideoBackbone:
    """The recipe's backbone with its initial weights, or with all the weights in the file ``trained``.

    Raises:
        BackboneError: see :func:`video_backbones.build_backbone`.
    """
    frames = (clip or ClipOptions()).length
    return build_backbone(
        options.backbone,
        weights=trained or local_weights(options.weights),
        last_stride=options.last_stride,
        spatial_pool=options.spatial_pool,
        temporal_pool=options.temporal_pool,
        clip_size=(frames, options.height, options.width),
        patch=options.patch,
        drop_path=options.drop_path,
        checkpoint_blocks=options.checkpoint_blocks,
        attention=options.attention,
        whole=trained is not None,
    )


def local_weights(weights: str) -> str:
    """Initial weights as `build_backbone` takes them: a file at a URI is fetched, once a process.

    Raises:
        WeightsError: it cannot be fetched.
    """
    return _fetched(weights) if "://" in weights else weights


@cache
def _fetched(uri: str) -> str:
    folder = Path(mkdtemp(prefix="ccvid-weights-"))
    atexit.register(rmtree, folder, ignore_errors=True)
    try:
        place = StorageFolder(uri)
        place.parent.download(place.name, folder / place.name)
    except (OSError, ValueError) as error:
        raise WeightsError(f"{uri}: cannot be fetched: {one_line(getattr(error, 'strerror', None) or error)}") from None
    return str(folder / place.name)


def backbone_fingerprint(backbone: torch.nn.Module) -> str:
    """SHA-256 of the backbone's state, in order: equal fingerprints mean bit-identical weights."""
    digest = hashlib.sha256()
    for name, tensor in backbone.state_dict().items():
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def _read(file: Path, options: ModelOptions, clip: ClipOptions | None) -> TrainedModel:
    try:
        backbone = configured_backbone(options, clip, trained=file).eval()
    except BackboneError as error:
        raise InputError(str(error)) from None
    return TrainedModel(backbone, options, clip, backbone_fingerprint(backbone))


def _scores_with_best(run: StorageFolder) -> bool:
    try:
        config = parse_yaml(run.read(CONFIG_FILE), run / CONFIG_FILE)
    except FileNotFoundError:
        return False
    train = config.get("train") if isinstance(config, dict) else None
    return isinstance(train, dict) and train.get("test_weights") == "best"


def _progress(folder: StorageFolder) -> tuple[int, int]:
    """Epochs and steps done; a folder that does not say sorts first."""
    try:
        progress = parse_json(folder.read(PROGRESS_FILE), folder / PROGRESS_FILE)
        return int(progress["epoch"]), int(progress["step"])
    except (FileNotFoundError, ValueError, KeyError, TypeError, OverflowError):
        return -1, 0

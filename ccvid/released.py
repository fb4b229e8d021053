"""Convert checkpoints of the released CAL code to checkpoint folders and back.

    python -m ccvid.released import FILE.pth.tar FOLDER --backbone c2d_resnet50
    python -m ccvid.released export FOLDER FILE.pth.tar

A checkpoint folder holds model.safetensors (backbone, identity classifier), clothes.safetensors and model.json.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from typing import get_args

import torch
from pydantic import ValidationError
from safetensors.torch import save_file
from torch import Tensor

from ccvid.config import ModelOptions
from ccvid.run_files import CLOTHES_FILE, WEIGHTS_FILE
from ccvid.trained_model import configured_backbone, read_description, write_description
from data_tools.documents import first_problem
from data_tools.errors import InputError
from data_tools.files import atomic_file
from video_backbones import BackboneError, SpatialPoolName
from video_backbones.released import VIDEO_LAYOUTS, to_released
from video_backbones.weights import check_finite, named_tensors, read_checkpoint

_IDENTITY = "identity_classifier."


def import_released(file: Path, folder: Path, options: ModelOptions) -> None:
    """Convert a released checkpoint to a checkpoint folder, which is written completely or not at all.

    Args:
        file: Holds `model_state_dict` and optionally `classifier_state_dict` (`classifier.weight`,
            `classifier.bias`) and `clothes_classifier_state_dict` (`weight`).
        folder: Must be missing or empty.
        options: Backbone, spatial pool, last stride and frame size.

    Raises:
        InputError: the folder is not empty, or a classifier does not fit the backbone's features.
        WeightsError: the file is damaged or of another backbone, or a value is not finite.
    """
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise InputError(f"{folder}: already exists; choose a new or empty folder")
    content = read_checkpoint(file)
    backbone = configured_backbone(options, None, trained=file)
    size = backbone.feature_size
    identity = _classifier(file, content, "classifier_state_dict", size)
    clothes = _classifier(file, content, "clothes_classifier_state_dict", size)
    model = {f"backbone.{name}": value for name, value in backbone.state_dict().items()}
    model |= {_IDENTITY + name: value for name, value in identity.items()}
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        save_file({name: value.contiguous() for name, value in model.items()}, fresh / WEIGHTS_FILE)
        if clothes:
            save_file({name: value.contiguous() for name, value in clothes.items()}, fresh / CLOTHES_FILE)
        write_description(fresh, options, None, persons=_classes(identity), clothes=_classes(clothes))
        fresh.chmod(0o755)
        fresh.rename(folder)
    finally:
        rmtree(fresh, ignore_errors=True)


def export_released(folder: Path, file: Path, *, image: bool = False) -> None:
    """Convert a checkpoint folder to a file of the released code, which is written completely or not at all.

    Args:
        folder: A checkpoint folder.
        file: Replaced if it exists.
        image: Whether to write a max-pooled c2d_resnet50 as an image network; other spatial pools always are.

    Raises:
        InputError: the folder is not a checkpoint.
        WeightsError: it is damaged, a value is not finite, or its backbone was never released.
    """
    options = read_description(folder).model
    backbone = configured_backbone(options, None, trained=folder / WEIGHTS_FILE)
    state = _load(folder / WEIGHTS_FILE)
    heads = sorted((name for name in state if name.startswith(_IDENTITY)), reverse=True)  # weight, then bias
    identity = {name.removeprefix(_IDENTITY): state[name] for name in heads}
    clothes = _load(folder / CLOTHES_FILE) if (folder / CLOTHES_FILE).exists() else {}
    content = {
        "model_state_dict": to_released(backbone, image=image or options.spatial_pool != "max"),
        "classifier_state_dict": identity,
        "clothes_classifier_state_dict": clothes,
    }
    with atomic_file(file) as handle:
        torch.save({name: part for name, part in content.items() if part}, handle)


def _classifier(file: Path, content: dict[str, object], part: str, feature_size: int) -> dict[str, Tensor]:
    """A classifier's state, with any number of classes; {} if the file has none."""
    state = named_tensors(content.get(part, {}), f"{file}, {part}")
    check_finite(state, f"{file}, {part}")
    for name, value in state.items():
        is_weight = name.endswith("weight")
        classes = _classes(state)
        expected = (classes, feature_size) if is_weight else (classes,)
        if tuple(value.shape) != expected:
            raise InputError(f"{file}, {part}: {name} has shape {tuple(value.shape)}, expected {expected}")
    return state


def _classes(state: dict[str, Tensor]) -> int:
    return next((value.shape[0] for name, value in state.items() if name.endswith("weight") and value.ndim), 0)


def _load(path: Path) -> dict[str, Tensor]:
    state = read_checkpoint(path)
    check_finite(state, path)
    return state


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m ccvid.released", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    reading = commands.add_parser("import", help="a released .pth.tar -> a checkpoint folder")
    reading.add_argument("file", type=Path, help="the released checkpoint")
    reading.add_argument("folder", type=Path, help="the checkpoint folder to make")
    reading.add_argument("--backbone", required=True, choices=list(VIDEO_LAYOUTS), help="the file's backbone")
    reading.add_argument(
        "--spatial-pool",
        default="max",
        choices=get_args(SpatialPoolName),
        help="max for video networks; for an image network the pool of its training, not always stored in the file",
    )
    reading.add_argument("--last-stride", type=int, default=1, choices=(1, 2), help="stride of the last stage")
    reading.add_argument("--height", type=int, default=256, help="height of the training frames, in pixels")
    reading.add_argument("--width", type=int, default=128, help="width of the training frames, in pixels")
    writing = commands.add_parser("export", help="a checkpoint folder -> a .pth.tar for the released code")
    writing.add_argument("folder", type=Path, help="a checkpoint folder")
    writing.add_argument("file", type=Path, help="the file to write")
    writing.add_argument("--image", action="store_true", help="write an image network despite max pooling")
    return parser


def main(arguments: Sequence[str]) -> int:
    """Run one command; returns the exit code: 0 done, 1 a file is wrong, 2 the command line is wrong."""
    parser = _parser()
    given = parser.parse_args(arguments)
    try:
        if given.command == "export":
            export_released(given.folder, given.file, image=given.image)
            print(f"wrote {given.file}")
            return 0
        options = ModelOptions(
            backbone=given.backbone,
            weights=str(given.file),
            spatial_pool=given.spatial_pool,
            last_stride=given.last_stride,
            height=given.height,
            width=given.width,
        )
        import_released(given.file, given.folder, options)
        print(f"wrote {given.folder}")
    except ValidationError as error:
        parser.error(f"--{first_problem(error)}")
    except (InputError, BackboneError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"error: {error.filename or 'file system'}: {error.strerror}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

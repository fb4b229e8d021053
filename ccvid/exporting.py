"""Export a trained backbone as safetensors, ONNX and torch.export, each checked against the original.

    card.json            the model, its input, each file's deviation from the original, checksums; written last
    model.json, model.safetensors     a checkpoint as training writes it
    model.onnx           uint8 frames in, features out; for onnxruntime
    model.pt2            the same, for ``torch.export.load``

The graphs normalise their frames themselves.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from ccvid.exported_model import CARD_FILE, ONNX_FILE, Deviation, ModelCard
from ccvid.onnx_model import OnnxModel
from ccvid.run_files import WEIGHTS_FILE
from ccvid.trained_model import TrainedModel, read_trained_model, write_description
from data_tools.errors import InputError
from data_tools.files import sha256_of
from data_tools.manifest import write_model
from data_tools.transforms import IMAGENET_MEAN, IMAGENET_STD, normalise

PROGRAM_FILE = "model.pt2"
OPSET = 18
TOLERANCE = 1e-3
"""Largest allowed difference of a feature value, relative to the largest; reordered float32 sums give 1e-6 to 1e-5."""
LEAST_COSINE = 0.9999


class FromFrames(nn.Module):
    """Normalisation and backbone in one module, so that raw frames are the only possible input."""

    scale: Tensor
    shift: Tensor

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
        self.register_buffer("scale", 1 / (255 * std))
        self.register_buffer("shift", -mean / std)

    def forward(self, frames: Tensor) -> Tensor:
        """uint8 (B, T, 3, H, W) -> (B, D)."""
        feature_BD: Tensor = self.backbone(torch.addcmul(self.shift, frames.float(), self.scale))
        return feature_BD


def export_model(trained: TrainedModel, clips_NTCHW: Tensor, folder: Path) -> ModelCard:
    """Export ``trained`` into an empty folder, and check each file on real clips.

    Args:
        clips_NTCHW: uint8 (N, T, 3, H, W), N ≥ 2 clips of people, of the length and size that the model embeds.

    Raises:
        InputError: a file's features differ from the original's by more than ``TOLERANCE`` or ``LEAST_COSINE`` allow.
    """
    write_description(folder, trained.options, trained.clip, persons=0, clothes=0)
    save_file(
        {name: value.contiguous() for name, value in trained.backbone.state_dict().items()}, folder / WEIGHTS_FILE
    )
    program, least, most = trace(FromFrames(trained.backbone).eval(), clips_NTCHW)
    with _silence():
        torch.export.save(program, folder / PROGRAM_FILE)
        torch.onnx.export(
            program,
            f=folder / ONNX_FILE,
            opset_version=OPSET,
            external_data=False,
            input_names=["frames"],
            output_names=["features"],
            verbose=False,
        )
    _leave_out_sources(folder / ONNX_FILE)
    files = {name: sha256_of(folder / name) for name in (WEIGHTS_FILE, PROGRAM_FILE, ONNX_FILE)}
    card = ModelCard(
        fingerprint=trained.fingerprint,
        model=trained.options,
        clip=trained.clip,
        feature_size=trained.backbone.feature_size,
        least_frames=least,
        most_frames=most,
        torch_version=torch.__version__,
        opset=OPSET,
        checked={},
        sha256=files,
    )
    card = card.model_copy(update={"checked": _check(trained, card, clips_NTCHW, folder)})
    write_model(folder / CARD_FILE, card)
    return card


def trace(model: nn.Module, clips_NTCHW: Tensor) -> tuple[ExportedProgram, int, int | None]:
    """The graph, with a free clip length if the network allows it, and its least and most frames (None: no limit)."""
    frames = clips_NTCHW.shape[1]
    for least in (1, 3):  # networks with temporal kernels of size 3 are specialised for shorter clips
        if frames < max(2, least):
            break
        try:
            with _silence():
                shapes = ({0: Dim("clips", min=1), 1: Dim("frames", min=least)},)
                return torch.export.export(model, (clips_NTCHW,), dynamic_shapes=shapes), least, None
        except Exception:  # torch.export reports a specialised dimension by several exception classes
            continue
    with _silence():
        return torch.export.export(model, (clips_NTCHW,), dynamic_shapes=({0: Dim("clips", min=1)},)), frames, frames


def _leave_out_sources(file: Path) -> None:
    """Remove the source lines that each node came from: they hold paths of this machine."""
    import onnx

    model = onnx.load(file)
    for graph in (model.graph, *model.functions):
        del graph.metadata_props[:]
        for node in graph.node:
            del node.metadata_props[:]
    onnx.save(model, file)


def deviation(found_ND: Sequence[Tensor], expected_ND: Sequence[Tensor]) -> Deviation:
    """How far batches of features are from the original's."""
    found, expected = torch.cat(list(found_ND)).double(), torch.cat(list(expected_ND)).double()
    return Deviation(
        clips=len(found),
        largest_difference=float((found - expected).abs().max() / expected.abs().max()),
        least_cosine=float(torch.nn.functional.cosine_similarity(found, expected).min()),
    )


def _check(trained: TrainedModel, card: ModelCard, clips_NTCHW: Tensor, folder: Path) -> dict[str, Deviation]:
    """Read each file back and compare features: of all clips, of one clip, and of shorter clips where allowed."""
    batches = [clips_NTCHW, clips_NTCHW[:1]]
    if card.most_frames is None and clips_NTCHW.shape[1] > card.least_frames:
        batches.append(clips_NTCHW[:, : max(card.least_frames, clips_NTCHW.shape[1] // 2)])
    with torch.no_grad():
        expected = [trained.backbone(normalise(batch)) for batch in batches]
    program = torch.export.load(folder / PROGRAM_FILE).module()
    onnx = OnnxModel(card.network, (folder / ONNX_FILE).read_bytes(), card.sha256[ONNX_FILE], ONNX_FILE)
    again = FromFrames(read_trained_model(folder, trained.options).backbone).eval()
    ways: dict[str, Callable[[Tensor], Tensor]] = {
        WEIGHTS_FILE: again,
        PROGRAM_FILE: program,
        ONNX_FILE: onnx.embed_frames,
    }
    checked = {}
    for name, way in ways.items():
        with torch.no_grad():
            checked[name] = found = deviation([way(batch) for batch in batches], expected)
        if not (found.largest_difference <= TOLERANCE and found.least_cosine >= LEAST_COSINE):
            raise InputError(
                f"{name}: features differ from the original's by {found.largest_difference:.1e} of the largest value "
                f"(at most {TOLERANCE:g} allowed), least cosine {found.least_cosine:.6f} (at least {LEAST_COSINE})"
            )
    return checked


@contextmanager
def _silence() -> Iterator[None]:
    """Hide the export's warnings and logs, which are meant for PyTorch's developers."""
    loggers = [logging.getLogger(name) for name in ("torch", "torch.onnx", "onnxscript")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)

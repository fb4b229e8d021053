"""Embedding clips that somebody sends: decoded in a process that can be killed, within limits."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import ray

from ccvid.config import Recipe
from ccvid.retrieval.embedding.clip_embedder import ClipEmbedder
from ccvid.retrieval.embedding.embed import embed_tracklets
from data_tools.cpus import limit_threads
from data_tools.crops import CropOptions, encoded_crops
from data_tools.decoding_process import decoding_process
from data_tools.errors import InputError, UnreadableSourceError
from ray_jobs.cluster.job_console import use_drivers_console
from ray_jobs.scoring.actors import placed

MOST_FRAMES = 1024
MOST_FRAME_BYTES = 2**28
"""As they are stored: more only where frames keep their own size."""
DECODING_SECONDS = 30.0
HANG_SECONDS = 10.0
"""Without a decoded frame."""
NAME = "the clip"


@dataclass(frozen=True, slots=True)
class _Uploaded:
    """A tracklet in memory, as ``FrameStore`` wants its rows."""

    id: str
    frame_count: int


class UploadedClip:
    """One tracklet in memory: a ``FrameStore``."""

    def __init__(self, frames: Sequence[npt.NDArray[np.uint8]]) -> None:
        self._frames = frames
        self.rows = [_Uploaded(NAME, len(frames))]

    def encoded_frames(self, row: int, positions: Sequence[int]) -> list[npt.NDArray[np.uint8]]:
        """See ``FrameStore``."""
        assert row == 0
        return [self._frames[position] for position in positions]


def decode_clip(content: bytes, options: CropOptions) -> UploadedClip:
    """Every frame of a video file that shows one person, cropped to that person, as shards would store it.

    Raises:
        InputError: it is not a video, it is damaged, or it exceeds a limit.
    """
    frames: list[npt.NDArray[np.uint8]] = []
    with TemporaryDirectory(prefix="ccvid-clip-") as folder:
        path = Path(folder, "clip")
        path.write_bytes(content)
        try:
            with closing(_decoded(path, options)) as decoded:
                for frame in decoded:
                    frames.append(frame)
                    if len(frames) > MOST_FRAMES or sum(frame.nbytes for frame in frames) > MOST_FRAME_BYTES:
                        raise InputError(f"{NAME} has too many frames, expected at most {MOST_FRAMES}")
        except InputError as error:
            raise InputError(str(error).replace(str(path), NAME)) from None
    if not frames:
        raise InputError(f"{NAME} has no frames")
    return UploadedClip(frames)


def _decoded(path: Path, options: CropOptions) -> Generator[npt.NDArray[np.uint8]]:
    limits = {"hang_seconds": HANG_SECONDS, "most_seconds": DECODING_SECONDS}
    for _, encoded in decoding_process().run(encoded_crops, path, [(None, None)], None, options, what=NAME, **limits):
        if isinstance(encoded, UnreadableSourceError):
            raise encoded
        frame = np.frombuffer(encoded, np.uint8)
        yield frame.reshape(*options.size, 3) if options.format == "raw" and options.size else frame


class ClipActor:
    """Embeds uploaded clips; it has the model on its device from the first on."""

    def __init__(self) -> None:
        use_drivers_console()
        self._model: ClipEmbedder | None = None

    def embed(self, arguments: tuple[Any, Recipe, int], content: bytes) -> npt.NDArray[np.float32]:
        """The embedding (D,) of a clip; raises as ``decode_clip`` does.

        Args:
            arguments: a reference to the network, the recipe, and the number of CPUs.
            content: the bytes of a video file.
        """
        model, recipe, cpus = arguments
        recipe = recipe.within(limit_threads(cpus))
        clip = decode_clip(content, recipe.data.frames)
        embedding_RD, _ = embed_tracklets(self._placed(model), clip, [0], recipe)
        embedding_D: npt.NDArray[np.float32] = embedding_RD.numpy()[0]
        return embedding_D

    def prepare(self, arguments: tuple[Any, Recipe, int]) -> None:
        """Have the model and the decoding process ready."""
        self._placed(arguments[0])
        with suppress(InputError):
            decode_clip(b"no video", arguments[1].data.frames)

    def _placed(self, model: Any) -> ClipEmbedder:
        if self._model is None:
            shared: ClipEmbedder = ray.get(model)
            self._model = placed(shared, "cuda" if ray.get_gpu_ids() else "cpu")
        return self._model

"""Loads batches of clips from stored tracklets, decoded ahead in threads or processes.

    Schedule ─(item, clip seed)──▶ TrainingClips: draw, decode, augment ─▶ ClipBatch      by ClipLoader
    rows ────all clips in order──▶ decode ───────────────────────────────▶ TrackletClips  by tracklet_clips

Threads or processes fill a batch clip by clip, channels last in memory. B clips, T frames per clip, C = 3 colours,
H and W height and width, I training items.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, fields, replace
from functools import partial
from itertools import islice
from typing import Any, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from data_tools.batch_memory import BatchMemory
from data_tools.clips import ClipOptions, Positions, all_clips, dense_pieces, random_clip
from data_tools.decoding_threads import Job, fill_in_threads
from data_tools.errors import InputError
from data_tools.identity_sampler import Schedule
from data_tools.loading_options import AugmentOptions, LoaderOptions, ResizeFilter
from data_tools.stored_frames import FrameStore, decode_clip_
from data_tools.transforms import Augmentation, augment_, draw_augmentation

Integers = NDArray[np.int64]
Fill = Callable[[], None]
"""Fills some clips of a batch; raises InputError if a frame cannot be decoded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackletClips:
    """Clips without labels: ``frames_BTCHW`` uint8; ``tracklet_B`` int64, the stored row of each clip."""

    frames_BTCHW: Tensor
    tracklet_B: Tensor

    def __post_init__(self) -> None:
        shape, dtype = self.frames_BTCHW.shape, self.frames_BTCHW.dtype
        assert len(shape) == 5, f"frames_BTCHW: {shape=}"
        assert (shape[2], dtype) == (3, torch.uint8), f"frames_BTCHW: {shape=} {dtype=}, expected 3 of uint8"
        for field in fields(self)[1:]:
            label: Tensor = getattr(self, field.name)
            given, expected = (label.shape, label.dtype), (shape[:1], torch.int64)
            assert given == expected, f"{field.name}: {given}, expected {expected}"

    def __len__(self) -> int:
        return len(self.frames_BTCHW)

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Self:
        """The same clips on ``device``; asynchronously if they are pinned and ``non_blocking`` is set."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Self:
        """The same clips in page-locked memory (needs a GPU)."""
        return self._each(lambda tensor: tensor.pin_memory())

    def _each(self, change: Callable[[Tensor], Tensor]) -> Self:
        return replace(self, **{field.name: change(getattr(self, field.name)) for field in fields(self)})


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipBatch(TrackletClips):
    """Training clips with their integer labels, each int64 (B,)."""

    person_B: Tensor
    clothes_B: Tensor
    camera_B: Tensor


@dataclass(frozen=True, slots=True)
class TrainingItems:
    """The items that training draws from: pieces [start, end) of stored rows, with their labels; each int64, (I,)."""

    row_I: Integers
    start_I: Integers
    end_I: Integers
    person_I: Integers
    clothes_I: Integers
    camera_I: Integers

    @classmethod
    def cut(
        cls,
        frame_count: NDArray[np.integer[Any]],
        row: Integers,
        person: Integers,
        clothes: Integers,
        camera: Integers,
        piece: int,
    ) -> TrainingItems:
        """Cut the tracklets ``row`` into items of ``piece`` frames (0: whole). All else is per tracklet."""
        assert len({*map(len, (frame_count, row, person, clothes, camera))}) == 1, f"{len(row)=} {len(person)=}"
        pieces = [dense_pieces(count, piece) for count in frame_count.tolist()]
        spans = np.array([span for tracklet in pieces for span in tracklet], np.int64).reshape(-1, 2)
        of_I = np.repeat(np.arange(len(row)), [len(tracklet) for tracklet in pieces])
        return cls(row[of_I], spans[:, 0], spans[:, 1], person[of_I], clothes[of_I], camera[of_I])

    def __len__(self) -> int:
        return len(self.row_I)


@dataclass(frozen=True, slots=True)
class ClipDraw:
    """One training clip: its frames, its stored row and its augmentation."""

    row: int
    positions: Positions
    augmentation: Augmentation


@dataclass(frozen=True)
class TrainingClips(Dataset[ClipBatch | InputError]):
    """Makes training clips from (item, clip seed) pairs, in any process: it is picklable if its store is.

    ``image_size`` is (height, width). A clip depends only on the store, the items, the options and its seed.
    """

    store: FrameStore
    items: TrainingItems
    clip: ClipOptions
    augment: AugmentOptions
    image_size: tuple[int, int]
    resize_filter: ResizeFilter = "bicubic"

    def empty_batch(self, item_B: Integers, memory: BatchMemory) -> ClipBatch:
        """The batch of these items with its labels; its frames are not filled yet."""
        items = self.items
        return ClipBatch(
            frames_BTCHW=memory.empty_frames(len(item_B), self.clip.length, self.image_size),
            tracklet_B=torch.from_numpy(items.row_I[item_B]),
            person_B=torch.from_numpy(items.person_I[item_B]),
            clothes_B=torch.from_numpy(items.clothes_I[item_B]),
            camera_B=torch.from_numpy(items.camera_I[item_B]),
        )

    def draw(self, item: int, seed: int) -> ClipDraw:
        """Draw the clip of ``item`` with ``seed``."""
        rng = np.random.Generator(np.random.PCG64(seed))
        start, end = int(self.items.start_I[item]), int(self.items.end_I[item])
        positions = start + random_clip(end - start, self.clip, rng)
        augmentation = draw_augmentation(self.augment, *self.image_size, rng)
        return ClipDraw(int(self.items.row_I[item]), positions, augmentation)

    def fill_(self, clip_TCHW: Tensor, drawn: ClipDraw) -> None:
        """Decode and augment one clip in place."""
        decode_clip_(clip_TCHW, self.store, drawn.row, drawn.positions, self.resize_filter)
        augment_(clip_TCHW, drawn.augmentation)

    def fills(self, frames_BTCHW: Tensor, item_B: Integers, clip_seed_B: Integers) -> list[Fill]:
        """Functions that decode and augment each clip of a batch in place."""
        draws = list(map(self.draw, item_B, clip_seed_B))  # all at once: between decodings it takes 5 times as long
        return [partial(self.fill_, clip, drawn) for clip, drawn in zip(frames_BTCHW, draws, strict=True)]

    def __getitem__(self, places: tuple[Integers, Integers]) -> ClipBatch | InputError:
        """The batch of (item_B, clip_seed_B); an InputError is returned, for the consumer to raise."""
        batch = self.empty_batch(places[0], BatchMemory())
        try:
            for fill in self.fills(batch.frames_BTCHW, *places):
                fill()
        except InputError as error:
            return error
        return batch


class ClipDecoders(Protocol):
    """Decodes clips in other processes, to the same bytes as ``TrainingClips.fills``."""

    def fills(self, frames_BTCHW: Tensor, item_B: Integers, clip_seed_B: Integers) -> Sequence[Fill]:
        """Request the clips of a batch; the functions returned wait for them and copy them into ``frames_BTCHW``."""

    def close(self) -> None:
        """Release the decoders."""


@dataclass(frozen=True, slots=True)
class _Filling:
    """A batch and the functions that fill it."""

    batch: ClipBatch
    fills: Sequence[Fill]

    def __len__(self) -> int:
        return len(self.fills)


class ClipLoader:
    """Batches of a schedule, in order, decoded ahead; the same bytes from threads, processes and ``decoders``.

    With ``decoders``, which ``close`` closes, threads only wait for clips and copy them. ``wait_seconds`` is the total
    time the consumer has waited for batches. Loader processes start with the first batch, serve one iteration at a
    time and live until ``close``; threads end with their iteration, even if it stops early.
    """

    def __init__(
        self,
        clips: TrainingClips,
        options: LoaderOptions,
        *,
        pin_memory: bool = False,
        decoders: ClipDecoders | None = None,
    ) -> None:
        assert decoders is None or not options.processes, f"{decoders=} {options.processes=}"
        self._clips, self._options, self._pin_memory, self._decoders = clips, options, pin_memory, decoders
        self._places: list[tuple[Integers, Integers]] = []
        self._processes = self._start_processes() if options.processes else None
        self.wait_seconds = 0.0

    def batches(self, schedule: Schedule, first_step: int = 0) -> Generator[ClipBatch]:
        """The schedule's batches from ``first_step`` on.

        Close the generator if you may stop early: an exception's traceback would keep it and its threads alive.

        Raises:
            InputError: a frame cannot be decoded; names the tracklet and the frame.
        """
        places = list(zip(schedule.item_SB, schedule.clip_seed_SB, strict=True))[first_step:]
        produced = self._from_threads(places) if self._processes is None else self._from_processes(places)
        with closing(produced):
            while True:
                started = time.perf_counter()
                batch = next(produced, None)
                self.wait_seconds += time.perf_counter() - started
                if batch is None:
                    return
                yield batch

    def close(self) -> None:
        """Stop the loader processes and release the decoders, if any."""
        self._processes = None
        if self._decoders is not None:
            self._decoders.close()

    def _from_threads(self, places: list[tuple[Integers, Integers]]) -> Generator[ClipBatch]:
        memory = BatchMemory(pin_memory=self._pin_memory)

        def job(item_B: Integers, seed_B: Integers) -> Job[_Filling]:
            batch = self._clips.empty_batch(item_B, memory)
            fills = (self._decoders or self._clips).fills(batch.frames_BTCHW, item_B, seed_B)
            return _Filling(batch, fills), lambda n: fills[n]()

        jobs = (job(*place) for place in places)
        with closing(fill_in_threads(jobs, threads=self._options.threads, ahead=self._options.prefetch)) as filled:
            for filling in filled:
                yield filling.batch

    def _from_processes(self, places: list[tuple[Integers, Integers]]) -> Generator[ClipBatch]:
        assert self._processes is not None
        self._places[:] = places
        for batch in self._processes:
            if isinstance(batch, InputError):
                raise batch
            yield batch

    def _start_processes(self) -> DataLoader[ClipBatch | InputError]:
        processes = self._options.processes
        return DataLoader(
            self._clips,
            batch_size=None,
            sampler=self._places,  # any iterable of indices, read again by each iteration
            num_workers=processes,
            prefetch_factor=-(-self._options.prefetch // processes),
            persistent_workers=True,
            pin_memory=self._pin_memory,
            multiprocessing_context="spawn",  # a fork of a process with threads (Ray's, CUDA's) may hang
        )


def tracklet_clips(
    store: FrameStore,
    rows: Sequence[int],
    *,
    clip: ClipOptions,
    image_size: tuple[int, int],
    clips_per_batch: int,
    options: LoaderOptions,
    resize_filter: ResizeFilter = "bicubic",
    pin_memory: bool = False,
) -> Generator[TrackletClips]:
    """Every test-time clip of ``rows``, in order, in batches of ``clips_per_batch`` (the last may be smaller).

    A long tracklet continues in the next batch; ``tracklet_B`` holds the row of each clip. Close the generator to stop
    early.

    Raises:
        InputError: a frame cannot be decoded; names the tracklet and the frame.
    """
    places = ((row, positions) for row in rows for positions in all_clips(store.rows[row].frame_count, clip))
    memory = BatchMemory(pin_memory=pin_memory)

    def job(chosen: list[tuple[int, Positions]]) -> Job[TrackletClips]:
        frames_BTCHW = memory.empty_frames(len(chosen), clip.length, image_size)
        tracklet_B = torch.tensor([row for row, _ in chosen], dtype=torch.int64)
        batch = TrackletClips(frames_BTCHW=frames_BTCHW, tracklet_B=tracklet_B)
        return batch, lambda b: decode_clip_(frames_BTCHW[b], store, *chosen[b], resize_filter)

    batches = iter(lambda: list(islice(places, clips_per_batch)), [])
    return fill_in_threads(map(job, batches), threads=options.threads, ahead=options.prefetch)

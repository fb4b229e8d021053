"""Decoding training clips in actors on free CPUs, for workers whose nodes have too few.

    places of a batch ──cut into parts──▶ RemoteDecoders ──▶ Decoder, an actor: draw, decode, augment
    ClipBatch ◀──copied in place──────── object store ◀──────┘

Decoders are optional: each part goes to a running decoder, and if there is none (they are starting, or their nodes have
died), the worker decodes it itself. The bytes are the same.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray
from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from torch import Tensor

from data_tools.batch_memory import BatchMemory
from data_tools.errors import InputError
from data_tools.loader import Fill, Integers, TrainingClips
from data_tools.progress import message
from data_tools.stored_frames import FrameStore

LOST_SECONDS = 60.0
"""A decoder that takes longer than this for its part of a batch (usually a few hundred milliseconds) counts as lost."""
RETRY_SECONDS = 1.0
"""Interval between attempts to reach a lost decoder."""

Frames = NDArray[np.uint8]


class Decoder:
    """The actor: decodes clips from the shards as seen by its own node. Input errors are returned, not raised."""

    def __init__(self) -> None:
        self._clips: TrainingClips | None = None
        self._memory = BatchMemory()

    def open(
        self, open_store: Callable[[], FrameStore], make_clips: Callable[[FrameStore], TrainingClips]
    ) -> InputError | None:
        """Open the shards; needed again after every restart of the actor."""
        try:
            self._clips = make_clips(open_store())
        except (InputError, OSError) as error:
            address = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
            return InputError(f"decoder on node {address}: {error}")
        return None

    def decode(self, item_B: Integers, clip_seed_B: Integers) -> Frames | InputError | None:
        """Clips as uint8 (B, T, H, W, 3); None: the shards are not open."""
        if self._clips is None:
            return None
        frames_BTCHW = self._memory.empty_frames(len(item_B), self._clips.clip.length, self._clips.image_size)
        try:
            for fill in self._clips.fills(frames_BTCHW, item_B, clip_seed_B):
                fill()
        except InputError as error:
            return error
        return _channels_last(frames_BTCHW)


class RemoteDecoders:
    """One worker's decoders; implements ``data_tools.loader.ClipDecoders``.

    They run on nodes without GPUs, in turn, if these have free CPUs; otherwise anywhere. A decoder that dies is
    restarted, on another node if its own is gone; meanwhile other decoders get its clips. ``own_clips`` counts the
    clips that the worker had to decode itself.

    Args:
        clips: what the worker itself would decode with.
        open_store: opens the frames of ``clips.store`` on any node; picklable.
        number: number of decoders.
        rank: the worker's rank, so that decoders of different workers start on different nodes.
        threads: threads of the worker that wait for parts or decode them; a batch is cut into at least as many parts.
    """

    def __init__(
        self,
        clips: TrainingClips,
        open_store: Callable[[], FrameStore],
        *,
        number: int,
        rank: int = 0,
        threads: int = 1,
    ) -> None:
        assert number >= 1, f"{number=}"
        make_clips = partial(
            TrainingClips,
            items=clips.items,
            clip=clips.clip,
            augment=clips.augment,
            image_size=clips.image_size,
            resize_filter=clips.resize_filter,
        )
        shards = open_store, ray.put(make_clips)
        actor: Any = ray.remote(Decoder)
        self._clips, self._parts = clips, max(number, threads)
        self._decoders = [
            _Handle(
                actor.options(num_cpus=1, max_restarts=-1, scheduling_strategy=strategy).remote(),
                f"decoder {n} of worker {rank}",
                shards,
            )
            for n, strategy in enumerate(_placement(number, rank))
        ]
        self._turn = count()
        self._lock = threading.Lock()
        self._reported_at = time.monotonic()
        self.own_clips = 0

    def fills(self, frames_BTCHW: Tensor, item_B: Integers, clip_seed_B: Integers) -> list[Fill]:
        """Request the clips of a batch in parts; each function returned waits for a part and copies it.

        Raises:
            InputError: a decoder cannot open the shards.
        """
        cuts = np.array_split(np.arange(len(item_B)), min(self._parts, len(item_B)))
        spans = [slice(int(cut[0]), int(cut[-1]) + 1) for cut in cuts]
        parts = [_Part(frames_BTCHW[span], item_B[span], clip_seed_B[span]) for span in spans]
        for part in parts:
            part.ask(self._next_decoder())
        return [partial(self._fill, part) for part in parts]

    def up(self) -> int:
        """The number of running decoders."""
        return sum(decoder.is_up() for decoder in self._decoders)

    def close(self) -> None:
        """Stop the decoders."""
        for decoder in self._decoders:
            ray.kill(decoder.actor)
        self._decoders = []

    def _next_decoder(self) -> _Handle | None:
        """The running decoders in turn."""
        up = [decoder for decoder in self._decoders if decoder.is_up()]
        if up:
            return up[next(self._turn) % len(up)]
        if time.monotonic() - self._reported_at > LOST_SECONDS:
            self._reported_at = time.monotonic()
            message(f"none of {len(self._decoders)} decoders is running; the worker decodes its clips itself")
        return None

    def _fill(self, part: _Part) -> None:
        while part.decoder is not None:
            if part.receive():
                return
            part.ask(self._next_decoder())
        for fill in self._clips.fills(part.frames_BTCHW, part.item_B, part.clip_seed_B):
            fill()
        with self._lock:
            self.own_clips += len(part.item_B)


class _Handle:
    """A decoder as seen by its worker: up from the answer to ``open`` until it is lost."""

    def __init__(self, actor: Any, name: str, shards: tuple[object, object]) -> None:
        self.actor = actor
        self._name, self._shards = name, shards
        self._loss_reported = False
        self._opening: Any = None  # the pending answer to ``open``
        self._open()

    def is_up(self) -> bool:
        opening = self._opening
        if opening is None:
            return True
        if not ray.wait([opening], timeout=0)[0]:
            return False
        try:
            error: InputError | None = ray.get(opening)
        except RayActorError as lost:  # while it is being restarted
            self._report_loss(lost)
            if time.monotonic() - self._asked > RETRY_SECONDS:
                self._open()
            return False
        if error is not None:
            raise error
        self._opening = None
        if self._loss_reported:
            self._loss_reported = False
            message(f"{self._name} is running again")
        return True

    def lost(self, reason: object) -> None:
        """Send it no parts until it has opened the shards again."""
        if self._opening is None:
            self._open()
            self._report_loss(reason)

    def _open(self) -> None:
        self._asked = time.monotonic()
        self._opening = self.actor.open.remote(*self._shards)

    def _report_loss(self, reason: object) -> None:
        if not self._loss_reported:
            self._loss_reported = True
            line = str(reason).strip().partition("\n")[0]
            message(f"{self._name} is lost; its clips are decoded elsewhere: {line}")


@dataclass(slots=True)
class _Part:
    """Some clips of a batch, and the decoder they were requested from; None: no decoder."""

    frames_BTCHW: Tensor
    item_B: Integers
    clip_seed_B: Integers
    decoder: _Handle | None = None
    reference: Any = None

    def ask(self, decoder: _Handle | None) -> None:
        self.decoder = decoder
        self.reference = None if decoder is None else decoder.actor.decode.remote(self.item_B, self.clip_seed_B)

    def receive(self) -> bool:
        """Wait for the clips, copy them and free them in the object store; False if the decoder is lost."""
        assert self.decoder is not None
        try:
            answer = ray.get(self.reference, timeout=LOST_SECONDS)
        except RayTaskError:
            raise
        except RayError as error:
            self.decoder.lost(error)
            return False
        if answer is None:
            self.decoder.lost("it was restarted")
            return False
        if isinstance(answer, InputError):
            raise answer
        np.copyto(_channels_last(self.frames_BTCHW), answer)
        self.reference = None
        return True


def _channels_last(frames_BTCHW: Tensor) -> Frames:
    frames_BTHWC: Frames = frames_BTCHW.permute(0, 1, 3, 4, 2).numpy()
    return frames_BTHWC


def _placement(number: int, rank: int) -> list[Any]:
    """The scheduling strategy of each of a worker's decoders; explicit, to escape Ray Train's placement group."""
    alive = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    resources = {node["NodeID"]: node["Resources"] for node in alive}
    nodes = sorted(name for name, has in resources.items() if has.get("CPU", 0) >= 1 and not has.get("GPU", 0))
    if not nodes:
        return ["SPREAD"] * number
    # If that node has no free CPU, Ray chooses another one, nodes with GPUs last.
    return [
        NodeAffinitySchedulingStrategy(nodes[(rank * number + n) % len(nodes)], soft=True, _spill_on_unavailable=True)
        for n in range(number)
    ]

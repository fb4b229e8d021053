from __future__ import annotations

import io
import pickle
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from data_tools.clips import ClipOptions, all_clips, random_clip
from data_tools.errors import InputError
from data_tools.identity_sampler import PkOptions, PkSampler, Schedule
from data_tools.loader import ClipBatch, ClipLoader, TrackletClips, TrainingClips, TrainingItems, tracklet_clips
from data_tools.loading_options import AugmentOptions, LoaderOptions
from tests.processes import wait_for

SIZE = (32, 16)
CLIP = ClipOptions(length=4, stride=2, piece=16)


@dataclass(frozen=True)
class Row:
    id: str
    frame_count: int


@dataclass(frozen=True)
class MemoryStore:
    """Tracklets in memory: their frames as JPEG bytes, or as RGB pictures if ``raw``."""

    rows: list[Row]
    frames: list[list[NDArray[np.uint8]]]

    def encoded_frames(self, row: int, positions: Sequence[int]) -> list[NDArray[np.uint8]]:
        return [self.frames[row][position] for position in positions]


def picture(row: int, position: int, size: tuple[int, int] = SIZE) -> NDArray[np.uint8]:
    """A picture that encodes its row (red) and its position (green); blue increases to the right."""
    pixels = np.empty((*size, 3), np.uint8)
    pixels[...] = 10 + 12 * row, 5 + 3 * position, 0
    pixels[..., 2] = np.linspace(20, 220, size[1])
    return pixels


def encoded(pixels: NDArray[np.uint8], kind: str = "JPEG") -> NDArray[np.uint8]:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind, quality=95)
    code = np.frombuffer(stream.getvalue(), np.uint8)
    assert not code.flags.writeable  # like a memory map
    return code


def make_store(*frame_counts: int, raw: bool = False, size: tuple[int, int] = SIZE) -> MemoryStore:
    rows = [Row(f"walk-{row}", count) for row, count in enumerate(frame_counts)]
    pictures = [[picture(row, n, size) for n in range(count)] for row, count in enumerate(frame_counts)]
    return MemoryStore(rows, [[p if raw else encoded(p) for p in tracklet] for tracklet in pictures])


COUNTS = (3, 20, 33, 9, 40, 16, 8, 25, 2, 34, 7, 48)


def make_clips(store: MemoryStore, flip: float = 0.5) -> TrainingClips:
    row, count = np.arange(len(store.rows)), np.array([row.frame_count for row in store.rows])
    items = TrainingItems.cut(count, row, row // 2, row, row % 3, CLIP.piece)
    return TrainingClips(store, items, CLIP, AugmentOptions(flip=flip), SIZE)


def make_schedule(clips: TrainingClips, epoch: int = 0) -> Schedule:
    sampler = PkSampler(clips.items.person_I, PkOptions(identities=2, clips=2), world_size=1, seed=0)
    return sampler.schedule(epoch, 0)


def loader_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("clips")]


def frames_of(batch: TrackletClips) -> list[list[tuple[int, int]]]:
    """The (row, position) that each frame of each clip encodes."""
    red_green = batch.frames_BTCHW[:, :, :2].float().mean((-2, -1))
    rows, positions = ((red_green - torch.tensor([10, 5])) / torch.tensor([12, 3])).round().int().unbind(-1)
    return [list(zip(r, p, strict=True)) for r, p in zip(rows.tolist(), positions.tolist(), strict=True)]


def test_items_are_the_pieces_of_the_tracklets_with_their_labels() -> None:
    items = make_clips(make_store(3, 20, 33)).items
    assert items.row_I.tolist() == [0, 1, 2, 2]
    assert items.start_I.tolist() == [0, 0, 0, 16]
    assert items.end_I.tolist() == [3, 20, 16, 33]
    assert items.person_I.tolist() == [0, 0, 1, 1]
    assert items.clothes_I.tolist() == [0, 1, 2, 2]
    assert items.camera_I.tolist() == [0, 1, 2, 2]
    assert len(items) == 4


@pytest.mark.parametrize("raw", [False, True])
def test_batches_hold_the_clips_that_the_schedule_names(raw: bool) -> None:
    clips = make_clips(make_store(*COUNTS, raw=raw), flip=0)
    schedule = make_schedule(clips)
    batches = list(ClipLoader(clips, LoaderOptions(threads=3)).batches(schedule))
    assert len(batches) == len(schedule) > 2
    for batch, item_B, seed_B in zip(batches, schedule.item_SB, schedule.clip_seed_SB, strict=True):
        assert batch.frames_BTCHW.shape == (4, CLIP.length, 3, *SIZE)
        assert batch.frames_BTCHW[0].is_contiguous(memory_format=torch.channels_last)
        for label in ("row", "person", "clothes", "camera"):
            given = getattr(batch, f"{'tracklet' if label == 'row' else label}_B")
            np.testing.assert_array_equal(given, getattr(clips.items, f"{label}_I")[item_B])
        for shown, item, seed in zip(frames_of(batch), item_B, seed_B, strict=True):
            start, end = clips.items.start_I[item], clips.items.end_I[item]
            rng = np.random.Generator(np.random.PCG64(int(seed)))
            positions = start + random_clip(int(end - start), CLIP, rng)
            assert shown == [(clips.items.row_I[item], position) for position in positions.tolist()]


@pytest.mark.parametrize(("kind", "channels"), [("JPEG", 3), ("PNG", 3), ("JPEG", 1)])
def test_decoded_frames_are_pils(kind: str, channels: int) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (4, *SIZE, channels), dtype=np.uint8)
    codes = [encoded(pixels.squeeze(-1) if channels == 1 else pixels, kind) for pixels in noise]
    (batch,) = tracklets(MemoryStore([Row("noise", 4)], [codes]), [0])
    expected = [np.asarray(Image.open(io.BytesIO(code.tobytes())).convert("RGB")) for code in codes]
    np.testing.assert_array_equal(batch.frames_BTCHW[0].permute(0, 2, 3, 1), expected)


def tracklets(store: MemoryStore, rows: list[int], clips_per_batch: int = 64) -> list[TrackletClips]:
    clip = ClipOptions(length=4, stride=1)
    options = LoaderOptions()
    made = tracklet_clips(store, rows, clip=clip, image_size=SIZE, clips_per_batch=clips_per_batch, options=options)
    return list(made)


@pytest.mark.parametrize("threads", [1, 5])
def test_any_step_and_number_of_threads_gives_the_same_batches(threads: int) -> None:
    clips = make_clips(make_store(*COUNTS))
    schedule = make_schedule(clips)
    whole = list(ClipLoader(clips, LoaderOptions(threads=2)).batches(schedule))
    options = LoaderOptions(threads=threads, prefetch=1)
    rest = list(ClipLoader(clips, options).batches(schedule, first_step=2))
    assert len(rest) == len(whole) - 2
    for one, other in zip(whole[2:], rest, strict=True):
        assert torch.equal(one.frames_BTCHW, other.frames_BTCHW)
        assert torch.equal(one.person_B, other.person_B)


def test_a_clip_is_flipped_as_its_seed_says() -> None:
    store = make_store(*COUNTS, raw=True)
    schedule = make_schedule(make_clips(store))
    loaders = [ClipLoader(make_clips(store, flip), LoaderOptions()) for flip in (0, 1, 0.5)]
    plain, turned, mixed = (torch.cat([batch.frames_BTCHW for batch in loader.batches(schedule)]) for loader in loaders)
    assert torch.equal(turned, plain.flip(-1))
    flipped = (mixed == turned).flatten(1).all(1)
    assert torch.equal(mixed[~flipped], plain[~flipped])
    assert 0 < flipped.sum() < len(flipped)


def test_frames_of_another_size_are_resized() -> None:
    (batch,) = tracklets(make_store(4, size=(96, 40)), [0])
    stored = Image.open(io.BytesIO(encoded(picture(0, 2, (96, 40))).tobytes()))
    expected = stored.resize((16, 32), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(batch.frames_BTCHW[0, 2].permute(1, 2, 0), np.asarray(expected))


def test_loader_processes_give_the_same_bytes_and_errors_and_can_be_left_early() -> None:
    store = make_store(*COUNTS, 3)
    store.frames[-1][:] = [encoded(picture(0, 0))[:99]] * 3
    clips = make_clips(store)
    item_SB = np.arange(len(clips.items))[:, None]
    whole, broken = (Schedule(part, part + 7) for part in (item_SB[:-1], item_SB[-2:]))
    expected = list(ClipLoader(clips, LoaderOptions()).batches(whole))
    loader = ClipLoader(clips, LoaderOptions(processes=2, prefetch=3))
    for batch in loader.batches(whole, first_step=1):
        assert torch.equal(batch.frames_BTCHW, expected[1].frames_BTCHW)
        assert len(torch.multiprocessing.active_children()) == 2
        break
    with pytest.raises(InputError, match=r"^tracklet walk-12: stored frame \d \(99 bytes\) is not a "):
        list(loader.batches(broken))
    for batch, same in zip(loader.batches(whole), expected, strict=True):
        assert batch.frames_BTCHW.stride() == same.frames_BTCHW.stride()
        assert torch.equal(batch.frames_BTCHW, same.frames_BTCHW)
        assert torch.equal(batch.clothes_B, same.clothes_B)
    assert loader.wait_seconds > 0
    loader.close()
    assert not torch.multiprocessing.active_children()


def test_leaving_early_ends_the_threads_and_decodes_no_more() -> None:
    clips = make_clips(make_store(*COUNTS))
    for _ in ClipLoader(clips, LoaderOptions(threads=3)).batches(make_schedule(clips)):
        assert loader_threads()
        break
    assert not loader_threads()
    clip, options = ClipOptions(length=4, stride=1), LoaderOptions()
    for _ in tracklet_clips(clips.store, [1, 2], clip=clip, image_size=SIZE, clips_per_batch=2, options=options):
        assert loader_threads()
        break
    assert not loader_threads()


@pytest.mark.parametrize("code", [b"", b"no picture", encoded(picture(0, 0)).tobytes()[:200]])
def test_a_broken_frame_names_its_tracklet_and_ends_the_threads(code: bytes) -> None:
    store = make_store(*COUNTS)
    store.frames[4][:] = [np.frombuffer(code, np.uint8)] * COUNTS[4]
    clips = make_clips(store)
    message = f"tracklet walk-4: stored frame \\d+ \\({len(code)} bytes\\) is not a complete"
    with pytest.raises(InputError, match=message):
        list(ClipLoader(clips, LoaderOptions()).batches(make_schedule(clips)))
    with pytest.raises(InputError, match=message):
        tracklets(store, [3, 4])
    assert not loader_threads()


@dataclass(frozen=True)
class CountingStore(MemoryStore):
    """Counts the requested clips, and pauses before each."""

    asked: list[int]

    def encoded_frames(self, row: int, positions: Sequence[int]) -> list[NDArray[np.uint8]]:
        time.sleep(0.002)
        self.asked.append(row)
        return super().encoded_frames(row, positions)


def test_memory_is_used_again_but_never_while_a_tensor_shares_it() -> None:
    clips = make_clips(make_store(*COUNTS, raw=True))
    item_SB = np.arange(len(clips.items))[:, None]
    schedule = Schedule(item_SB, item_SB)
    expected = [batch.frames_BTCHW.clone() for batch in ClipLoader(clips, LoaderOptions()).batches(schedule)]
    views, addresses = [], set()
    for step, batch in enumerate(ClipLoader(clips, LoaderOptions(prefetch=1)).batches(schedule)):
        addresses.add(batch.frames_BTCHW.data_ptr())
        if step < 2:
            views.append(batch.frames_BTCHW[:, 1:, 2])
    assert torch.equal(torch.cat(views), torch.cat(expected[:2])[:, 1:, 2])
    assert len(addresses) < 8 < len(schedule)


def test_no_more_than_the_given_batches_are_decoded_ahead() -> None:
    plain = make_store(*COUNTS, raw=True)
    store = CountingStore(plain.rows, plain.frames, [])
    clips = make_clips(store)
    batches = ClipLoader(clips, LoaderOptions(prefetch=1)).batches(make_schedule(clips))
    for given in (1, 2):
        next(batches)
        until = time.monotonic() + 20
        while len(store.asked) < (given + 1) * 4 and time.monotonic() < until:
            time.sleep(0.01)
        time.sleep(0.05)
        assert len(store.asked) == (given + 1) * 4


def test_the_wait_is_measured() -> None:
    plain = make_store(*COUNTS, raw=True)
    clips = make_clips(CountingStore(plain.rows, plain.frames, []))
    schedule = make_schedule(clips)
    waiting = ClipLoader(clips, LoaderOptions(threads=1, prefetch=4))
    for _ in waiting.batches(schedule):
        pass
    assert waiting.wait_seconds > 0.8 * 4 * len(schedule) * 0.002
    store = CountingStore(plain.rows, plain.frames, [])
    busy = ClipLoader(make_clips(store), LoaderOptions(threads=1, prefetch=len(schedule)))
    batches = busy.batches(schedule)
    next(batches)
    wait_for(lambda: len(store.asked) == 4 * len(schedule), "the last clip")  # the consumer is busy that long
    first = busy.wait_seconds
    for _ in batches:
        pass
    assert busy.wait_seconds - first < waiting.wait_seconds


def test_decoding_threads_use_one_core_each_and_leave_the_consumers_alone() -> None:
    threads_before = torch.get_num_threads()
    seen: set[int] = set()

    @dataclass(frozen=True)
    class Spy(MemoryStore):
        def encoded_frames(self, row: int, positions: Sequence[int]) -> list[NDArray[np.uint8]]:
            seen.add(torch.get_num_threads())
            return super().encoded_frames(row, positions)

    plain = make_store(*COUNTS)
    tracklets(Spy(plain.rows, plain.frames), [1, 2, 3])
    assert seen == {1}
    assert torch.get_num_threads() == threads_before


@pytest.mark.parametrize("clips_per_batch", [1, 3, 64])
def test_every_clip_of_the_tracklets_comes_in_order(clips_per_batch: int) -> None:
    rows = [2, 0, 5]
    batches = tracklets(make_store(*COUNTS), rows, clips_per_batch)
    expected = [
        [(row, position) for position in positions.tolist()]
        for row in rows
        for positions in all_clips(COUNTS[row], ClipOptions(length=4, stride=1))
    ]
    assert [shown for batch in batches for shown in frames_of(batch)] == expected
    assert torch.cat([batch.tracklet_B for batch in batches]).tolist() == [clip[0][0] for clip in expected]
    assert {len(batch) for batch in batches[:-1]} <= {clips_per_batch}
    assert tracklets(make_store(*COUNTS), []) == []


def batch_of(**changes: torch.Tensor) -> ClipBatch:
    labels = {name: torch.zeros(2, dtype=torch.int64) for name in ("tracklet_B", "person_B", "clothes_B", "camera_B")}
    frames = torch.zeros(2, 4, 3, 8, 4, dtype=torch.uint8)
    return ClipBatch(**{"frames_BTCHW": frames, **labels, **changes})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("frames_BTCHW", torch.zeros(2, 3, 8, 4, dtype=torch.uint8)),
        ("frames_BTCHW", torch.zeros(2, 3, 4, 8, 4, dtype=torch.uint8)),
        ("frames_BTCHW", torch.zeros(2, 4, 3, 8, 4)),
        ("frames_BTCHW", torch.zeros(3, 4, 3, 8, 4, dtype=torch.uint8)),
        ("tracklet_B", torch.zeros(3, dtype=torch.int64)),
        ("camera_B", torch.zeros(2)),
        ("person_B", torch.zeros(2, 1, dtype=torch.int64)),
    ],
)
def test_a_batch_of_wrong_shape_or_type_cannot_be_made(name: str, value: torch.Tensor) -> None:
    assert len(batch_of()) == 2
    with pytest.raises(AssertionError, match=r"_B"):
        batch_of(**{name: value})


def test_batches_move_and_pickle_whole() -> None:
    batch = batch_of(person_B=torch.tensor([4, 5]))
    moved = batch.to("meta", non_blocking=True)
    assert isinstance(moved, ClipBatch)
    assert {moved.frames_BTCHW.device.type, moved.camera_B.device.type} == {"meta"}
    assert torch.equal(pickle.loads(pickle.dumps(batch)).person_B, batch.person_B)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="page-locked memory needs a GPU")
@pytest.mark.parametrize("processes", [0, 1])
def test_pinned_batches_reach_the_gpu(processes: int) -> None:
    clips = make_clips(make_store(*COUNTS))
    schedule = make_schedule(clips)
    plain = ClipLoader(clips, LoaderOptions()).batches(schedule)
    pinned = ClipLoader(clips, LoaderOptions(processes=processes), pin_memory=True)
    for one, other in zip(plain, pinned.batches(schedule), strict=True):
        assert other.frames_BTCHW.is_pinned()
        assert torch.equal(other.to("cuda", non_blocking=True).frames_BTCHW.cpu(), one.frames_BTCHW)
    pinned.close()

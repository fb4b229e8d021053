"""Writing walkers to files: videos, tracks and labels in the format of the footage reader."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from fractions import Fraction
from pathlib import Path

import numpy as np

from data_tools.errors import InputError
from data_tools.files import read_document
from data_tools.walkers.options import WalkerOptions
from data_tools.walkers.plan import WalkerVideo, plan_walkers
from data_tools.walkers.scene import boxes, pictures, set_scene

UNFINISHED = ".part"
"""Suffix of a file that is still being written."""


def render_video(job: WalkerVideo, folder: Path) -> None:
    """Render one video to ``folder/videos/NAME.mp4``, unless it exists.

    The file is written atomically. The same job gives the same bytes: one encoder thread, a fixed GOP size, and no
    time or machine name in the file.
    """
    target = video_path(job, folder)
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f"{target.name}.{os.getpid()}{UNFINISHED}")
    try:
        _encode(job, unfinished)
        os.replace(unfinished, target)
    finally:
        unfinished.unlink(missing_ok=True)


def video_path(job: WalkerVideo, folder: Path) -> Path:
    """The path of this video in a set's folder."""
    return folder / "videos" / f"{job.name}.mp4"


def _encode(job: WalkerVideo, path: Path) -> None:
    import av  # here, because every recipe includes the walkers' options, also on machines without PyAV

    options = job.options
    with av.open(str(path), "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("libx264", rate=Fraction(options.frames_per_second))
        stream.width, stream.height, stream.pix_fmt = options.picture_width, options.picture_height, "yuv420p"
        stream.codec_context.thread_count = 1
        stream.options = {"preset": "superfast", "crf": "20", "g": "12", "sc_threshold": "0", "threads": "1"}
        for picture in pictures(set_scene(job)):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def write_annotations(jobs: Sequence[WalkerVideo], folder: Path) -> None:
    """Write ``folder/tracks/NAME.txt`` (MOT text) for every job, then ``folder/labels.csv``, which completes the set.

    Call it when the videos are done: unfinished files of killed renders are removed.
    """
    for left_over in folder.rglob(f"*{UNFINISHED}"):
        left_over.unlink()
    (folder / "tracks").mkdir(parents=True, exist_ok=True)
    rows = ["video,track,person,clothes,camera,split"]
    for job in jobs:
        lines = [f"{n},1,{x},{y},{w},{h},1,-1,-1,-1" for n, (x, y, w, h) in enumerate(boxes(set_scene(job)), 1)]
        _write_whole(folder / "tracks" / f"{job.name}.txt", lines)
        rows.append(f"{job.name},1,{job.person:05d},{job.outfit:03d},c{job.camera:02d},{job.split}")
    _write_whole(folder / "labels.csv", rows)


def claim_folder(options: WalkerOptions, folder: Path) -> None:
    """Record in ``folder/walkers.json`` which set the folder contains.

    Raises:
        InputError: it contains another one.
    """
    note = folder / "walkers.json"
    wanted = options.model_dump_json(indent=2)
    if note.exists() and read_document(note).rstrip(b"\n") != wanted.encode():
        raise InputError(f"{folder}: made with other walker options (see {note}); use another folder or delete it")
    folder.mkdir(parents=True, exist_ok=True)
    _write_whole(note, [wanted])


def render_walkers(
    options: WalkerOptions, folder: Path, workers: int, progress: Callable[[int, int], None] | None = None
) -> None:
    """Render the whole set with ``workers`` processes; finished videos in ``folder`` are kept.

    ``progress`` is called with (videos done, total videos). Raises ``InputError`` if the folder contains another set.
    """
    claim_folder(options, folder)
    jobs = plan_walkers(options)
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        futures = [pool.submit(render_video, job, folder) for job in jobs]
        for done, future in enumerate(as_completed(futures), 1):
            future.result()
            if progress is not None:
                progress(done, len(jobs))
    write_annotations(jobs, folder)


def _write_whole(path: Path, lines: Sequence[str]) -> None:
    unfinished = path.with_name(f"{path.name}.{os.getpid()}{UNFINISHED}")
    unfinished.write_text("\n".join(lines) + "\n", encoding="utf-8")
    os.replace(unfinished, path)

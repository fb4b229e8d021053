"""Damaged annotation files: every reader quickly returns a data set with problems or an ``InputError``."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_tools.datasets.ccvid import read_ccvid
from data_tools.datasets.checks import check_dataset
from data_tools.datasets.clip_folder import ClipFolderOptions, read_clip_folder
from data_tools.datasets.footage import read_footage
from data_tools.datasets.footage_options import FootageOptions
from data_tools.datasets.mevid import MevidOptions, read_mevid
from data_tools.datasets.problems import Dataset
from data_tools.errors import InputError, UnreadableSourceError
from data_tools.video import FrameTable, make_table
from tests.data.findings import assert_contract_holds
from tests.data.made_footage import FRAMES, make_gate, mot
from tests.data.made_videos import make_video
from tests.data.picture_sequences import INFO, make_sequence
from tests.data.released_formats import make_ccvid, make_mevid
from tests.data.track_documents import coco, cvat, cvat_image, cvat_track, youtube_vis

LABELS = "video,track,person,clothes,camera,split,weather\ngate,1,anna,coat,c1,query,rain\ngate,2,bert,,,,\n"
CLIP_LABELS = "file,person,clothes,camera,split\nanna.mp4,anna,coat,c1,query\nn/bert.mp4,bert,,,\n"
HOSTILE = (
    *(
        "nan",
        "-inf",
        "1e999",
        "-1",
        "0",
        "1e308",
        "9" * 5000,
        "18446744073709551616",
        "1_0",
        "0x10",
        "１",
        "",
    ),
    *(
        "..",
        "../../../etc/passwd",
        "/etc/passwd",
        "C:\\x",
        "a\x00b",
        "\x1b[2J",
        "🧥" * 300,
        '"',
        '"\n"',
        ",,,,,,,,",
        "\t",
    ),
    *("\ufeff", "\r", "\u2028", "session3/009_01", "0301O001C508T000F00000.jpg"),
)


@dataclass(frozen=True)
class Format:
    """A valid data set on disk, how it is read, and its annotation files."""

    root: Path
    read: Callable[[], Dataset]
    files: tuple[str, ...]


@pytest.fixture(scope="module")
def formats(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Format]:
    ccvid = make_ccvid(tmp_path_factory.mktemp("ccvid"), frame_count=1)
    mevid = make_mevid(tmp_path_factory.mktemp("mevid"))
    clips = tmp_path_factory.mktemp("clips")
    for name in ("anna.mp4", "n/bert.mp4"):
        make_video(clips / name, frame_count=2)
    (clips / "labels.csv").write_text(CLIP_LABELS)
    clip_options = ClipFolderOptions(folder=clips, labels=clips / "labels.csv")
    return {
        "ccvid": Format(ccvid, lambda: read_ccvid(ccvid), ("train.txt", "query.txt", "gallery.txt")),
        "mevid": Format(
            mevid,
            lambda: read_mevid(mevid, MevidOptions(check_files=True)),
            tuple(sorted(path.name for path in mevid.glob("*.txt"))),
        ),
        "clips": Format(clips, lambda: read_clip_folder(clip_options), ("labels.csv",)),
        **{suffix: footage(tmp_path_factory.mktemp(suffix), suffix) for suffix in TABLES},
        **{name: document(tmp_path_factory.mktemp(name), name, text) for name, text in DOCUMENTS.items()},
        "sequence": sequence(tmp_path_factory.mktemp("sequence") / "gate"),
    }


TABLES = ("txt", "csv", "parquet")
DOCUMENTS = {
    "cvat": cvat(cvat_track(0, range(5, 30)), cvat_track(1, range(5, 30)), cvat_track(7, range(9), "car")),
    "cvat_images": cvat(*(cvat_image(frame, 3, 4) for frame in range(20))),
    "coco": coco(["gate", "door"]),
    "tubes": youtube_vis(),
    "utf16": "frame;id;x;y;w;h;conf;class\n"
    + "".join(f"{n};{track};1,5;2;30;40;0,9;person\n" for track in (1, 2) for n in range(20)),
    "truth": mot(1, range(1, 11), rest=",1,1,1") + mot(2, range(1, 11), rest=",1,7,0.5"),
}
SUFFIXES = {"cvat": "xml", "cvat_images": "xml", "coco": "json", "tubes": "json", "utf16": "csv", "truth": "txt"}


def document(root: Path, name: str, text: str) -> Format:
    make_gate(root)
    path = root / f"gate.{SUFFIXES[name]}"
    path.write_text(text, "utf-16" if name == "utf16" else "utf-8")
    options = FootageOptions(videos=root)
    return Format(root, lambda: read_footage(options, known_tables), (path.name,))


def sequence(root: Path) -> Format:
    make_sequence(root, range(1, FRAMES + 1), INFO)
    (root / "gt" / "gt.txt").write_text(mot(1, range(1, 11), rest=",1,1,1") + mot(2, range(1, 11), rest=",1,1,1"))
    options = FootageOptions(videos=root)
    return Format(root, lambda: read_footage(options), ("gt/gt.txt", "seqinfo.ini"))


def footage(root: Path, suffix: str) -> Format:
    make_gate(root)
    text = mot(1, range(1, 13)) + mot(2, range(40, 60), "-3.5,2.5,30,80", ",0.5")
    names = "frame,id,x,y,w,h,conf"
    tracks = root / f"gate.{suffix}"
    if suffix == "parquet":
        rows = [[float(field) for field in line.split(",")[:7]] for line in text.splitlines()]
        columns = dict(zip(names.split(","), map(list, zip(*rows, strict=True)), strict=True))
        pq.write_table(pa.table(columns), tracks)
    elif suffix == "csv":
        rows_of_seven = (",".join(line.split(",")[:7]) for line in text.splitlines())
        tracks.write_text("\n".join([names, *rows_of_seven]))
    else:
        tracks.write_text(text)
    (root / "labels.csv").write_text(LABELS)
    options = FootageOptions(videos=root, labels=root / "labels.csv", minimum_confidence=0.1)
    return Format(root, lambda: read_footage(options, known_tables), (tracks.name, "labels.csv"))


@cache
def known_table(video: Path) -> FrameTable:
    """The videos stay intact, so their frames are counted once."""
    return make_table(video)


def known_tables(videos: Sequence[Path]) -> list[FrameTable | UnreadableSourceError]:
    return [known_table(video) for video in videos]


Damage = Callable[[bytes], bytes]


def flip(at: float, value: int) -> Damage:
    return lambda data: data[: int(at * len(data))] + bytes([value]) + data[int(at * len(data)) + 1 :]


def cut(at: float) -> Damage:
    return lambda data: data[: int(at * len(data))]


def insert(at: float, garbage: bytes) -> Damage:
    return lambda data: data[: int(at * len(data))] + garbage + data[int(at * len(data)) :]


def repeat_line(at: float, times: int) -> Damage:
    """Repeat one line, or delete it (0 times)."""

    def damage(data: bytes) -> bytes:
        lines = data.splitlines(keepends=True)
        index = int(at * len(lines))
        return b"".join(lines[:index] + lines[index : index + 1] * times + lines[index + 1 :])

    return damage


def replace_field(at: float, field: str) -> Damage:
    """Replace one field of a text file by something hostile."""

    def damage(data: bytes) -> bytes:
        separator = next((mark for mark in (b",", b"\t", b" ") if mark in data), b"\n")
        fields = data.split(separator)
        fields[min(int(at * len(fields)), len(fields) - 1)] = field.encode()
        return separator.join(fields)

    return damage


places = st.floats(0, 1, exclude_max=True)
damages = st.lists(
    st.one_of(
        st.builds(flip, places, st.integers(0, 255)),
        st.builds(cut, places),
        st.builds(insert, places, st.binary(min_size=1, max_size=40)),
        st.builds(repeat_line, places, st.sampled_from([0, 2, 50])),
        st.builds(replace_field, places, st.sampled_from(HOSTILE)),
    ),
    min_size=1,
    max_size=3,
)


NAMES = ["ccvid", "mevid", "clips", *TABLES, *DOCUMENTS, "sequence"]
FEW = {"coco", "tubes"}
"""With a single track."""


@pytest.mark.parametrize("name", NAMES)
def test_the_undamaged_files_are_sound(formats: dict[str, Format], name: str) -> None:
    dataset = check_dataset(formats[name].read())
    dataset.raise_on_errors()
    assert len(dataset.tracklets) >= (1 if name in FEW else 2)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=150)
@given(file=st.integers(0, 99), wounds=damages)
def test_a_damaged_file_never_raises_anything_else(
    formats: dict[str, Format], name: str, file: int, wounds: list[Damage]
) -> None:
    made = formats[name]
    path = made.root / made.files[file % len(made.files)]
    sound = path.read_bytes()
    damaged = sound
    for wound in wounds:
        damaged = wound(damaged)
    path.write_bytes(damaged)
    try:
        with contextlib.suppress(InputError):
            dataset = check_dataset(made.read())
            assert_contract_holds(dataset, made.root)
            dataset.raise_on_errors()
    finally:
        path.write_bytes(sound)

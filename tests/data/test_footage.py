"""The reader of footage and tracks: which videos, which frames, which persons."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from data_tools.datasets.checks import check_dataset
from data_tools.datasets.footage_options import FootageOptions
from data_tools.errors import InputError
from tests.data.findings import found
from tests.data.made_footage import boxes_of, frames_of, make_gate, mot, read
from tests.data.made_videos import make_video

STILL = "in {} of {} tracks with at least 10 boxes, all boxes are identical: does the file repeat one box per track?"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with ``gate.mp4``."""
    return make_gate(tmp_path)


@pytest.mark.parametrize("layout", ["seq/seq.mp4 seq/gt.txt", "seq.mp4 seq/gt/gt.txt", "a/seq.mp4 a/seq.txt"])
def test_layouts_beside_the_video(tmp_path: Path, layout: str) -> None:
    video_path, track_path = (tmp_path / name for name in layout.split())
    for path in (video_path, track_path):
        path.parent.mkdir(parents=True, exist_ok=True)
    make_video(video_path)
    track_path.write_text(mot(1, range(1, 11)))
    assert [tracklet.id for tracklet in read(tmp_path).tracklets] == ["seq/1"]


def test_videos_that_share_a_stem_are_named_by_their_path(tmp_path: Path) -> None:
    for name in ("north/a.mp4", "south/a.mp4", "south/b.mp4"):
        make_video(tmp_path / "videos" / name)
    for name in ("north/a.txt", "south/a.txt", "b.txt"):
        (tmp_path / "tracks" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "tracks" / name).write_text(mot(7, range(1, 11)))
    dataset = read(tmp_path / "videos", tracks=tmp_path / "tracks")
    assert dataset.problems == ()
    assert [tracklet.id for tracklet in dataset.tracklets] == ["north/a/7", "south/a/7", "b/7"]


def test_two_videos_of_one_name_are_an_error(folder: Path) -> None:
    make_video(folder / "gate.avi")
    (folder / "gate.txt").write_text(mot(1, range(1, 11)))
    [(file, _, message)] = found(read(folder), "error")
    assert (file, "same name (gate)" in message) == ("gate.mp4", True)


def test_a_video_without_tracks_is_an_error(folder: Path) -> None:
    [(file, _, message)] = found(read(folder), "error")
    assert file == "gate.mp4"
    assert message.startswith(f"has no track file; looked for: {folder / 'gate.txt'}, ")


def test_a_folder_without_videos_is_an_error(tmp_path: Path) -> None:
    assert found(read(tmp_path), "error") == [(tmp_path.name, None, "contains no video file")]


def test_missing_videos_and_tracks_are_named(folder: Path) -> None:
    with pytest.raises(InputError, match="nothing: no such folder, expected a video file or a folder of them"):
        read(folder / "nothing")
    with pytest.raises(InputError, match="nothing: no such folder, expected one with a track file for each video"):
        read(folder, tracks=folder / "nothing")
    dataset = read(folder / "gate.mp4", tracks=folder / "nothing")
    assert found(dataset, "error") == [("nothing", None, "cannot be read: No such file or directory")]


def test_boxes_are_clipped_and_padded(folder: Path) -> None:
    (folder / "gate.txt").write_text(mot(1, range(1, 11), "-10,20,40,80"))
    [clipped] = read(folder).tracklets
    assert boxes_of(clipped) == {(0.0, 20.0, 30.0, 44.0)}
    [padded] = read(folder, box_padding=0.1).tracklets
    assert boxes_of(padded) == {(0.0, 12.0, 34.0, 52.0)}


def test_outside_boxes_can_be_dropped(folder: Path) -> None:
    (folder / "gate.txt").write_text(mot(1, range(1, 11)) + mot(1, range(11, 14), "200,0,10,20"))
    dataset = read(folder, outside_boxes="drop")
    assert [frames_of(tracklet) for tracklet in dataset.tracklets] == [list(range(10))]
    message = "3 boxes outside the picture of 96x64 pixels were dropped"
    assert found(dataset, "warning") == [("gate.txt", None, message)]
    assert found(dataset, "error") == []


def test_small_unsure_and_short_ones_are_left_out(folder: Path) -> None:
    text = (
        mot(1, range(1, 21), "10,10,8,16", ",0.5")
        + mot(2, range(1, 21), "10,10,7,40", ",0.5")
        + mot(3, range(1, 21), "-10,10,17,40", ",0.5")
        + mot(4, range(1, 21), rest=",0.4")
        + mot(5, range(1, 8))
        + mot(6, range(1, 9), rest="")
    )
    (folder / "gate.txt").write_text(text)
    dataset = read(folder, minimum_confidence=0.5)
    assert [tracklet.id for tracklet in dataset.tracklets] == ["gate/1", "gate/6"]
    assert found(dataset, "warning") == [
        ("gate.txt", None, "20 of 95 boxes below confidence 0.5 were dropped"),
        ("gate.txt", None, STILL.format(3, 3)),
        ("gate.txt", None, "40 boxes with less than 8x16 pixels inside the picture were dropped"),
        ("gate.txt", None, "3 tracks without 8 consecutive boxes were dropped"),
    ]


def test_gaps_stride_and_length(folder: Path) -> None:
    (folder / "gate.txt").write_text(mot(1, range(1, 11)) + mot(1, range(14, 24)) + mot(1, range(27, 60)))
    whole = read(folder, max_gap=3).tracklets
    assert [(t.id, len(frames_of(t))) for t in whole] == [("gate/1", 53)]
    split = read(folder, max_gap=2).tracklets
    assert [(t.id, frames_of(t)[0], frames_of(t)[-1]) for t in split] == [
        ("gate/1/1", 0, 9),
        ("gate/1/2", 13, 22),
        ("gate/1/3", 26, 58),
    ]
    assert [t.origin.rpartition(":")[2] for t in split] == ["1", "11", "21"]
    assert [t.attributes["start_seconds"] for t in split] == ["0.000", "0.520", "1.040"]
    assert [t.attributes["end_seconds"] for t in split] == ["0.360", "0.880", "2.320"]
    cut = read(folder, max_gap=2, maximum_length=12).tracklets
    assert [len(frames_of(t)) for t in cut] == [10, 10, 11, 11, 11]
    thinned = read(folder, max_gap=2, frame_stride=4, minimum_length=3).tracklets
    assert [frames_of(t)[:3] for t in thinned] == [[0, 4, 8], [13, 17, 21], [26, 30, 34]]


def test_frames_can_be_numbered_from_0(folder: Path) -> None:
    (folder / "gate.txt").write_text(mot(1, range(60)))
    assert frames_of(read(folder, first_frame=0).tracklets[0]) == list(range(60))
    [(_, line, message)] = found(read(folder, first_frame=1), "error")
    assert (line, message) == (1, "frame 0 is before the first of the video's 60 frames, which is 1")


def test_labels(folder: Path) -> None:
    (folder / "gate.txt").write_text(mot(1, range(1, 11)) + mot(2, range(1, 11)) + mot(3, range(1, 11)))
    labels = folder / "labels.csv"
    labels.write_text(
        "split,video,track,person,clothes,camera,weather\n"
        "query,gate,1,anna,red coat,c1,rain\n"
        ',gate,2.0,"Müller, B.",,,\n'
        "train,gate,9,x,y,z,\n"
    )
    dataset = read(folder, labels=labels)
    rows = [(t.person, t.clothes, t.camera, t.split, t.attributes.get("weather")) for t in dataset.tracklets]
    assert rows == [
        ("anna", "red coat", "c1", "query", "rain"),
        ("Müller, B.", None, "gate", "gallery", None),
        (None, None, "gate", "gallery", None),
    ]
    assert found(dataset, "warning")[1:] == [("labels.csv", 4, "labels gate/9, but no such track was read")]
    assert found(dataset, "error") == []


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("video,track,person,cloths,camera,split\n", 1, "the header lacks clothes: "),
        ("gate,one,anna,red,c1,query\n", 2, "track is 'one', expected a finite number"),
        (
            "gate,1,anna,red,c1,test\n",
            2,
            "split is 'test', expected train, query, gallery or an empty cell (gallery)",
        ),
        ("gate,1,a,b,c,query\ngate,1,a,b,c,query\n", 3, "duplicate label for gate/1, first seen in line 2"),
        ("gate,1,a,b,c\n", 2, "has 5 columns, expected 6 as in the header"),
        (
            "video,track,person,clothes,camera,split,start_seconds\ngate,1,a,b,c,query,1\n",
            2,
            "column start_seconds",
        ),
    ],
)
def test_a_wrong_label_is_named(folder: Path, text: str, line: int, message: str) -> None:
    (folder / "gate.txt").write_text(mot(1, range(1, 11)))
    header = "" if text.startswith("video") else "video,track,person,clothes,camera,split\n"
    (folder / "labels.csv").write_text(header + text)
    [(file, number, found_message)] = found(read(folder, labels=folder / "labels.csv"), "error")
    assert (file, number) == ("labels.csv", line)
    assert found_message.startswith(message)


def test_tracks_of_an_unreadable_video_are_quarantined(folder: Path) -> None:
    (folder / "gate.mp4").write_bytes(b"no video")
    (folder / "gate.txt").write_text(mot(1, range(1, 11)) + mot(2, range(1, 11)))
    dataset = read(folder)
    assert dataset.tracklets == ()
    assert [(p.severity, p.line, p.tracklet) for p in dataset.problems] == [
        ("quarantine", 1, "gate/1"),
        ("quarantine", 11, "gate/2"),
    ]


def test_people_from_tracks(folder: Path) -> None:
    tracks = [mot(track, range(1, 51)) for track in range(1, 5)]
    (folder / "gate.txt").write_text("".join(tracks) + mot(5, range(1, 20)) + mot(6, range(1, 6)))
    dataset = check_dataset(read(folder, people_from_tracks=True, pieces=3, query_pieces=2, piece_gap=5))
    assert found(dataset, "warning")[1:] == [("gate.txt", None, "1 tracks without 8 consecutive boxes were dropped")]
    splits: dict[str, list[str]] = {}
    for tracklet in dataset.tracklets:
        splits.setdefault(str(tracklet.person), []).append(tracklet.split)
        assert tracklet.clothes == "0"
    assert splits.pop("gate/5") == ["train"], "too short to cut: whole, and never held for test"
    assert sorted(splits.values()) == [["query", "query", "gallery"]] * 2 + [["train"] * 3] * 2

    pieces = [tracklet for tracklet in dataset.tracklets if tracklet.person == "gate/1"]
    assert [tracklet.id for tracklet in pieces] == ["gate/1/1", "gate/1/2", "gate/1/3"]
    assert [tracklet.camera for tracklet in pieces] == ["gate#1", "gate#2", "gate#3"]
    assert [frames_of(t) for t in pieces] == [list(range(13)), list(range(18, 31)), list(range(36, 50))]


def test_the_seed_chooses_the_people_held_for_test(folder: Path) -> None:
    (folder / "gate.txt").write_text("".join(mot(track, range(1, 51)) for track in range(1, 9)))

    def held(seed: int, share: float = 0.25) -> frozenset[str | None]:
        dataset = read(folder, people_from_tracks=True, seed=seed, test_share=share)
        return frozenset(t.person for t in dataset.tracklets if t.split != "train")

    assert held(0) == held(0)
    assert len({held(seed) for seed in range(6)}) > 1
    assert [len(held(0, share)) for share in (0.01, 0.25, 0.5, 0.99)] == [1, 2, 4, 7]


@pytest.mark.parametrize(
    "options",
    [
        {"maximum_length": 7, "minimum_length": 8},
        {"pieces": 2, "query_pieces": 2},
        {"people_from_tracks": True, "labels": "labels.csv"},
        {"minimum_width": float("nan")},
        {"minimum_confidence": float("nan")},
        {"frame_stride": 0},
        {"strides": 2},
    ],
)
def test_options_that_do_not_agree_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=next(iter(options))):
        FootageOptions.model_validate({"videos": "videos", **options})


def test_unknown_people_are_not_one_person(folder: Path) -> None:
    people = ["nan", "NaN", "-1", "unknown", "None", "null", "N/A", ""]
    (folder / "gate.txt").write_text("".join(mot(track, range(1, 11)) for track in range(1, 10)))
    labels = folder / "labels.csv"
    rows = [f"gate;{track};{person};nan;-1;;\n" for track, person in enumerate(people, 1)]
    labels.write_text("video;track;person;clothes;camera;split;weather\n" + "".join(rows) + "gate;9;anna;red;c1;;NaN\n")
    dataset = read(folder, labels=labels)
    assert {(t.person, t.clothes, t.camera) for t in dataset.tracklets} == {(None, None, "gate"), ("anna", "red", "c1")}
    assert len(dataset.tracklets) == 9
    assert all("weather" not in tracklet.attributes for tracklet in dataset.tracklets)
    assert [finding for finding in found(dataset, "warning") if finding[0] == "labels.csv"] == [
        (
            "labels.csv",
            None,
            "7 rows have -1 or N/A or NaN or None or nan or null or unknown as person, treated as unknown",
        ),
        ("labels.csv", None, "8 rows have nan as clothes, treated as unknown"),
        ("labels.csv", None, "8 rows have -1 as camera, treated as unknown"),
    ]


def test_nobody_is_not_trained_on(folder: Path) -> None:
    (folder / "gate.txt").write_text("".join(mot(track, range(1, 11)) for track in range(1, 4)))
    labels = folder / "labels.csv"
    rows = "gate,1,anna,red,c1,train\ngate,2,nan,red,c1,train\ngate,3,,red,c1,train\n"
    labels.write_text(f"video,track,person,clothes,camera,split\n{rows}")
    dataset = check_dataset(read(folder, labels=labels))
    assert [tracklet.id for tracklet in dataset.tracklets] == ["gate/1"]
    message = "2 tracks in the train split have an unknown person and were dropped"
    assert ("labels.csv", None, message) in found(dataset, "warning")
    assert found(dataset, "error") == []

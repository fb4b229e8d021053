"""When tracklets were recorded."""

from __future__ import annotations

from pathlib import Path

import av
import pytest
from pydantic import ValidationError

from data_tools.datasets.footage_options import FootageOptions
from data_tools.datasets.problems import Dataset
from tests.data.findings import found
from tests.data.made_footage import make_gate, mot
from tests.data.made_footage import read as read_made
from tests.data.made_videos import make_video


def read(folder: Path, **options: object) -> Dataset:
    """For tracks that count frames from 1, so that this needs no option."""
    return read_made(folder, first_frame=1, **options)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """``gate_20261120_080000.mp4`` of 60 frames at 25 a second, with one track of frames 26 to 51."""
    make_gate(tmp_path).joinpath("gate.mp4").rename(tmp_path / "gate_20261120_080000.mp4")
    (tmp_path / "gate_20261120_080000.txt").write_text(mot(1, range(26, 52)))
    return tmp_path


def times(dataset: Dataset) -> tuple[str | None, str | None]:
    [tracklet] = dataset.tracklets
    return tracklet.attributes.get("start_time"), tracklet.attributes.get("end_time")


def test_unknown_unless_asked_for(folder: Path) -> None:
    dataset = read(folder)
    assert times(dataset) == (None, None)
    assert dataset.problems == ()


@pytest.mark.parametrize(("zone", "hour"), [("UTC", "08"), ("Europe/Berlin", "07"), ("Asia/Tokyo", "23")])
def test_from_the_name(folder: Path, zone: str, hour: str) -> None:
    day = "19" if zone == "Asia/Tokyo" else "20"
    dataset = read(folder, start_times="%Y%m%d_%H%M%S", time_zone=zone)
    expected = f"2026-11-{day}T{hour}:00:01.000+00:00", f"2026-11-{day}T{hour}:00:02.000+00:00"
    assert times(dataset) == expected


def test_from_the_container(tmp_path: Path) -> None:
    make_gate(tmp_path)
    (tmp_path / "gate.txt").write_text(mot(1, range(1, 11)))
    with av.open(str(tmp_path / "gate.mp4")) as source, av.open(str(tmp_path / "new.mp4"), "w") as target:
        target.metadata["creation_time"] = "2026-11-20T08:00:00.000000Z"
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = stream
                target.mux(packet)
    plain = read(tmp_path / "gate.mp4", start_times="container")
    assert found(plain, "warning") == [
        ("gate.mp4", None, "its container has no creation time, so its start time is unknown")
    ]
    (tmp_path / "new.mp4").rename(tmp_path / "gate.mp4")
    dataset = read(tmp_path, start_times="container", time_zone="Asia/Tokyo")
    assert times(dataset)[0] == "2026-11-20T08:00:00.000+00:00"


def test_from_a_table(folder: Path) -> None:
    table = folder / "starts.csv"
    table.write_text("video,start_time\ngate_20261120_080000,2026-11-20T09:30:00+01:00\n")
    assert times(read(folder, start_times=str(table))) == (
        "2026-11-20T08:30:01.000+00:00",
        "2026-11-20T08:30:02.000+00:00",
    )
    table.write_text("video,start_time\ngate,2026-11-20T09:30:00\n")
    [(_, _, message)] = found(read(folder, start_times=str(table)), "warning")
    assert message == f"has no row in {table}, so its start time is unknown"
    table.write_text("video,start_time\ngate,yesterday\n")
    [error] = found(read(folder, start_times=str(table)), "error")
    assert error == ("starts.csv", 2, "'yesterday' is not a time, expected one like 2026-11-20T08:00:00")


def test_the_labels_go_first(folder: Path) -> None:
    labels = folder / "labels.csv"
    header = "video,track,person,clothes,camera,split,start_time\n"
    labels.write_text(f"{header}gate_20261120_080000,1,anna,,,,2026-11-21T00:00:00\n")
    dataset = read(folder, labels=labels, start_times="%Y%m%d_%H%M%S", time_zone="Asia/Tokyo")
    assert times(dataset)[0] == "2026-11-20T15:00:01.000+00:00"
    labels.write_text(f"{header}gate_20261120_080000,1,anna,,,,noon\n")
    [error] = found(read(folder, labels=labels), "error")
    assert error == ("labels.csv", 2, "'noon' is not a time, expected one like 2026-11-20T08:00:00")


@pytest.mark.parametrize("name", ["gate", "gate_20261320_080000"])
def test_a_name_without_a_time(tmp_path: Path, name: str) -> None:
    make_video(tmp_path / f"{name}.mp4")
    (tmp_path / f"{name}.txt").write_text(mot(1, range(1, 11)))
    dataset = read(tmp_path, start_times="%Y%m%d_%H%M%S")
    assert times(dataset) == (None, None)
    [(file, _, message)] = found(dataset, "warning")
    assert file == f"{name}.mp4"
    assert message.endswith("so its start time is unknown")


@pytest.mark.parametrize("options", [{"start_times": "%Q"}, {"start_times": "%Y%"}, {"time_zone": "Mars/Base"}])
def test_options_that_are_not_understood(options: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=next(iter(options))):
        FootageOptions.model_validate({"videos": "videos", **options})

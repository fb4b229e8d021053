"""Synthetic walkers: who, in what, where; and the files agree with the pictures."""

from __future__ import annotations

import csv
import dataclasses
import os
import pickle
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest
from pydantic import ValidationError

from data_tools.errors import InputError
from data_tools.walkers import (
    WalkerOptions,
    WalkerVideo,
    claim_folder,
    plan_walkers,
    render_video,
    render_walkers,
    write_annotations,
)
from data_tools.walkers import render as render_module
from data_tools.walkers.scene import Picture, Scene, boxes, pictures, set_scene

TINY = WalkerOptions(train_people=2, test_people=2, outfits=2, test_outfits=2, cameras=3, frames=5)


@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("walkers")
    render_walkers(TINY, folder, workers=2)
    return folder


def test_same_job_gives_same_bytes(tiny_folder: Path, tmp_path: Path) -> None:
    jobs = plan_walkers(TINY)
    for job in (jobs[0], jobs[-1]):
        render_video(pickle.loads(pickle.dumps(job)), tmp_path)
        name = f"videos/{job.name}.mp4"
        assert (tmp_path / name).read_bytes() == (tiny_folder / name).read_bytes()
    write_annotations(jobs, tmp_path)
    for written in (tmp_path / "tracks").iterdir():
        assert written.read_bytes() == (tiny_folder / "tracks" / written.name).read_bytes()


def test_another_seed_gives_other_walkers() -> None:
    one = plan_walkers(TINY)[0]
    other = dataclasses.replace(one, options=TINY.model_copy(update={"seed": 2}))
    assert one.draw_person() != other.draw_person()
    assert one.draw_outfit() != other.draw_outfit()
    assert one.draw_camera() != other.draw_camera()


def test_files_are_as_the_footage_reader_expects(tiny_folder: Path) -> None:
    with (tiny_folder / "labels.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["video", "track", "person", "clothes", "camera", "split"]
    assert {row["video"] for row in rows} == {path.stem for path in (tiny_folder / "videos").iterdir()}
    assert len(rows) == len(plan_walkers(TINY))
    for row in rows:
        track = np.loadtxt(tiny_folder / "tracks" / f"{row['video']}.txt", delimiter=",")
        assert track.shape == (TINY.frames, 10)
        assert track[:, 0].tolist() == [1, 2, 3, 4, 5]
        assert {str(int(number)) for number in track[:, 1]} == {row["track"]}
    with av.open(str(tiny_folder / "videos" / f"{rows[0]['video']}.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert (stream.width, stream.height) == (TINY.picture_width, TINY.picture_height)
        assert stream.average_rate == TINY.frames_per_second
        assert sum(1 for _ in container.decode(stream)) == TINY.frames


def test_video_shows_what_was_painted(tiny_folder: Path) -> None:
    job = plan_walkers(TINY)[0]
    with av.open(str(tiny_folder / "videos" / f"{job.name}.mp4")) as container:
        decoded = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    painted = np.stack(list(pictures(set_scene(job))))
    assert np.abs(decoded.astype(int) - painted).mean() < 6.0  # grey levels; chroma is halved in yuv420p


@pytest.mark.parametrize("person", range(6))
def test_box_holds_the_walker_closely(person: int) -> None:
    """Where the picture differs from its empty street, apart from shadows, there must be a box."""
    options = WalkerOptions(train_people=6, frames=8)
    job = [job for job in plan_walkers(options) if job.person == person][person]
    scene = set_scene(job)
    width, height = options.picture_width, options.picture_height
    street = scene.street()
    gain = np.asarray(scene.camera.gain)[:, None, None]
    seen = boxes(scene)
    for frame, picture in enumerate(pictures(scene)):
        columns = np.arange(scene.left_T[frame], scene.left_T[frame] + width) % street.planes_3HW.shape[2]
        empty = np.clip(street.planes_3HW[:, :, columns] * gain, 0, 255).transpose(1, 2, 0)
        ratio = (picture + 1.0) / (empty + 1.0)
        colour = np.ptp(ratio, axis=2) > 0.25  # neither shadow nor noise changes the hue
        y_N, x_N = np.nonzero(colour)
        x, y, w, h = seen[frame]
        inside = (x_N >= x - 1) & (x_N <= x + w) & (y_N >= y - 1) & (y_N <= y + h)
        assert len(x_N) > 0.08 * w * h
        assert inside.mean() > 0.995
        assert y_N[inside].max() - y_N[inside].min() > 0.5 * h
        assert w >= 0.49 * h
        assert -0.5 * w < x < width
        assert y > -0.1 * h
        assert y + h < height + 0.1 * h


def test_person_keeps_the_body_and_changes_the_outfit() -> None:
    options = WalkerOptions(train_people=10, outfits=4)
    bodies, outfits = defaultdict(set), defaultdict(set)
    for job in plan_walkers(options):
        bodies[job.person].add(job.draw_person())
        outfits[job.person, job.outfit].add(job.draw_outfit())
    people = options.train_people + options.test_people
    assert all(len(seen) == 1 for seen in bodies.values())
    assert len(set.union(*bodies.values())) == people
    assert all(len(seen) == 1 for seen in outfits.values())
    assert len(set.union(*outfits.values())) == len(outfits) == people * 4


def test_outfit_does_not_depend_on_the_wearer() -> None:
    """The colour of the top is as far from the person's other tops as from anybody's."""
    options = WalkerOptions(train_people=300, test_people=0, outfits=2, tracklets=1)
    tops_PO3 = np.array([job.draw_outfit().top.colour for job in plan_walkers(options)]).reshape(300, 2, 3)
    own = np.linalg.norm(tops_PO3[:, 0] - tops_PO3[:, 1], axis=1).mean()
    strange = np.linalg.norm(tops_PO3[:, 0] - np.roll(tops_PO3[:, 1], 1, axis=0), axis=1).mean()
    assert own == pytest.approx(strange, rel=0.1)


def _jobs_by_split(jobs: tuple[WalkerVideo, ...]) -> dict[str, list[WalkerVideo]]:
    found: dict[str, list[WalkerVideo]] = defaultdict(list)
    for job in jobs:
        found[job.split].append(job)
    return found


@pytest.mark.parametrize(("cameras", "outfits", "tracklets"), [(2, 2, 2), (2, 5, 3), (3, 2, 4), (4, 4, 2), (4, 3, 6)])
def test_every_query_has_both_kinds_of_match(cameras: int, outfits: int, tracklets: int) -> None:
    options = WalkerOptions(
        train_people=3, test_people=5, cameras=cameras, test_outfits=outfits, test_tracklets=tracklets
    )
    splits = _jobs_by_split(plan_walkers(options))
    assert len(splits["query"]) == 5 * outfits
    assert len(splits["gallery"]) == 5 * outfits * (tracklets - 1)
    for query in splits["query"]:
        kept = [g for g in splits["gallery"] if g.person == query.person and g.camera != query.camera]
        assert any(g.outfit == query.outfit for g in kept)
        assert any(g.outfit != query.outfit for g in kept)
    train = {job.person for job in splits["train"]}
    assert not train & {job.person for job in splits["query"] + splits["gallery"]}


def test_training_people_are_seen_by_several_cameras_in_every_outfit() -> None:
    places = defaultdict(set)
    for job in _jobs_by_split(plan_walkers(WalkerOptions(train_people=5)))["train"]:
        places[job.person, job.outfit].add(job.camera)
    assert len(places) == 5 * WalkerOptions().outfits
    assert all(len(cameras) == 2 for cameras in places.values())


def test_names_are_unique() -> None:
    jobs = plan_walkers(WalkerOptions())
    assert len({job.name for job in jobs}) == len(jobs)


def test_camera_follows_a_long_walk() -> None:
    scene = set_scene(plan_walkers(WalkerOptions(train_people=1, cameras=2, frames=200))[0])
    for x, _y, w, _h in boxes(scene):
        assert -0.2 * w <= x <= scene.job.options.picture_width - 0.8 * w


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("train_people", 0), ("test_people", -1), ("outfits", 0), ("test_outfits", 1), ("cameras", 1), ("frames", 0),
        ("frames_per_second", 0), ("picture_width", 101), ("picture_width", 64), ("person_pixels_max", 125.0),
        ("person_pixels_min", 90.0), ("seed", -1), ("peple", 3),
    ],
)  # fmt: skip
def test_bad_options_are_refused(field: str, value: float) -> None:
    with pytest.raises(ValidationError, match=field):
        WalkerOptions.model_validate({field: value})


def test_broken_off_render_leaves_no_video(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = plan_walkers(TINY)[0]

    def stop_after_two(scene: Scene) -> Iterator[Picture]:
        for count, picture in enumerate(pictures(scene)):
            if count == 2:
                assert not (tmp_path / "videos" / f"{job.name}.mp4").exists()
                raise KeyboardInterrupt
            yield picture

    with monkeypatch.context() as patch:
        patch.setattr(render_module, "pictures", stop_after_two)
        with pytest.raises(KeyboardInterrupt):
            render_video(job, tmp_path)
    assert list((tmp_path / "videos").iterdir()) == []
    render_video(job, tmp_path)
    assert [path.name for path in (tmp_path / "videos").iterdir()] == [f"{job.name}.mp4"]


def test_what_a_killed_render_left_is_removed(tmp_path: Path) -> None:
    left_over = tmp_path / "videos" / f"x.mp4.1{render_module.UNFINISHED}"
    left_over.parent.mkdir()
    left_over.write_bytes(b"half")
    write_annotations(plan_walkers(TINY)[:1], tmp_path)
    assert list(left_over.parent.iterdir()) == []


def test_finished_videos_are_kept(tmp_path: Path) -> None:
    job = plan_walkers(TINY)[0]
    render_video(job, tmp_path)
    video = tmp_path / "videos" / f"{job.name}.mp4"
    os.utime(video, (1, 1))
    render_video(job, tmp_path)
    assert video.stat().st_mtime == 1


def test_folder_of_another_set_is_refused(tmp_path: Path) -> None:
    claim_folder(TINY, tmp_path)
    claim_folder(TINY, tmp_path)
    with pytest.raises(InputError, match="other walker options"):
        claim_folder(TINY.model_copy(update={"frames": 6}), tmp_path)


def test_progress_counts_every_video(tmp_path: Path) -> None:
    options = WalkerOptions(train_people=1, test_people=0, outfits=1, frames=2)
    calls: list[tuple[int, int]] = []
    render_walkers(options, tmp_path, workers=1, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(1, 2), (2, 2)]

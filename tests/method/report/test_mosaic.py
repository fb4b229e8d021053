"""Heads on pages and pictures: hidden before anything is encoded."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image

from ccvid.config import ReportOptions
from ccvid.retrieval.embedding.table import EmbeddingRow
from ccvid.retrieval.report.film_strip import HEIGHT, Picture, film_strip
from ccvid.retrieval.report.mosaic import (
    CELLS,
    HEAD_SHARE,
    HeadHiding,
    mosaic_heads_,
    mosaic_regions_,
    read_hiding,
)
from ccvid.retrieval.report.stored_pictures import StoredPictures, stored_thumbnails
from ccvid.retrieval.report.unlabelled import Group, group_view, write_views
from data_tools.errors import InputError
from data_tools.shards import ShardFolder
from data_tools.walkers.figure import Head, extent
from data_tools.walkers.options import WalkerOptions
from data_tools.walkers.plan import plan_walkers
from data_tools.walkers.scene import boxes, set_scene


def noise(height: int, width: int, seed: int = 0) -> Picture:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def colours(picture_HWC: Picture) -> int:
    return len(np.unique(picture_HWC.reshape(-1, 3), axis=0))


def embedded(store: ShardFolder, count: int) -> list[EmbeddingRow]:
    """Its first tracklets, as a gallery knows them."""
    rows = enumerate(store.rows.take(range(count)))
    return [
        EmbeddingRow(
            row.id, row.person, row.clothes, row.camera, row.split, row.attributes, 1, store.fingerprint(number)
        )
        for number, row in rows
    ]


def test_nothing_but_the_means_of_the_cells_is_left() -> None:
    picture = noise(120, 60)
    shuffled, rng = picture.copy(), np.random.default_rng(1)
    for top in (0, 20):
        for left in (0, 20, 40):  # the same pixels elsewhere within each cell
            cell = shuffled[top : top + 20, left : left + 20]
            cell[:] = rng.permutation(cell.reshape(-1, 3)).reshape(cell.shape)
    whole = np.array([[0, 0, 60, 120]], np.float64)
    assert (shuffled[:40] != picture[:40]).any()
    shown = [each.copy() for each in (picture, shuffled)]
    for each in shown:
        mosaic_heads_(each, whole)
    np.testing.assert_array_equal(shown[0][:40], shown[1][:40])
    assert colours(shown[0][:40]) <= CELLS[0] * CELLS[1]
    np.testing.assert_allclose(shown[0][0, 0], picture[:20, :20].reshape(-1, 3).mean(axis=0), atol=0.51)
    np.testing.assert_array_equal(shown[0][40:], picture[40:])


@pytest.mark.parametrize(
    ("box", "rows", "columns"),
    [
        ((10, 30, 20, 60), (30, 50), (10, 30)),  # upright: a third of the height
        ((10, 30, 30, 30), (30, 50), (10, 40)),  # only the upper part is in view: two thirds of the width
        ((10, 30, 40, 20), (30, 50), (10, 50)),  # lying: all of it
        ((-10, -6, 20, 60), (0, 14), (0, 10)),  # leaves the picture
        ((10.6, 30.6, 18.8, 57.6), (30, 50), (10, 30)),  # outward to whole pixels
        ((70, 10, 50, 90), (10, 44), (70, 80)),
        ((200, 10, 50, 90), (0, 0), (0, 0)),  # outside
    ],
)
def test_the_head_region_of_a_box(box: tuple[float, ...], rows: tuple[int, int], columns: tuple[int, int]) -> None:
    picture = noise(100, 80)
    hidden = picture.copy()
    mosaic_heads_(hidden, np.array([box], np.float64))
    inside = np.zeros(picture.shape[:2], np.bool_)
    inside[slice(*rows), slice(*columns)] = True
    np.testing.assert_array_equal(hidden[~inside], picture[~inside])
    if inside.any():
        assert colours(hidden[inside]) <= CELLS[0] * CELLS[1] < colours(picture[inside])


def test_tiny_and_no_boxes() -> None:
    picture = noise(8, 8)
    for regions in (np.empty((0, 4)), np.array([[2, 2, 0, 0]], np.float64), np.array([[2.2, 2.2, 0.1, 0.1]])):
        hidden = picture.copy()
        mosaic_regions_(hidden, regions)
        np.testing.assert_array_equal(hidden, picture)  # a pixel is its own mean


def test_the_region_holds_the_heads_of_walkers() -> None:
    below = []
    for job in plan_walkers(WalkerOptions(train_people=1, test_people=12, frames=12)):
        scene = set_scene(job)
        head_T4 = extent([stroke for stroke in scene.strokes if isinstance(stroke.material, Head)])
        box_T4 = np.array(boxes(scene))
        below.append(((head_T4[:, 3] - box_T4[:, 1]) / box_T4[:, 3]).max())
    assert max(below) < HEAD_SHARE - 0.05


def test_pictures_of_stored_tracklets_are_hidden_only_in_their_heads(tiny_shards: Path) -> None:
    store = ShardFolder(tiny_shards)
    places = [(store, row) for row in range(3)]
    plain = stored_thumbnails(places, HeadHiding(False))
    hidden = stored_thumbnails(places, HeadHiding(True))
    end = int(np.ceil(HEIGHT * HEAD_SHARE))
    for index in range(3):
        for before, after in zip(plain(index), hidden(index), strict=True):
            assert colours(after[:end]) <= CELLS[0] * CELLS[1] < colours(before[:end])
            np.testing.assert_array_equal(after[end:], before[end:])


def test_the_licence_decides_unless_the_user_does(tiny_shards: Path) -> None:
    store = ShardFolder(tiny_shards)
    ccvid = cast(ShardFolder, SimpleNamespace(manifest=SimpleNamespace(dataset="ccvid")))
    for options, shown in ((ReportOptions(), (True, False)), (ReportOptions(mosaic=True), (True, True))):
        assert tuple(map(read_hiding(options).applies_to, (ccvid, store))) == shown
    assert not read_hiding(ReportOptions(mosaic=False)).applies_to(ccvid)
    (frame, *_) = StoredPictures([store], HeadHiding(True)).of(embedded(store, 1))(0)
    assert colours(frame[: HEIGHT // 3]) <= CELLS[0] * CELLS[1]


def test_the_pictures_of_a_page_are_those_with_hidden_heads(tiny_shards: Path, tmp_path: Path) -> None:
    store = ShardFolder(tiny_shards)
    rows = embedded(store, 4)
    thumbnails = StoredPictures([store], HeadHiding(True)).of(rows)
    write_views([group_view([Group("one", range(4))], rows, thumbnails)], tmp_path / "page", title="t", facts={})
    for index in range(4):
        with Image.open(tmp_path / "page" / "pictures" / "0" / f"{index}.jpg") as picture:
            shown = np.asarray(picture.convert("RGB")).astype(np.int64)
        strip = film_strip(thumbnails(index))
        assert colours(strip[: HEIGHT // 3]) <= 3 * CELLS[0] * CELLS[1] + 1  # and the lines between
        assert np.abs(shown - strip).mean() < 6


def detector(
    path: Path,
    found: list[list[float]],
    *,
    shape: tuple[int | str, ...] = (1, 3, 60, 30),
    kind: int = TensorProto.UINT8,
) -> Path:
    """An ONNX file that gives the same boxes for every crop of more than no light."""
    boxes_N4 = np.array(found, np.float32).reshape(-1, 4 if not found else len(found[0]))
    graph = helper.make_graph(
        [
            helper.make_node("Constant", [], ["boxes"], value=onnx.numpy_helper.from_array(boxes_N4)),
            helper.make_node("Cast", ["crop"], ["bright"], to=TensorProto.FLOAT),
            helper.make_node("ReduceMax", ["bright"], ["most"], keepdims=0),
            helper.make_node("Cast", ["most"], ["is_lit"], to=TensorProto.INT64),
            helper.make_node("Clip", ["is_lit", "", "one"], ["count"]),
            helper.make_node("Mul", ["count", "size"], ["rows"]),
            helper.make_node("Unsqueeze", ["rows", "zero"], ["end"]),
            helper.make_node("Slice", ["boxes", "zero", "end"], ["heads"]),
        ],
        "heads",
        [helper.make_tensor_value_info("crop", kind, shape)],
        [helper.make_tensor_value_info("heads", TensorProto.FLOAT, (None, boxes_N4.shape[1]))],
        [
            helper.make_tensor("one", TensorProto.INT64, (), [1]),
            helper.make_tensor("size", TensorProto.INT64, (), [len(boxes_N4)]),
            helper.make_tensor("zero", TensorProto.INT64, (1,), [0]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, str(path))
    return path


def test_a_detector_finds_the_heads_and_geometry_what_it_misses(tmp_path: Path) -> None:
    path = detector(tmp_path / "heads.onnx", [[10, 20, 18, 28]])
    hiding = read_hiding(ReportOptions(mosaic_detector=str(path)))
    assert (hiding.wanted, hiding.frame_size) == (True, (60, 30))
    crop, dark = noise(60, 30), np.zeros((60, 30, 3), np.uint8)
    hidden = np.stack([crop, dark])
    hiding.hide_(hidden)
    inside = np.zeros((60, 30), np.bool_)
    inside[18:30, 8:20] = True  # wider by a quarter on each side
    np.testing.assert_array_equal(hidden[0][~inside], crop[~inside])
    assert colours(hidden[0][inside]) <= 6
    assert (hidden[1] == 0).all()
    assert read_hiding(ReportOptions(mosaic=False, mosaic_detector=str(path))).wanted is False
    nothing = read_hiding(ReportOptions(mosaic_detector=str(detector(tmp_path / "none.onnx", []))))
    (missed,) = frames = crop[None].copy()
    nothing.hide_(frames)
    assert colours(missed[:20]) <= 6
    np.testing.assert_array_equal(missed[20:], crop[20:])


def test_a_detector_sees_each_crop_in_its_own_size(tmp_path: Path, tiny_shards: Path) -> None:
    last = detector(tmp_path / "last.onnx", [[0, 0, 40, 90]], shape=(1, "height", "width", 3))
    hiding = read_hiding(ReportOptions(mosaic_detector=str(last)))
    assert hiding.frame_size == (256, 128)
    store = ShardFolder(tiny_shards)
    for frame in stored_thumbnails([(store, 0)], replace(hiding, wanted=True))(0):
        assert frame.shape == (256, 128, 3)
        assert colours(frame[:100, :40]) <= 6


@pytest.mark.parametrize(
    ("found", "changes", "message"),
    [
        ([[1, 2, 3]], {}, r"gives \(1, 3\) values, expected \(N, 4\)"),
        ([[5, 2, 3, 4]], {}, r"gives a box \[5.0, 2.0, 3.0, 4.0\], expected left, top, right, bottom"),
        ([[5, 2, np.nan, 4]], {}, r"all of them finite"),
        ([], {"shape": (1, 1, 60, 30)}, r"has inputs and outputs 1/1/60/30 tensor\(uint8\), .*; a detector has one"),
        ([], {"kind": TensorProto.FLOAT}, r"1/3/60/30 tensor\(float\)"),
    ],
)
def test_a_detector_of_another_contract_is_refused(
    found: list[list[float]], changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = detector(tmp_path / "heads.onnx", found, **changes)
    with pytest.raises(InputError, match=rf"^{path}: .*{message}"):
        read_hiding(ReportOptions(mosaic_detector=str(path))).hide_(noise(60, 30)[None])


def test_a_detector_that_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no such file; --report\.mosaic_detector takes an ONNX file"):
        read_hiding(ReportOptions(mosaic_detector=str(tmp_path / "none.onnx")))
    (tmp_path / "damaged.onnx").write_bytes(b"no model")
    with pytest.raises(InputError, match=r"damaged\.onnx: onnxruntime cannot load it"):
        read_hiding(ReportOptions(mosaic_detector=str(tmp_path / "damaged.onnx")))


def test_a_hidden_head_survives_no_encoding(tiny_shards: Path) -> None:
    """What a page shows is no nearer to the face than to any other picture of the same cells."""
    store = ShardFolder(tiny_shards)
    (plain, *_), (hidden, *_) = (stored_thumbnails([(store, 0)], HeadHiding(wanted))(0) for wanted in (False, True))
    sink = io.BytesIO()
    Image.fromarray(hidden).save(sink, "JPEG", quality=95)
    with Image.open(sink) as decoded:
        shown = np.asarray(decoded.convert("RGB")).astype(np.float64)
    head = slice(0, HEIGHT // 3)
    detail = plain[head].astype(np.float64) - hidden[head]
    left = shown[head] - hidden[head]
    correlation = np.corrcoef(detail.ravel(), left.ravel())[0, 1]
    assert abs(correlation) < 0.15

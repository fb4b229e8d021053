"""Other people's networks in ONNX: every layout and order against NumPy, and cards that do not fit."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch
import yaml
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import convert_model_to_external_data

from ccvid.network_card import NetworkCard, read_network_card
from ccvid.onnx_model import OnnxModel, read_onnx_model
from data_tools.clips import ClipOptions
from data_tools.errors import InputError

HEIGHT, WIDTH, FRAMES, FEATURES = 24, 16, 3, 5
SIZES: dict[str, int | str] = {"N": "batch", "T": FRAMES, "C": 3, "H": HEIGHT, "W": WIDTH}
CARD = {
    "height": HEIGHT,
    "width": WIDTH,
    "colours": "RGB",
    "range": 1,
    "mean": [0.485, 0.456, 0.406],
    "std": [0.229, 0.224, 0.225],
    "layout": "NCHW",
}


def weights(layout: str, features: int = FEATURES) -> npt.NDArray[np.float32]:
    """One weight for each input value and feature, so that any exchange of axes or channels changes the features."""
    values = np.random.default_rng(len(layout)).normal(
        size=(HEIGHT * WIDTH * 3 * (3 if "T" in layout else 1), features)
    )
    return values.astype(np.float32)


def write_graph(
    file: Path,
    layout: str = "NCHW",
    *,
    kind: int = TensorProto.FLOAT,
    sizes: dict[str, int | str] = SIZES,
    outputs: Sequence[str] = ("features",),
    trailing: bool = False,
) -> None:
    """A network with one linear layer, whose second output is the first, doubled."""
    shape = [sizes[axis] for axis in layout]
    nodes = [
        helper.make_node("Cast", ["images"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["floats"], ["flat"], axis=1),
        helper.make_node("MatMul", ["flat", "weights"], [outputs[0] if not trailing else "matrix"]),
    ]
    constants = [numpy_helper.from_array(weights(layout), "weights")]
    if trailing:
        nodes.append(helper.make_node("Unsqueeze", ["matrix", "axes"], [outputs[0]]))
        constants.append(numpy_helper.from_array(np.array([2, 3]), "axes"))
    nodes += [helper.make_node("Add", [outputs[0], outputs[0]], [name]) for name in outputs[1:]]
    given = helper.make_tensor_value_info("images", kind, shape)
    found = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    graph = helper.make_graph(nodes, "network", [given], found, constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), file)


def write_card(folder: Path, **changes: Any) -> None:
    (folder / "net.yaml").write_text(yaml.safe_dump(CARD | changes))


def read(folder: Path) -> OnnxModel:
    return read_onnx_model(folder / "net.onnx")


def frames(clips: int, length: int = FRAMES) -> torch.Tensor:
    shape = (clips, length, 3, HEIGHT, WIDTH)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(clips))


def expected(card: NetworkCard, frames_BTCHW: torch.Tensor) -> npt.NDArray[np.float64]:
    """The features by NumPy in float64, from the card's words."""
    channels = [0, 1, 2] if card.colours == "RGB" else [2, 1, 0]
    values = frames_BTCHW.numpy().astype(np.float64)[:, :, channels] / 255 * card.range
    values = (values - np.reshape(card.mean, (3, 1, 1))) / np.reshape(card.std, (3, 1, 1))
    if "T" in card.layout:
        laid_out = np.einsum(f"NTCHW->{card.layout}", values)
        return np.asarray(laid_out.reshape(len(values), -1) @ weights(card.layout))
    clips, length = values.shape[:2]
    laid_out = np.einsum(f"NCHW->{card.layout}", values.reshape(-1, *values.shape[2:]))
    feature_ND = laid_out.reshape(len(laid_out), -1) @ weights(card.layout)
    return np.asarray(feature_ND.reshape(clips, length, -1).mean(1))


@pytest.mark.parametrize("layout", ["NCHW", "NHWC", "NTCHW", "NCTHW", "NTHWC"])
@pytest.mark.parametrize("colours", ["RGB", "BGR"])
@pytest.mark.parametrize(
    ("highest", "mean", "std"),
    [(1, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]), (255, [123.7, 116.3, 103.5], [58.4, 57.1, 57.4])],
)
def test_every_layout_and_order(
    tmp_path: Path, layout: str, colours: str, highest: int, mean: list[float], std: list[float]
) -> None:
    write_graph(tmp_path / "net.onnx", layout)
    write_card(tmp_path, layout=layout, colours=colours, range=highest, mean=mean, std=std)
    model, given = read(tmp_path), frames(4)
    wanted = expected(model.card, given)
    found = model.embed_frames(given)
    assert found.dtype == torch.float32
    assert found.shape == (4, model.feature_size) == wanted.shape
    np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(("layout", "batch"), [("NCHW", 1), ("NCHW", 8), ("NTCHW", 2), ("NHWC", 5)])
def test_a_batch_of_fixed_size(tmp_path: Path, layout: str, batch: int) -> None:
    write_graph(tmp_path / "net.onnx", layout, sizes=SIZES | {"N": batch})
    write_card(tmp_path, layout=layout)
    model, given = read(tmp_path), frames(3)
    np.testing.assert_allclose(model.embed_frames(given), expected(model.card, given), rtol=1e-4, atol=1e-3)


def test_the_batch_need_not_be_the_first_axis(tmp_path: Path) -> None:
    sizes = SIZES | {"N": 1}  # the graph flattens after its first axis, so that only a batch of one is right
    write_graph(tmp_path / "net.onnx", "TNCHW", sizes=sizes | {"T": 1})
    constants = onnx.load(tmp_path / "net.onnx")
    constants.graph.initializer[0].CopyFrom(numpy_helper.from_array(weights("NCHW"), "weights"))
    onnx.save(constants, tmp_path / "net.onnx")
    write_card(tmp_path, layout="TNCHW")
    model, given = read(tmp_path), frames(2, 1)
    wanted = expected(NetworkCard.model_validate(CARD), given)
    np.testing.assert_allclose(model.embed_frames(given), wanted, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("kind", [TensorProto.FLOAT16, TensorProto.DOUBLE])
def test_other_precisions(tmp_path: Path, kind: int) -> None:
    write_graph(tmp_path / "net.onnx", kind=kind)
    write_card(tmp_path)
    model, given = read(tmp_path), frames(2)
    rounded = 0.05 if kind == TensorProto.FLOAT16 else 1e-3
    np.testing.assert_allclose(model.embed_frames(given), expected(model.card, given), rtol=1e-3, atol=rounded)


def test_a_graph_of_bytes_takes_pixels_as_they_are(tmp_path: Path) -> None:
    write_graph(tmp_path / "net.onnx", "NHWC", kind=TensorProto.UINT8)
    write_card(tmp_path, layout="NHWC", colours="BGR", range=255, mean=[0, 0, 0], std=[1, 1, 1])
    model, given = read(tmp_path), frames(2)
    np.testing.assert_allclose(model.embed_frames(given), expected(model.card, given), rtol=1e-4)
    write_card(tmp_path, layout="NHWC")
    with pytest.raises(
        InputError, match=r"input 'images' is uint8 .*takes pixels as they are, but net\.yaml says range 1,"
    ):
        read(tmp_path)


def test_the_named_output_and_trailing_axes(tmp_path: Path) -> None:
    write_graph(tmp_path / "net.onnx", outputs=("logits", "features"), trailing=True)
    write_card(tmp_path, output="features")
    model, given = read(tmp_path), frames(2)
    np.testing.assert_allclose(model.embed_frames(given), 2 * expected(model.card, given), rtol=1e-4, atol=1e-2)
    for output, words in ((None, "names none of them as output"), ("feats", "says output 'feats'")):
        write_card(tmp_path, output=output)
        with pytest.raises(InputError, match=rf"net\.onnx: has the outputs logits, features, but net\.yaml {words}"):
            read(tmp_path)


def test_weights_in_another_file(tmp_path: Path) -> None:
    write_graph(tmp_path / "net.onnx")
    write_card(tmp_path)
    alone = read(tmp_path).embed_frames(frames(2))
    model = onnx.load(tmp_path / "net.onnx")
    convert_model_to_external_data(model, location="net.onnx.data", size_threshold=0)
    onnx.save(model, tmp_path / "net.onnx")
    torch.testing.assert_close(read(tmp_path).embed_frames(frames(2)), alone)
    (tmp_path / "net.onnx.data").unlink()
    with pytest.raises(InputError, match=r"net\.onnx: its weights in other files cannot be read: "):
        read(tmp_path)


def test_clips_are_those_of_the_network(tmp_path: Path) -> None:
    write_card(tmp_path)
    write_graph(tmp_path / "net.onnx")
    assert read(tmp_path).clip == ClipOptions(length=1, stride=1, piece=0)
    write_graph(tmp_path / "net.onnx", "NTCHW")
    write_card(tmp_path, layout="NTCHW")
    assert read(tmp_path).clip == ClipOptions(length=FRAMES)
    with pytest.raises(InputError, match=r"net\.onnx: takes clips of exactly 3 frames, got 2$"):
        read(tmp_path).embed_frames(frames(1, 2))
    write_card(tmp_path, layout="NTCHW", clip={"length": 3, "stride": 1})
    assert read(tmp_path).clip == ClipOptions(length=3, stride=1)


def test_the_fingerprint_depends_on_weights_and_card(tmp_path: Path) -> None:
    write_graph(tmp_path / "net.onnx")
    write_card(tmp_path)
    first = read(tmp_path)
    assert pickle.loads(pickle.dumps(first)).fingerprint == first.fingerprint
    write_card(tmp_path, name="a network")
    assert read(tmp_path).fingerprint == first.fingerprint
    write_card(tmp_path, colours="BGR")
    assert read(tmp_path).fingerprint != first.fingerprint


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layout": "NTCHW"}, "is float32 any x 3 x 24 x 16, but net.yaml says layout NTCHW, which has 5 axes"),
        ({"layout": "NHWC"}, "is float32 any x 3 x 24 x 16, but net.yaml says layout NHWC with H of 24"),
        ({"height": 256}, "is float32 any x 3 x 24 x 16, but net.yaml says layout NCHW with H of 256"),
        ({"layout": "NCWH"}, "is float32 any x 3 x 24 x 16, but net.yaml says layout NCWH with W of 16"),
    ],
)
def test_cards_that_do_not_fit_the_graph(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    write_graph(tmp_path / "net.onnx")
    write_card(tmp_path, **changes)
    with pytest.raises(InputError) as error:
        read(tmp_path)
    assert str(error.value) == f"{tmp_path / 'net.onnx'}: input 'images' {message}"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"colour": "RGB"}, r"net\.yaml:1: colour: Extra inputs are not permitted, got 'RGB'"),
        ({"layout": "NCHHW"}, r"net\.yaml:\d: layout: expected the letters N, C, H, W and, for clips, T, each once"),
        ({"range": 2}, r"net\.yaml:\d: range: Input should be 1 or 255, got 2"),
        (
            {"range": 255},
            r"net\.yaml: top level: mean and std of at most 0\.485 are of values from 0 to 1, but range is",
        ),
        ({"mean": [123.7, 116.3, 103.5]}, "mean and std of up to 123.7 are of values from 0 to 255, but range is 1"),
        ({"std": [0.2, 0.2, 0]}, "std must be above 0"),
        ({"clip": {"length": 4}}, "clip is for networks with T, but layout is NCHW"),
        ({"mean": [0.5, 0.5]}, r"net\.yaml:\d: mean.2: Field required"),
    ],
)
def test_cards_that_make_no_sense(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    write_graph(tmp_path / "net.onnx")
    write_card(tmp_path, **changes)
    with pytest.raises(InputError, match=message):
        read(tmp_path)


def test_without_a_card_the_error_shows_one_that_works(tmp_path: Path) -> None:
    write_graph(tmp_path / "net.onnx", "NTHWC")
    with pytest.raises(
        InputError, match=r"net\.onnx: no net\.yaml beside it.*; its input 'images' is float32 any x 3 x "
    ) as error:
        read(tmp_path)
    (tmp_path / "net.yaml").write_text(str(error.value).split("\n", 1)[1])
    assert read_network_card(tmp_path / "net.yaml").layout == "NTHWC"
    assert read(tmp_path).embed_frames(frames(2)).shape == (2, FEATURES)


def test_graphs_that_are_no_embedder(tmp_path: Path) -> None:
    write_card(tmp_path)
    (tmp_path / "net.onnx").write_bytes(b"damaged")
    with pytest.raises(InputError, match=r"net\.onnx: onnxruntime cannot load it: "):
        read(tmp_path)
    write_graph(tmp_path / "net.onnx", kind=TensorProto.INT64)
    with pytest.raises(
        InputError, match=r"net\.onnx: input 'images' is tensor\(int64\), expected one of tensor\(uint8\)"
    ):
        read(tmp_path)
    write_graph(tmp_path / "net.onnx", sizes={name: f"any {name}" for name in SIZES})  # MatMul wants 24 x 16
    write_card(tmp_path, height=32)
    with pytest.raises(InputError, match=r"net\.onnx: onnxruntime cannot run it: "):
        read(tmp_path)

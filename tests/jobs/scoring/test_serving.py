"""Searches of a gallery without a cluster: by embedding, by clip, while it changes; and the token."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ccvid.config import Recipe
from ccvid.model import ReIdModel
from ccvid.retrieval.embedding.embed import embed_tracklets
from ccvid.retrieval.embedding.store import open_store
from ccvid.trained_model import configured_backbone
from data_tools.datasets.clip_folder import ClipFolderOptions, read_clip_folder
from data_tools.errors import InputError
from data_tools.shard_plan import ShardOptions
from data_tools.shards import ShardFolder
from data_tools.storage import StorageFolder
from ray_jobs.scoring import clip_upload
from ray_jobs.scoring.clip_upload import decode_clip
from ray_jobs.scoring.http_requests import RefusedError
from ray_jobs.scoring.serving import SearchService, read_token
from tests.data.made_videos import make_video
from tests.jobs.scoring.test_gallery_scoring import EMBEDDER, TRACKLETS, store_at, table
from tests.made_shards import make_shards
from tests.method.test_trained_model import CLIP, SLIM


def search_of(folder: Path) -> SearchService:
    return SearchService(open_store(StorageFolder(str(folder)), EMBEDDER), (None, ()))


def ask(search: SearchService, **request: object) -> list[dict[str, Any]]:
    answer = search.search(json.dumps(request).encode(), "application/json", "")
    return list(json.loads(json.dumps(answer))["matches"])


def test_the_nearest_tracklets_of_an_embedding(tmp_path: Path) -> None:
    store_at(tmp_path, TRACKLETS)
    search = search_of(tmp_path)
    found = ask(search, embedding=[3, 0.5], top=3)  # at 9.5 degrees; its length does not matter
    assert [(match["id"], match["rank"], match["camera"]) for match in found] == [
        ("g1", 1, "east"),
        ("ann", 2, "east"),
        ("g2", 3, "west"),
    ]
    assert found[0]["score"] == pytest.approx(np.cos(np.arctan2(0.5, 3) - np.radians(10)), abs=1e-7)
    assert found[0]["start_time"] == "2026-11-20T08:00:00.000+00:00"
    assert found[0].keys() == {
        *("id", "rank", "person", "camera", "score", "probability"),
        *("start_seconds", "end_seconds", "start_time", "end_time"),
    }
    assert len(ask(search, embedding=[1, 0])) == len(TRACKLETS)
    assert search.health() == {"status": "ok"}


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b"", "Invalid JSON: EOF"),
        (b"[]", "request: "),
        (b"{}", "embedding: Field required"),
        (b"\xff\xfe", "Invalid JSON"),
        (b"[" * 100_000, "Invalid JSON: recursion limit exceeded"),
        (b'{"embedding": []}', "at least 1 item"),
        (b'{"embedding": [1, 2, 3]}', "request: embedding has 3 values, expected 2"),
        (b'{"embedding": [NaN, 1]}', "finite number"),
        (b'{"embedding": [1, -Infinity]}', "finite number"),
        (b'{"embedding": [1, 1e999]}', "finite number"),
        (b'{"embedding": [1, 1e300]}', "no direction in float32"),
        (b'{"embedding": [0, 1e-300]}', "no direction in float32"),
        (b'{"embedding": [0, 0]}', "no direction in float32"),
        (b'{"embedding": ["1", 1]}', "valid number"),
        (b'{"embedding": [true, 1]}', "valid number"),
        (b'{"embedding": [1, 1], "top": 0}', "top: Input should be greater than or equal to 1"),
        (b'{"embedding": [1, 1], "top": 1001}', "top: Input should be less than or equal to 1000"),
        (b'{"embedding": [1, 1], "top": "5"}', "top: Input should be a valid integer"),
        (b'{"embedding": [1, 1], "camera": "x"}', "camera: "),
    ],
)
def test_searches_that_make_no_sense(body: bytes, problem: str, tmp_path: Path) -> None:
    store_at(tmp_path, TRACKLETS)
    search = search_of(tmp_path)
    with pytest.raises(InputError) as error:
        search.search(body, "application/json", "")
    assert problem in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("query", ["top=0", "top=1001", "top=x", "top=\u0665", "to=5", "top=5&a=b", "top=", "a&" * 9])
def test_numbers_of_matches_that_make_no_sense(query: str, tmp_path: Path) -> None:
    store_at(tmp_path, TRACKLETS)
    search = search_of(tmp_path)
    with pytest.raises(InputError, match="request: "):
        search.search(b"", "video/mp4", query)


def test_the_gallery_is_searched_as_it_is(tmp_path: Path) -> None:
    search = search_of(tmp_path)
    assert ask(search, embedding=[1, 0]) == []
    store = store_at(tmp_path, TRACKLETS[:3])
    assert [match["id"] for match in ask(search, embedding=[1, 0])] == ["ann", "g1", "bob"]
    store.add(table(TRACKLETS[3:]))
    store.remove(ids=["ann"])
    assert [match["id"] for match in ask(search, embedding=[1, 0], top=2)] == ["g1", "g2"]
    store.remove(ids=[id for id, *_ in TRACKLETS])
    assert ask(search, embedding=[1, 0]) == []


def test_a_gallery_that_cannot_be_read_is_no_fault_of_the_client(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store_at(tmp_path, TRACKLETS)
    (tmp_path / "part-0.arrow").write_bytes(b"half")
    with pytest.raises(RefusedError, match="the gallery cannot be read") as refused:
        ask(search_of(tmp_path), embedding=[1, 0])
    assert refused.value.status == 503
    assert "part-0.arrow" in capsys.readouterr().out


@pytest.mark.parametrize("mode", ["jpeg", "source", "raw"])
def test_a_clip_gets_the_embedding_that_it_has_as_a_stored_clip(mode: str, tmp_path: Path) -> None:
    video = make_video(tmp_path / "clips" / "anna.mp4", 7, 48, 96)
    options = ShardOptions.model_validate({"format": mode, "height": 32, "width": 16})
    dataset = read_clip_folder(ClipFolderOptions(folder=tmp_path / "clips"))
    make_shards(dataset, tmp_path / "shards", options)
    torch.manual_seed(0)
    backbone = configured_backbone(SLIM, CLIP)
    model = ReIdModel(backbone, torch.nn.Identity()).eval()
    recipe = Recipe.model_validate({"clip": CLIP, "model": SLIM, "score": {"clips_per_batch": 2}})
    expected, _ = embed_tracklets(model, ShardFolder(tmp_path / "shards"), [0], recipe)
    clip = decode_clip(video.read_bytes(), options)
    found, clips = embed_tracklets(model, clip, [0], recipe)
    assert clip.rows[0].frame_count == 7
    assert torch.equal(found, expected)
    assert int(clips[0]) > 1


def test_clips_that_cannot_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ShardOptions(height=32, width=16)
    video = make_video(tmp_path / "anna.mp4", 9, 48, 96).read_bytes()
    for content in (b"", b"no video", bytes(1000), video[: len(video) // 2], b"#EXTM3U\n/etc/passwd\n"):
        with pytest.raises(InputError) as error:
            decode_clip(content, options)
        assert str(error.value).startswith("the clip: "), error.value
        assert "ccvid-clip-" not in str(error.value)
    monkeypatch.setattr(clip_upload, "MOST_FRAMES", 8)
    with pytest.raises(InputError, match="the clip has too many frames, expected at most 8"):
        decode_clip(video, options)
    monkeypatch.setattr(clip_upload, "MOST_FRAMES", 9)
    assert decode_clip(video, options).rows[0].frame_count == 9
    monkeypatch.setattr(clip_upload, "DECODING_SECONDS", 0.0)
    with pytest.raises(InputError, match="the clip: decoding took too long and was stopped"):
        decode_clip(make_video(tmp_path / "long.mp4", 4000, 48, 96).read_bytes(), ShardOptions(height=512, width=256))


def test_the_token_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "new" / "token"
    token = read_token(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert (len(token), read_token(path)) == (64, token)
    path.write_text(f" {token}\n")
    assert read_token(path) == token
    path.chmod(0o640)
    with pytest.raises(InputError, match=rf"token: can be used by others \(mode 640\).* chmod 600 {path}"):
        read_token(path)
    path.chmod(0o600)
    for content in ("", "short", "x" * 20 + "\n" + "y" * 20, "zw\u00f6lf" * 10, "a b" * 10):
        path.write_text(content)
        with pytest.raises(InputError, match="expected a token of at least 16"):
            read_token(path)

"""Licences are said only where they are known."""

from __future__ import annotations

from typing import get_args

from ccvid.setting_kinds import DatasetKind
from data_tools.datasets.released import RELEASED_SETS, UNSTATED, licence_of


def test_every_kind_has_words_and_none_is_guessed() -> None:
    said = {kind: licence_of(kind) for kind in get_args(DatasetKind)}
    assert all(said.values())
    assert {kind for kind in RELEASED_SETS if said[kind] != UNSTATED} == {"ccvid"}
    assert said["footage"] == said["clips"] == "your own data"
    assert RELEASED_SETS["ccvid"].hide_faces
    assert "faces must be unrecognisable" in said["ccvid"]

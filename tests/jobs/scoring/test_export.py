"""The export command, without Ray."""

from __future__ import annotations

from pathlib import Path

import pytest

from ccvid.exported_model import read_card
from data_tools.errors import InputError
from ray_jobs import export
from tests.method.test_trained_model import checkpoint


def test_a_checkpoint_is_exported_once(tiny_recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint(tmp_path / "trained")
    flags = ["--recipe", str(tiny_recipe), "--checkpoint", str(tmp_path / "trained"), "--to", str(tmp_path / "new")]
    export.main(flags)
    output = capsys.readouterr().out
    assert output.endswith(f"exported: {tmp_path / 'new'}\n")
    assert "model.onnx: " in output
    assert read_card(tmp_path / "new").checked["model.onnx"].clips > 8
    with pytest.raises(InputError, match="new: already exists; choose a new folder"):
        export.main(flags)
    with pytest.raises(InputError, match="none: no shards, but an export is checked on real clips"):
        export.main([*flags[:-1], str(tmp_path / "other"), "--data.shards", str(tmp_path / "none")])
    assert not (tmp_path / "other").exists()

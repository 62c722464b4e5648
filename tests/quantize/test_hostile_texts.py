"""Files that go along with a checkpoint, and are none."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from ttc.errors import CheckpointError
from ttc.quantize.run import _refuse_quantised
from ttc.quantize.texts import _copied


def test_what_goes_along(tmp_path: Path) -> None:
    for name in ("chat_template.jinja", "LICENSE", "x.safetensors"):
        (tmp_path / name).touch()
    (tmp_path / "assets.json").mkdir()
    assert [path.name for path in _copied(tmp_path)] == ["LICENSE", "chat_template.jinja"]


@pytest.mark.parametrize(
    "plant", [lambda path: path.symlink_to("nothing"), os.mkfifo], ids=["a link to nothing", "a pipe"]
)
def test_what_is_no_file_is_refused(tmp_path: Path, plant: Callable[[Path], None]) -> None:
    """It would be missing from the quantised checkpoint, without a word."""
    plant(tmp_path / "chat_template.jinja")
    with pytest.raises(CheckpointError, match=r"chat_template\.jinja: no regular file, or a link to nothing"):
        list(_copied(tmp_path))


def test_a_link_to_nothing_says_quantised(tmp_path: Path) -> None:
    (tmp_path / "hf_quant_config.json").symlink_to("nothing")
    with pytest.raises(CheckpointError, match=r"quantised already, says its hf_quant_config\.json"):
        _refuse_quantised(tmp_path)

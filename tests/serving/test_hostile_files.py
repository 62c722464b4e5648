"""Files that the service is told to read: bounded, and no pipe that it would wait for."""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from ttc.errors import InputError
from ttc.serving.service.auth import read_keys
from ttc.serving.service.service import _chat_template
from ttc.serving.service.settings import Settings


def template(path: Path) -> object:
    held = SimpleNamespace(chat_template=None, tokenizer=None, config=None)
    return _chat_template(Settings(chat_template=str(path)), cast(Any, SimpleNamespace(engine=held)))


def test_a_chat_template(tmp_path: Path) -> None:
    path = tmp_path / "x.jinja"
    path.write_text("{{ messages }}")
    assert template(path) is None, "there is no tokenizer"
    path.write_bytes(b"\xff")
    with pytest.raises(InputError, match="not UTF-8 text"):
        template(path)
    path.write_bytes(bytes(2**20 + 1))
    with pytest.raises(InputError, match="1048577 bytes, more than the 1048576"):
        template(path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="not a regular file"):
        template(tmp_path / "pipe")
    with pytest.raises(InputError, match=r"cannot be read \(No such file"):
        template(tmp_path / "none")


def test_a_key_file_is_bounded(tmp_path: Path) -> None:
    (tmp_path / "keys").touch(0o600)
    with (tmp_path / "keys").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(InputError, match="1099511627776 bytes, more than the"):
        read_keys(tmp_path / "keys")

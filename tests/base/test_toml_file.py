"""TOML that somebody else wrote."""

import time
from pathlib import Path

import pytest

from ttc.base.toml_file import read_toml
from ttc.errors import InputError


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a = ", "not TOML"),
        ("a = " + "[" * 30_000, "nested too deeply"),
        (".".join("a" * 30_000) + " = 1", "a line with more than 100 dots"),
        (".".join("a" * 90) + " = 1", "nested too deeply"),
        ("a = " + "9" * 5000, "not TOML|more than 40 digits"),
        ("a = " + "9" * 400, "more than 40 digits"),
        ("a = 1\n" + " " * 2**16, "more than the 65536"),
    ],
)
@pytest.mark.timeout(20)
def test_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "x.toml"
    path.write_text(text)
    began = time.process_time()
    with pytest.raises(InputError, match=message) as refusal:
        read_toml(path, InputError)
    assert time.process_time() - began < 1
    assert len(str(refusal.value)) < 500


def test_read(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_text("a = 1\n[b]\nc = [1.5, 'x']\n")
    assert read_toml(path, InputError) == {"a": 1, "b": {"c": [1.5, "x"]}}
    path.write_bytes(b"\xff")
    with pytest.raises(InputError, match="settings: not UTF-8"):
        read_toml(path, InputError, "settings")

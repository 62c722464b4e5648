"""What may be another user's."""

import os
from pathlib import Path

import pytest

from ttc.base.ownership import why_foreign


@pytest.mark.skipif(os.name != "posix", reason="needs users and modes")
def test_whose_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch(0o600)
    (tmp_path / "link").symlink_to("file")
    assert why_foreign((tmp_path / "file").lstat()) == ""
    assert why_foreign((tmp_path / "link").lstat()) == "is a symbolic link"
    for mode in (0o620, 0o602, 0o777):
        (tmp_path / "file").chmod(mode)
        assert "may be written to by others" in why_foreign((tmp_path / "file").lstat())
    (tmp_path / "file").chmod(0o644)
    assert why_foreign((tmp_path / "file").lstat()) == ""
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    assert why_foreign((tmp_path / "file").lstat()) == f"belongs to another user (number {os.getuid()})"

"""What may be another user's."""

import os
from pathlib import Path

import pytest

from ttc.base.ownership import why_foreign, why_foreign_folder


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


@pytest.mark.skipif(os.name != "posix", reason="needs users and modes")
def test_the_folder_of_a_cache_may_be_a_link_of_ones_own(tmp_path: Path) -> None:
    folder, link = tmp_path / "folder", tmp_path / "link"
    folder.mkdir(0o700)
    link.symlink_to(folder)
    assert why_foreign_folder(folder) == why_foreign_folder(link) == ""
    folder.chmod(0o777)
    assert "may be written to by others" in why_foreign_folder(link)
    folder.rmdir()
    assert why_foreign_folder(link) == "cannot be read (No such file or directory)"
    folder.touch(0o600)
    assert why_foreign_folder(folder) == why_foreign_folder(link) == "is no folder"


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="needs root, to be somebody else")
def test_a_link_of_somebody_else(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    os.chown(tmp_path / "link", 65534, 65534, follow_symlinks=False)
    assert why_foreign_folder(tmp_path / "link") == "is a link of another user (number 65534)"

"""Reading what others may have put there, and writing whole or not at all."""

import errno
import os
import threading
import time
from pathlib import Path

import pytest

from ttc.base.exchange import exchange
from ttc.base.files import OpenFile, read_bounded, write_whole
from ttc.errors import BundleError, InputError


def test_a_file_is_bounded_regular_and_no_link(tmp_path: Path) -> None:
    path, link, pipe = tmp_path / "file", tmp_path / "link", tmp_path / "pipe"
    path.write_bytes(b"12345")
    link.symlink_to(path)
    os.mkfifo(pipe)
    assert read_bounded(path, 5, BundleError) == read_bounded(link, 5, BundleError) == b"12345"
    for target, message in (
        (pipe, "pipe: not a regular file"),
        (tmp_path, "not a regular file"),
        (Path("/dev/zero"), "not a regular file"),
        (tmp_path / "none", "none: cannot be read"),
    ):
        with pytest.raises(BundleError, match=message):
            read_bounded(target, 5, BundleError)
    with pytest.raises(BundleError, match="5 bytes, more than the 4"):
        read_bounded(path, 4, BundleError)
    with pytest.raises(BundleError, match="link: a symbolic link"):
        read_bounded(link, 5, BundleError, links=False)


def test_a_file_that_is_cut_short_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(8192))
    with OpenFile(path, BundleError) as file:
        os.truncate(path, 4096)
        target = memoryview(bytearray(10))
        file.fill(target, 0)
        with pytest.raises(BundleError, match="ends at byte 4096, and had 8192 bytes"):
            file.fill(target, 4090)
        with pytest.raises(BundleError, match="cut short"):
            file.sha256()


def test_a_file_that_is_replaced_is_still_the_one_that_was_opened(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"first")
    with OpenFile(path, BundleError) as file:
        path.unlink()
        path.write_bytes(b"other")
        assert file.read(5) == b"first"


def test_a_write_replaces_or_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, link = tmp_path / "file", tmp_path / "link"
    write_whole(path, "één")
    assert path.read_bytes() == "één".encode()
    path.chmod(0o640)
    link.symlink_to(path)
    write_whole(link, b"two")
    assert link.is_symlink()
    assert path.read_bytes() == b"two"
    assert path.stat().st_mode & 0o777 == 0o640

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for step in ("fsync", "replace"):
        with monkeypatch.context() as patched:
            patched.setattr(os, step, full)
            with pytest.raises(InputError, match=r"file: cannot be written \(No space left on device\)"):
                write_whole(path, b"three")
        assert path.read_bytes() == b"two"
    with pytest.raises(InputError, match="cannot be written"):
        write_whole(tmp_path / "none" / "file", b"x")
    assert sorted(os.listdir(tmp_path)) == ["file", "link"]
    write_whole("/dev/null", b"x")


def test_what_dead_writers_left_is_swept(tmp_path: Path) -> None:
    old, young, other = (
        tmp_path / f".{name}.ttc-tmp-1-0123abc{i}" for i, name in enumerate(("file", "file", "else"))
    )
    for path in (old, young, other):
        path.touch()
    os.utime(old, (time.time() - 7200,) * 2)
    os.utime(other, (time.time() - 7200,) * 2)
    write_whole(tmp_path / "file", b"x")
    assert {path.name for path in tmp_path.iterdir()} == {"file", young.name, other.name}


def test_names_are_swapped_and_never_missing(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir()
    other.mkdir()
    (one / "a").touch()
    if not exchange(one, other):
        pytest.skip("this system cannot swap names")
    assert (other / "a").exists()
    missing, done = [], threading.Event()

    def look() -> None:
        while not done.is_set():
            missing.extend(() if one.exists() else (1,))

    watcher = threading.Thread(target=look)
    watcher.start()
    for _ in range(300):
        exchange(one, other)
    done.set()
    watcher.join()
    assert not missing
    with pytest.raises(FileNotFoundError):
        exchange(one, tmp_path / "none")

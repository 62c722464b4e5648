"""Replacing a bundle: at no moment without one, with many writers, and beside what killed writers left."""

import os
import shutil
import threading
from pathlib import Path

import pytest

from tests.formats.test_atomic_folder import MANIFEST, content, dead_process, fill, write
from ttc.base.exchange import exchange
from ttc.errors import InputError
from ttc.formats import atomic_folder
from ttc.formats.atomic_folder import bundle_writer


def test_what_killed_writers_left_inside_is_no_stranger(tmp_path: Path) -> None:
    """As a build into BUNDLE/engines that was killed."""
    destination = write(tmp_path / "bundle", "old")
    left = destination / f".engines.ttc-tmp-{dead_process()}-0123abcd"
    left.mkdir()
    (left / "step.engine").touch()
    (destination / ".verification.json.ttc-tmp-1-0123abcd").touch()
    write(destination, "new", force=True)
    assert content(destination) == "new"
    assert os.listdir(tmp_path) == ["bundle"]


def test_a_folder_that_somebody_writes_into_is_not_replaced(tmp_path: Path) -> None:
    destination = write(tmp_path / "bundle", "old")
    with (
        bundle_writer(destination / "engines"),
        pytest.raises(InputError, match=r"engines\.ttc-tmp-.*: another process is writing here"),
    ):
        write(destination, "new", force=True)
    assert content(destination) == "old"


def test_there_is_always_a_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    destination = write(tmp_path / "bundle", "old")
    if not exchange(destination, destination):
        pytest.skip("this system cannot swap names")
    missing, done, rename = [], threading.Event(), os.rename

    def look_once() -> None:
        missing.extend(() if (destination / "bundle.json").exists() else (1,))

    def look() -> None:
        while not done.is_set():
            look_once()

    def renamed(*given: Path) -> None:
        rename(*given)
        look_once()  # the moment that a thread would have to be lucky to see

    monkeypatch.setattr(os, "rename", renamed)

    watcher = threading.Thread(target=look)
    watcher.start()
    for i in range(40):
        write(destination, str(i), force=True)
    done.set()
    watcher.join()
    assert not missing
    assert content(destination) == "39"
    assert os.listdir(tmp_path) == ["bundle"]


@pytest.mark.parametrize("in_one_step", [True, False])
def test_eighty_writers_at_once(tmp_path: Path, in_one_step: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each replaces what is there; none fails, and one of them is left whole."""
    if not in_one_step:
        monkeypatch.setattr(atomic_folder, "exchange", lambda *_: False)
    destination = write(tmp_path / "bundle", "old")
    barrier, failures = threading.Barrier(80, timeout=60), []

    def run(text: str) -> None:
        try:
            with bundle_writer(destination, force=True) as draft:
                fill(draft, text)
                barrier.wait()
                draft.commit(MANIFEST)
        except Exception as fault:
            failures.append(fault)

    threads = [threading.Thread(target=run, args=(str(i),)) for i in range(80)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert content(destination) in map(str, range(80))
    assert os.listdir(tmp_path) == ["bundle"]


def test_what_came_between_is_put_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of somebody else's that takes the destination's place just before the swap."""
    destination = write(tmp_path / "bundle", "old")
    if not exchange(destination, destination):
        pytest.skip("this system cannot swap names")
    real, swaps = exchange, []

    def late(one: Path, other: Path) -> bool:
        if not swaps:
            shutil.rmtree(destination)
            destination.mkdir()
            (destination / "letter.txt").write_text("dear")
        swaps.append(1)
        return real(one, other)

    monkeypatch.setattr(atomic_folder, "exchange", late)
    with pytest.raises(InputError, match=r"holds 'letter\.txt'"):
        write(destination, "new", force=True)
    assert (destination / "letter.txt").read_text() == "dear"
    assert os.listdir(tmp_path) == ["bundle"]

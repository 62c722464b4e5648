"""What the cache takes for an entry: nothing that is odd, and nothing that others may have put there."""

import hashlib
import json
import os
import tempfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from ttc.errors import InputError
from ttc.exporter.engines.cache import EngineCache, cache_key

CONTENT = {"step.engine": b"code", "records.json": b"{}"}
KEY = cache_key({"of": "this test"})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A cache with one entry."""
    put(tmp_path / "cache")
    return tmp_path / "cache"


def put(folder: Path, key: str = KEY) -> None:
    """Keep `CONTENT`."""
    made = folder.parent / "made"
    made.mkdir(exist_ok=True)
    for name, data in CONTENT.items():
        (made / name).write_bytes(data)
    EngineCache(folder).put(key, {name: made / name for name in CONTENT}, {"role": "step"})


def taken(folder: Path, key: str = KEY) -> dict[str, bytes] | None:
    """What the cache gives under a key; None where it has nothing, and then nothing is left."""
    with tempfile.TemporaryDirectory() as target:
        names = EngineCache(folder).take(key, Path(target))
        assert sorted(path.name for path in Path(target).iterdir()) == sorted(names)
        return {name: (Path(target) / name).read_bytes() for name in names} or None


def rewrite(folder: Path, **changes: object) -> None:
    path = folder / KEY / "entry.json"
    path.write_text(json.dumps(json.loads(path.read_bytes()) | changes))


def test_what_was_put_is_there(folder: Path) -> None:
    assert taken(folder) == CONTENT
    assert [(entry.key, entry.about) for entry in EngineCache(folder).entries()] == [(KEY, {"role": "step"})]
    assert folder.stat().st_mode & 0o777 == 0o700
    assert taken(folder, "0" * 64) is None
    assert EngineCache(folder).clear() == 1
    assert list(folder.iterdir()) == []


def test_what_is_large_is_copied_a_piece_at_a_time(tmp_path: Path) -> None:
    """An engine holds its weights; here 64 MiB that are holes."""
    engine = tmp_path / "step.engine"
    with engine.open("wb") as file:
        file.truncate(2**26)
    cache, target = EngineCache(tmp_path / "cache"), tmp_path / "target"
    target.mkdir()
    tracemalloc.start()
    cache.put(KEY, {engine.name: engine}, {})
    assert cache.take(KEY, target) == (engine.name,)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**23
    assert (target / engine.name).read_bytes() == bytes(2**26)


def outside(folder: Path) -> None:
    (folder / "x").write_bytes(b"code")
    rewrite(folder, files={"../x": hashlib.sha256(b"code").hexdigest()})


def pipe(folder: Path, name: str) -> None:
    (folder / KEY / name).unlink()
    os.mkfifo(folder / KEY / name)


def linked(folder: Path) -> None:
    (folder / KEY).rename(folder.parent / "elsewhere")
    (folder / KEY).symlink_to(folder.parent / "elsewhere")


ODD: dict[str, Callable[[Path], object]] = {
    "a name that leads out": outside,
    "an absolute name": lambda f: rewrite(f, files={"/etc/hostname": "0" * 64}),
    "a list of files": lambda f: rewrite(f, files=[]),
    "files of numbers": lambda f: rewrite(f, files={"step.engine": 1}),
    "no object": lambda f: (f / KEY / "entry.json").write_text("[]"),
    "deep nesting": lambda f: (f / KEY / "entry.json").write_text('{"files":' + "[" * 200_000),
    "a large entry": lambda f: (f / KEY / "entry.json").write_text(" " * 2**21 + "{}"),
    "another digest": lambda f: (f / KEY / "step.engine").write_bytes(b"evil"),
    "a missing file": lambda f: (f / KEY / "step.engine").unlink(),
    "a pipe for an entry": lambda f: pipe(f, "entry.json"),
    "a pipe for a file": lambda f: pipe(f, "step.engine"),
    "a linked entry": linked,
    "an entry that others may write to": lambda f: (f / KEY).chmod(0o777),
}


@pytest.mark.parametrize("how", ODD)
@pytest.mark.timeout(20)
def test_what_is_odd_is_a_miss_and_goes(folder: Path, how: str) -> None:
    ODD[how](folder)
    assert taken(folder) is None
    assert not os.path.lexists(folder / KEY)
    put(folder)
    assert taken(folder) == CONTENT


@pytest.mark.skipif(os.name != "posix", reason="needs owners and modes")
def test_a_cache_that_others_may_write_to_is_not_used(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.chmod(0o770)
    assert taken(folder) is None
    with pytest.raises(InputError, match=r"may be written to by others.*chmod go-w.*TTC_CACHE_DIR"):
        put(folder)
    folder.chmod(0o700)
    user = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: user + 1)
    assert taken(folder) is None
    with pytest.raises(InputError, match=r"belongs to another user"):
        put(folder)
    monkeypatch.undo()
    assert taken(folder) == CONTENT


def test_what_dead_writers_left_is_swept(folder: Path) -> None:
    left = folder / f".{KEY[:16]}-1-0123abcd"
    left.mkdir()
    (left / "step.engine").write_bytes(b"half")
    (folder / "mine.txt").touch()
    put(folder, "1" * 64)
    assert sorted(path.name for path in folder.iterdir()) == sorted(["1" * 64, KEY, "mine.txt"])

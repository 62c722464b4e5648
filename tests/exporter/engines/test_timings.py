"""Whose timings of TensorRT a build takes."""

import os
from pathlib import Path

import pytest

from ttc.errors import InputError
from ttc.exporter.engines.build_settings import BuildSettings
from ttc.exporter.engines.cache import CACHE_VARIABLE
from ttc.exporter.engines.timings import read_timings, timing_file


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_they_lie_in_the_cache_unless_a_file_is_named(cache: Path) -> None:
    assert timing_file(BuildSettings(backend="tensorrt"), "11.4") == cache / "timings-11.4"
    cache.mkdir(0o700)
    assert timing_file(BuildSettings(backend="tensorrt"), "11.4") == cache / "timings-11.4"
    named = BuildSettings(backend="tensorrt", timing_cache="own", sign="key.pem")
    assert timing_file(named, "11.4") == Path("own")
    assert timing_file(BuildSettings(backend="tensorrt", cache=False), "11.4") is None
    assert timing_file(BuildSettings(), "1.7") is None


def test_a_build_that_signs_takes_none_of_the_cache(cache: Path) -> None:
    assert timing_file(BuildSettings(backend="tensorrt", sign="key.pem"), "11.4") is None


@pytest.mark.skipif(os.name != "posix", reason="needs users and modes")
def test_those_of_others_are_not_taken(cache: Path) -> None:
    cache.mkdir()
    cache.chmod(0o770)
    assert timing_file(BuildSettings(backend="tensorrt"), "11.4") is None


def test_what_is_read(tmp_path: Path) -> None:
    assert read_timings(tmp_path / "none") == b""
    (tmp_path / "timings").write_bytes(b"measured")
    assert read_timings(tmp_path / "timings") == b"measured"
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="pipe: not a regular file"):
        read_timings(tmp_path / "pipe")
    with (tmp_path / "endless").open("wb") as file:
        file.truncate(2**30 + 1)
    with pytest.raises(InputError, match="more than the"):
        read_timings(tmp_path / "endless")

"""The soak and the threads, for seconds; `make soak` runs them for long."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.soak import threads
from tests.soak.run import SAMPLES, Sample, grown, main
from ttc.formats.shipped import shipped_bundle

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


@pytest.fixture
def quick_switches() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    yield
    sys.setswitchinterval(before)


def test_a_short_soak(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    output = tmp_path / "soak.json"
    main(["--generations", "100", "--loads", "5", "-o", str(output)])
    record = json.loads(output.read_text())
    for name, count in (("loads", 5), ("generations", 100)):
        found = record[name]["samples"]
        assert found[-1]["done"] == count
        # So few tell little of memory; descriptors and threads are given back each time.
        assert not [line for line in record[name]["grown"] if not line.startswith("rss")]


def test_what_grows_is_told() -> None:
    flat = [Sample(i, 0.0, 10**8, 6, 1) for i in range(SAMPLES)]
    assert grown(flat) == []
    leaks = [Sample(i, 0.0, 10**8 + i * 10**6, 6 + i // 10, 1) for i in range(SAMPLES)]
    assert [line.split(":")[0] for line in grown(leaks)] == ["rss_bytes", "descriptors"]
    warming = [Sample(i, 0.0, 10**8 + min(i, 4) * 10**7, 6, 1) for i in range(SAMPLES)]
    assert grown(warming) == []


@pytest.mark.usefixtures("quick_switches")
def test_threads_and_tasks_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    told = threads.rounds(shipped_bundle(), seconds=0.0, seed=1, least=2)
    assert told["whole"] + told["left"] + told["cancelled"] + told["closed"] >= 2 * threads.THREADS

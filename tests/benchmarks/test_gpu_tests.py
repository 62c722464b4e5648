"""The stage of the GPU benchmark that runs the tests: what it tells of some that cannot pass here."""

import pytest

from benchmarks import gpu_tests
from benchmarks.gpu_table import table

# Where TTC_REQUIRE=gpu, these fail for want of one.
SOME = ("tests/plugins/test_counter_rng.py", "tests/plugins/test_page_write.py")


@pytest.fixture(autouse=True)
def in_one_process(monkeypatch):
    find = gpu_tests.importlib.util.find_spec
    monkeypatch.setattr(
        gpu_tests.importlib.util, "find_spec", lambda name: None if name == "xdist" else find(name)
    )


def lines_of(run):
    """Its lines, and the fault that it ended by."""
    lines = []

    def read():
        for line in run:
            lines.append(line)  # noqa: PERF402  # what came before the fault counts

    with pytest.raises(SystemExit) as caught:
        read()
    return lines, str(caught.value)


@pytest.mark.skipif("__import__('torch').cuda.is_available()", reason="there is a GPU, so they pass")
def test_what_fails_is_told_and_is_a_fault():
    lines, fault = lines_of(gpu_tests.run_tests(240, dry=False, folders=SOME))
    failed = [line["failed_test"] for line in lines if "failed_test" in line]
    assert failed
    assert all(name.startswith("tests/plugins/") for name in failed)
    assert lines[-1].get("failed", 0) + lines[-1].get("error", 0) == len(failed)
    assert not lines[-1]["stopped"]
    assert fault == f"pytest ended with 1: {len(failed)} failed"
    assert f"{len(failed)} tests failed" in table([{"stage": "tests", **line} for line in lines])


def test_it_is_stopped_in_time_with_what_it_found():
    lines, fault = lines_of(gpu_tests.run_tests(0.2, dry=False, folders=SOME))
    assert lines[-1]["stopped"]
    assert fault == "stopped after 0.2 s: 0 failed"


def test_both_forms_of_a_tests_end():
    one = "tests/plugins/test_a.py::test_b[cuda-1 x] FAILED     [ 66%]"
    several = "[gw3] [ 33%] PASSED tests/plugins/test_a.py::test_b[cuda-1 x] "
    uncollected = "ERROR tests/plugins/test_a.py - ModuleNotFoundError: no such module"
    lines = one, several, uncollected
    found = [next(filter(None, (end.match(line) for end in gpu_tests.ENDS))) for line in lines]
    assert [(each["outcome"], each["name"].strip()) for each in found] == [
        ("FAILED", "tests/plugins/test_a.py::test_b[cuda-1 x]"),
        ("PASSED", "tests/plugins/test_a.py::test_b[cuda-1 x]"),
        ("ERROR", "tests/plugins/test_a.py"),
    ]
    summary = "FAILED tests/plugins/test_a.py::test_b[cuda-1 x] - assert 0"
    assert not any(end.match(summary) for end in gpu_tests.ENDS), "told before"

"""What all tests share: skips that can be made failures, and one hypothesis profile."""

import ctypes
import fcntl
import functools
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from ttc.runtime.engine import Engine

# The same examples in every run, so that a failure seen once is seen again. No deadline: a first call loads
# and compiles.
settings.register_profile("ttc", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("ttc")

_SWITCH = "TTC_REQUIRE"
_DEVICES = ("gpu",)


def _required() -> frozenset[str]:
    """Devices that this run promises: where one is missing, its tests fail instead of being skipped."""
    words = frozenset(word for word in os.environ.get(_SWITCH, "").split(",") if word)
    if unknown := sorted(words.difference(_DEVICES)):
        raise pytest.UsageError(
            f"{_SWITCH} names {unknown}; it is a comma-separated list of {list(_DEVICES)}"
        )
    return words


@functools.cache
def _has_gpu() -> bool:
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:  # no driver: known without importing torch
        return False
    import torch

    return torch.cuda.is_available()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="also run what is marked full")


def pytest_configure() -> None:
    _required()
    if not _has_gpu():  # Triton decides when a kernel is defined, so before the first import of one
        os.environ.setdefault("TRITON_INTERPRET", "1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests first: of processes that share files out, none has one left at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow") is not None}
    items.sort(key=lambda item: item.path not in slow)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("full") is not None and not item.config.getoption("--full"):
        pytest.skip("one of many combinations, and others stand for it: PYTEST_ADDOPTS=--full make test")
    if item.get_closest_marker("gpu") is None or _has_gpu():
        return
    message = "torch.cuda.is_available() is False"
    if "gpu" in _required():
        pytest.fail(f"{_SWITCH}=gpu, but {message}", pytrace=False)
    pytest.skip(f"needs a GPU: {message}")


def pytest_sessionstart() -> None:
    """One thread for torch: these models are so small that a second one only waits for the first."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def _exported_once(shared: Path, name: str, dtype: str | None) -> Path:
    """The bundle in a folder that all test processes share; the first to ask makes it, the others wait."""
    import ttc

    root = Path(__file__).parents[1]
    checkpoint = root / "ttc" / name if name == "miniature" else root / "tests" / "golden" / name
    bundle = shared / f"{name.replace('/', '-')}-{dtype}.bundle"
    with (shared / f"{bundle.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not bundle.exists():
            from tests.support.torch_tables import share_translations

            share_translations()
            ttc.export(checkpoint, bundle, dtype)
    return bundle


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`bundles(name, dtype="float32")`: the bundle of a golden checkpoint ("tiny_a", "quantised/tiny_fp8") or
    of the miniature, exported once for all processes of the run.
    """
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder = tmp_path_factory.mktemp("bundles")

    exported: dict[tuple[str, str | None], Path] = {}

    def export(name: str, dtype: str | None = "float32") -> Path:
        if (name, dtype) not in exported:
            made = _exported_once(shared, name, dtype)
            # A copy of one's own: some tests damage theirs.
            exported[name, dtype] = Path(shutil.copytree(made, folder / made.name))
        return exported[name, dtype]

    return export


@pytest.fixture(scope="session")
def engines(bundles: Callable[..., Path]) -> Iterator[Callable[..., Engine]]:
    """`engines(name, backend, dtype="float32")`: a loaded engine, shared by the session's tests."""
    loaded: dict[tuple[str, str, str | None], Engine] = {}

    def load(name: str, backend: str, dtype: str | None = "float32") -> Engine:
        import ttc

        kind, _, device = backend.partition("@")
        key = (name, backend, dtype)
        if key not in loaded:
            loaded[key] = ttc.load(bundles(name, dtype), kind, device or None)
        return loaded[key]

    yield load
    for engine in loaded.values():
        engine.close()


@pytest.fixture(scope="session")
def tiny(bundles: Callable[..., Path]) -> Path:
    """A bundle without tokenizer."""
    return bundles("tiny_a")


@pytest.fixture(scope="session")
def mini(bundles: Callable[..., Path]) -> Path:
    """A bundle with tokenizer, in bfloat16."""
    return bundles("miniature", None)

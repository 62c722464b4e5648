"""What all tests share: skips that can be made failures, and one hypothesis profile."""

import functools
import os

import pytest
from hypothesis import settings

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
    import torch

    return torch.cuda.is_available()


def pytest_configure() -> None:
    _required()


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") is None or _has_gpu():
        return
    message = "torch.cuda.is_available() is False"
    if "gpu" in _required():
        pytest.fail(f"{_SWITCH}=gpu, but {message}", pytrace=False)
    pytest.skip(f"needs a GPU: {message}")

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.service import Running, running
from ttc.runtime.engine import Engine


@pytest.fixture(scope="session")
def served(mini: Path) -> Iterator[Running]:
    """The miniature, served; for tests that leave it as it is."""
    with running(mini) as up:
        yield up


@pytest.fixture
def talker(engines: Callable[..., Engine]) -> Engine:
    """The miniature on an engine of its own."""
    return engines("miniature", "onnxruntime", None)

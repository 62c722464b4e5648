from collections.abc import Callable

import pytest

from ttc.runtime.engine import Engine

BACKENDS = ["onnxruntime", "torch", pytest.param("torch@cuda", marks=pytest.mark.gpu)]


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    """A backend, as `engines` takes it: name, or name@device."""
    name: str = request.param
    return name


@pytest.fixture
def ort(engines: Callable[..., Engine]) -> Engine:
    """A tiny model without tokenizer."""
    return engines("tiny_a", "onnxruntime")


@pytest.fixture
def talker(engines: Callable[..., Engine]) -> Engine:
    """The miniature, which has a tokenizer."""
    return engines("miniature", "onnxruntime", None)

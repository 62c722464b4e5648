import pytest

BACKENDS = ["onnxruntime", "torch", pytest.param("torch@cuda", marks=pytest.mark.gpu)]


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    """A backend, as `engines` takes it: name, or name@device."""
    name: str = request.param
    return name

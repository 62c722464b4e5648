"""The devices kernels run on: the interpreter without a GPU, CUDA with one."""

import os

import pytest


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> str:
    device: str = request.param
    if device == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("this machine has a GPU: kernels are compiled, not interpreted")
    return device

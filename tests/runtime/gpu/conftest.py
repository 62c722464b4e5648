"""Engines over a fake device."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.fake_device import FakeDevice, no_compiler, with_loop_kernel
from ttc.model.bundle import Bundle
from ttc.runtime.engine import Engine
from ttc.runtime.gpu.backend import DeviceBackend


@pytest.fixture
def fake_device() -> FakeDevice:
    return with_loop_kernel()


@pytest.fixture(scope="session")
def tower_weights(bundles: Callable[..., Any]) -> Callable[[str], Any]:
    """`tower_weights(name)`: configuration and weights as torch tensors of a golden checkpoint."""
    import torch  # not above: this file is imported before the session sets torch's threads

    read: dict[str, Any] = {}

    def load(name: str) -> Any:
        if name not in read:
            with Bundle.open(bundles(name)) as bundle:
                weights = {w: torch.from_numpy(bundle.read_weight(w).copy()) for w in bundle.weights}
                read[name] = (bundle.config, weights)
        return read[name]

    return load


@pytest.fixture
def on_device(
    fake_device: FakeDevice, tower_weights: Callable[[str], Any]
) -> Iterator[Callable[..., Engine]]:
    """`on_device(name, level=None)`: an engine over the fake device, computing with the naive ops."""
    from ttc.plugins.naive import run_naive
    from ttc.runtime.backends.torch.executor import TorchExecutor

    made = []

    def make(
        name: str, level: int | None = None, compile_kernel: Any = no_compiler, **changes: Any
    ) -> Engine:
        config, weights = tower_weights(name)
        executor = TorchExecutor(config, fake_device, weights, "float32", run_naive, None)
        for attribute, value in changes.items():
            setattr(executor, attribute, value)
        backend = DeviceBackend(config, fake_device, executor, level, compile_kernel)
        made.append(Engine(backend))
        return made[-1]

    yield make
    for engine in made:
        engine.close()

"""The block loop's kernel as the pretended device runs it, and engines over that device."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

from tests.support.host_device import HostDevice
from ttc.bundle import Bundle
from ttc.plugins.naive import run_naive
from ttc.profiles import load_profile
from ttc.runtime.backends.torch.executor import TorchExecutor
from ttc.runtime.engine import Engine
from ttc.runtime.gpu import block_loop
from ttc.runtime.gpu.backend import DeviceBackend


def block_update(device: HostDevice, *arguments: Any) -> None:
    """`block_loop.update` with the arguments of the CUDA kernel."""
    next_ids, predicted, confidence, masked, B, L, condition, block, t, step, left, records = arguments
    shape = {"i": np.dtype(np.int32), "f": np.dtype(np.float32)}

    def at(address: int, kind: str, *dims: Any) -> Any:
        size = tuple(int(dim) for dim in dims)
        return device.at(address, 4 * int(np.prod(size))).view(shape[kind]).reshape(size)

    goes_on = block_loop.update(
        at(next_ids, "i", B, L),
        at(predicted, "i", B, L),
        at(confidence, "f", B, L),
        at(masked, "i", B),
        at(block, "i", B, L),
        at(t, "f", B),
        at(step, "i", B),
        at(left, "i", B),
        at(records, "i", L, block_loop.record_words(int(B), int(L))),
    )
    if condition:
        device.condition = int(goes_on)


def no_compiler(name: str, source: str, compute_capability: str) -> bytes:
    """The pretended device runs no PTX."""
    return b""


@pytest.fixture
def host_device() -> HostDevice:
    return HostDevice({block_loop.KERNEL: block_update})


@pytest.fixture(scope="session")
def tower_weights(bundles: Callable[..., Any]) -> Callable[[str], Any]:
    """`tower_weights(name)`: configuration and weights as torch tensors of a golden checkpoint."""
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
    host_device: HostDevice, tower_weights: Callable[[str], Any]
) -> Iterator[Callable[..., Engine]]:
    """`on_device(name, level=None)`: an engine over the pretended device, computing with the naive ops."""
    made = []

    def make(name: str, level: int | None = None, **changes: Any) -> Engine:
        config, weights = tower_weights(name)
        executor = TorchExecutor(config, host_device, weights, "float32", run_naive, None)
        for attribute, value in changes.items():
            setattr(executor, attribute, value)
        backend = DeviceBackend(config, host_device, executor, level, no_compiler)
        made.append(Engine(backend, None, load_profile("cpu"), None))
        return made[-1]

    yield make
    for engine in made:
        engine.close()

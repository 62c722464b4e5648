"""Engines over a fake device."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.fake_device import FakeDevice, no_compiler, with_loop_kernel
from ttc.model.bundle import Bundle
from ttc.model.weights import CONTEXT, DENOISER, joined_projections
from ttc.runtime.engine import Engine
from ttc.runtime.gpu.pooled_backend import PooledBackend


@pytest.fixture
def fake_device() -> FakeDevice:
    return with_loop_kernel()


@pytest.fixture(scope="session")
def tower_weights(bundles: Callable[..., Any]) -> Callable[[str], Any]:
    """`tower_weights(name)`: configuration of a golden checkpoint, and its weights as torch tensors, those
    that `ttc.load` joins among them.
    """
    import torch  # not above: this file is imported before the session sets torch's threads

    read: dict[str, Any] = {}

    def load(name: str) -> Any:
        if name not in read:
            with Bundle.open(bundles(name)) as bundle:
                weights = {w: torch.from_numpy(bundle.read_weight(w).copy()) for w in bundle.weights}
                for tower in (CONTEXT, DENOISER):
                    for whole, parts in joined_projections(bundle.config, tower).items():
                        weights[whole] = torch.cat([weights[part] for part in parts])
                read[name] = (bundle.config, weights)
        return read[name]

    return load


@pytest.fixture
def on_device(
    fake_device: FakeDevice, tower_weights: Callable[[str], Any]
) -> Iterator[Callable[..., Engine]]:
    """`on_device(name, level=None)`: an engine over the fake device; its ops are `run_op`, the naive ones.
    Where that `takes_out`, as kernels do, weights lie as `ttc.load` lays them for kernels.
    """
    from ttc.plugins.naive import run_naive
    from ttc.runtime.backends.torch.executor import TorchExecutor
    from ttc.runtime.backends.torch.load import lay_for_kernels

    made = []

    def make(
        name: str,
        level: int | None = None,
        compilers: Any = (no_compiler,),
        run_op: Any = run_naive,
        takes_out: bool = False,
        **changes: Any,
    ) -> Engine:
        config, weights = tower_weights(name)
        if takes_out:
            weights = {weight: tensor.clone() for weight, tensor in weights.items()}
            lay_for_kernels(config, (CONTEXT, DENOISER), weights)
        executor = TorchExecutor(config, fake_device, weights, "float32", run_op, None, takes_out=takes_out)
        for attribute, value in changes.items():
            setattr(executor, attribute, value)
        backend = PooledBackend(config, fake_device, executor, level, compilers)
        made.append(Engine(backend))
        return made[-1]

    yield make
    for engine in made:
        engine.close()


@pytest.fixture(scope="session")
def engine_folders(
    bundles: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """`engine_folders(name, form)`: a set of fake engines."""
    from tests.support.fake_engines import write_engines  # not above, as torch

    made: dict[tuple[str, str], Path] = {}

    def get(name: str, form: str = "cut") -> Path:
        if (name, form) not in made:
            folder = tmp_path_factory.mktemp("engines") / f"{name}-{form}"
            made[name, form] = write_engines(bundles(name), folder, form)
        return made[name, form]

    return get


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The fake TensorRT-RTX that is installed."""
    from tests.support.fake_engines import install

    return install(monkeypatch)


@pytest.fixture
def fake_gpu(monkeypatch: pytest.MonkeyPatch, api: Any) -> FakeDevice:
    """The device that engines are loaded onto."""
    from tests.support.fake_engines import load_onto

    device = with_loop_kernel()
    load_onto(monkeypatch, [device])
    return device


@pytest.fixture
def fake_gpus(monkeypatch: pytest.MonkeyPatch, api: Any) -> list[FakeDevice]:
    """Two of them."""
    from tests.support.fake_engines import load_onto

    devices = [with_loop_kernel(name=f"cuda:{i}") for i in range(2)]
    load_onto(monkeypatch, devices)
    return devices

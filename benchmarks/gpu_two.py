"""One GPU against two: a round is a block filled and then read by the context tower.

`python -m benchmarks.gpu --two`, where there are two GPUs. Weights and routing as in `benchmarks.gpu`; the
model is shortened until both towers fit on one GPU. A round on two GPUs is measured with the copies of the
state and without them, and the copies alone: what the first two differ by is the part of the third that is
not hidden. Without copies the tokens are wrong, the work is the same.

Has not run on a GPU yet.
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np

from benchmarks import gpu_reckoning as reckoning
from benchmarks.export_real_size import CONFIG
from benchmarks.gpu_measuring import (
    CAPACITY,
    CONTEXT_TOKENS,
    KeepsDevice,
    OneGpu,
    TowerWeights,
    fill_block,
    forced_routing,
    with_context,
)
from benchmarks.gpu_reckoning import BLOCK, Work
from benchmarks.gpu_stages import SMALL
from ttc.model.config import ModelConfig
from ttc.model.weights import CONTEXT, DENOISER
from ttc.plugins.naive import run_naive
from ttc.runtime.backends.torch.executor import TorchExecutor
from ttc.runtime.gpu.backend import DeviceBackend
from ttc.runtime.gpu.device import Device, DeviceArray
from ttc.runtime.gpu.device_runtime import CompileKernel
from ttc.runtime.gpu.nvrtc import compile_cubin, compile_ptx
from ttc.runtime.gpu.tower_parallel import TowerParallelBackend
from ttc.runtime.interface.backend import Backend, BlockInputs
from ttc.runtime.interface.state import ContextState

__all__ = ["both_fit", "compare", "rounds"]

STEPS = 6  # about what a block takes as published


def rounds(*, dry: bool) -> list[dict[str, Any]]:
    """Return the lines of `compare` for the GPUs at hand, or for two fake devices and a tiny model."""
    if dry:
        from tests.support.fake_device import no_compiler, with_loop_kernel

        config = ModelConfig.from_hf(CONFIG | SMALL)
        fakes = [with_loop_kernel(name=f"cuda:{i}") for i in range(2)]
        return compare(config, fakes, run_naive, (1, 2), 4, 2, [no_compiler])
    from ttc.plugins.triton import run_triton
    from ttc.runtime.gpu.cuda import CudaDevice

    devices = [CudaDevice(i, "torch") for i in range(2)]
    config = both_fit(ModelConfig.from_hf(CONFIG), devices[0].free_bytes()[0])
    return compare(config, devices, run_triton, reckoning.BATCHES, 68, 40)


def both_fit(config: ModelConfig, free: int) -> ModelConfig:
    """Return the model, or its first layers, of which both towers fit into `free` bytes."""
    return reckoning.shortened(config, reckoning.fit(config, free // 2).layers)


def compare(
    config: ModelConfig,
    devices: Sequence[Device],
    run_op: Callable[..., Any],
    batches: Sequence[int],
    distinct: int,
    rounds: int,
    compilers: Sequence[CompileKernel] = (compile_ptx, compile_cubin),
) -> list[dict[str, Any]]:
    """Return a line for each batch: milliseconds of a round on one GPU and on two, of the copies alone, and
    the share of those that the rest hides.
    """

    def on(device: Device, weights: Sequence[TowerWeights], work: Work, backend: type[B]) -> B:
        count = reckoning.distinct_experts(config, work)
        routed = weights[0].on_device(reckoning.routing(config, work.batch * work.length, count))
        tensors = {name: tensor for tower in weights for name, tensor in tower.laid_for(run_op).items()}
        executor = TorchExecutor(
            config,
            device,
            tensors,
            "bfloat16",
            forced_routing(run_op, routed),
            None,
            used=[tower.name for tower in weights],
            pooled=issubclass(backend, OneGpu),
            takes_out=run_op is not run_naive,
        )
        return backend(config, device, executor, None, compilers)

    found: list[dict[str, Any]] = [{"batch": batch} for batch in batches]
    first, second = devices
    with _towers(config, (first, first)) as towers:
        for line in found:
            work = Work("denoise", line["batch"], distinct)
            with contextlib.closing(on(first, towers, work, OneGpu)) as backend:
                line["one_ms"] = _round_ms(backend, line["batch"], rounds)
    with _towers(config, (first, second)) as towers:
        for line in found:
            work = Work("denoise", line["batch"], distinct)
            pairs = zip(devices, towers, strict=True)
            halves = (on(device, [tower], work, _Half) for device, tower in pairs)
            with contextlib.closing(_Measured(*halves)) as both:
                line["two_ms"] = _round_ms(both, line["batch"], rounds)
                line |= both.copies_alone(line["batch"], rounds)
                both.sends = False
                line["two_without_copies_ms"] = _round_ms(both, line["batch"], rounds)
            shown = line["two_ms"] - line["two_without_copies_ms"]
            line["hidden_share"] = 1 - shown / line["copies_ms"]
    return found


class _Half(KeepsDevice, DeviceBackend):
    """A tower on one of two GPUs."""


B = TypeVar("B", OneGpu, _Half)


class _Measured(TowerParallelBackend):
    """Two GPUs whose copies can be left out."""

    sends = True

    def _send(self, source: Sequence[DeviceArray], target: Sequence[DeviceArray]) -> None:
        if self.sends:
            super()._send(source, target)

    def copies_alone(self, batch: int, repeats: int) -> dict[str, Any]:
        """Return milliseconds and bytes of what follows the reading of a block."""
        state = self.new_state(batch, CAPACITY)
        source, _ = self._buffers(state)
        self._send_block(state, BLOCK, state.lengths)
        self._denoiser.device.wait()
        start = time.perf_counter()
        for _ in range(repeats):
            self._send_block(state, BLOCK, state.lengths)
        self._denoiser.device.wait()
        seconds = (time.perf_counter() - start) / repeats
        pieces = [*source.changed_mamba(), *source.changed_kv(BLOCK)]
        return {"copies_ms": seconds * 1e3, "copied_bytes": sum(piece.nbytes for piece in pieces)}


def _round_ms(backend: Backend, batch: int, rounds: int) -> float:
    """Return the milliseconds of a round, after three that capture the graphs."""
    state = (
        with_context(backend, batch) if isinstance(backend, OneGpu) else backend.new_state(batch, CAPACITY)
    )
    for _ in range(3):
        _round(backend, state)
    start = time.perf_counter()
    for _ in range(rounds):
        _round(backend, state)
    return (time.perf_counter() - start) / rounds * 1e3


def _round(backend: Backend, state: ContextState) -> None:
    batch = state.batch
    state.lengths[:] = CONTEXT_TOKENS
    masks = np.full((batch, BLOCK), backend.config.mask_token_id, np.int32)
    # No prediction is more probable than 1: each step commits what the steps left demand.
    never, greedy = np.ones(batch, np.float32), np.zeros(batch, np.float32)
    inputs = BlockInputs(masks, STEPS, never, greedy, np.zeros(batch, np.int64))
    block = fill_block(backend, state, inputs)[-1].next_block_ids
    last = np.full((batch, 1), BLOCK - 1, np.int32)
    backend.context(state, block, np.full(batch, BLOCK, np.int32), last)


@contextlib.contextmanager
def _towers(config: ModelConfig, devices: Sequence[Device]) -> Iterator[list[TowerWeights]]:
    """Return random weights of the context tower and the denoiser, each on its device."""
    with contextlib.ExitStack() as stack:
        pairs = zip(devices, (CONTEXT, DENOISER), strict=True)
        yield [stack.enter_context(TowerWeights(config, device, tower)) for device, tower in pairs]

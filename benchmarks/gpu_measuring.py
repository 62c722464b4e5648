"""Times one tower of random weights on a device: single passes, whole blocks."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Self, cast

import numpy as np
import numpy.typing as npt
import torch

from benchmarks import gpu_reckoning as reckoning
from benchmarks.gpu_reckoning import BLOCK, Work
from ttc.model.config import ModelConfig
from ttc.model.weights import DENOISER, expert_stacks, joined_projections
from ttc.plugins.moe_routing import MOE_ROUTING
from ttc.plugins.naive import run_naive
from ttc.plugins.weight_tiles import as_tiles
from ttc.runtime.backends.torch.executor import TorchExecutor, view_of
from ttc.runtime.gpu.device import Device, Scope
from ttc.runtime.gpu.device_runtime import CompileKernel
from ttc.runtime.gpu.lengths import row_bucket
from ttc.runtime.gpu.nvrtc import compile_cubin, compile_ptx
from ttc.runtime.gpu.over_device import OverDevice
from ttc.runtime.gpu.pooled_backend import PooledBackend
from ttc.runtime.gpu.pooled_state import PooledState, pooled
from ttc.runtime.gpu.sampling import SAMPLE_NOTHING, sampling_inputs
from ttc.runtime.interface.backend import Backend, BlockInputs, StepInputs, StepOutputs
from ttc.runtime.interface.sampling import SamplingParams
from ttc.runtime.interface.state import ContextState

CAPACITY, CONTEXT_TOKENS = 2048, 1024


class Bench:
    """One model on one device: makes a tower's weights, and times what runs on them.

    `run_op` computes the ops, and may be told where outputs go (`takes_out`); the naive ones are what the
    eager towers use.
    """

    def __init__(
        self,
        config: ModelConfig,
        device: Device,
        run_op: Callable[..., Any],
        repeats: int,
        blocks: int,
        compilers: Sequence[CompileKernel] = (compile_ptx, compile_cubin),
        batches: tuple[int, ...] = reckoning.BATCHES,
        distinct: tuple[int, ...] = reckoning.DISTINCT,
        takes_out: bool = False,
    ) -> None:
        self._takes_out = takes_out
        self.config, self.device = config, device
        self._run_op, self._repeats, self._blocks = run_op, repeats, blocks
        self._compilers, self._batches, self._distinct = compilers, batches, distinct

    def tower(self, tower: str) -> "TowerWeights":
        """One tower's weights on the device, as a context manager."""
        return TowerWeights(self.config, self.device, tower)

    def works(self, tower: str) -> list[Work]:
        """What is measured on this tower; counts of experts that its tokens cannot reach are left out."""
        kinds = ("denoise",) if tower == DENOISER else ("extend", "ar")
        found: dict[tuple[str, int, int], Work] = {}
        for kind in kinds:
            for batch in self._batches:
                for distinct in self._distinct:
                    work = Work(kind, batch, distinct)
                    found.setdefault((kind, batch, reckoning.distinct_experts(self.config, work)), work)
        return list(found.values())

    def seconds(
        self, weights: "TowerWeights", work: Work, *, eager: bool = False
    ) -> tuple[float, dict[str, Any]]:
        """Return the seconds of one run, many enqueued and one wait, and `in_force`."""
        with self._backend(weights, work, 0 if eager else 1, eager=eager) as backend:
            state = with_context(backend, work.batch)
            backend.pool.cover(np.array(state.places.numbers), state.lengths, work.length)
            batch = row_bucket(work.batch)
            placement = backend.pool.placement(np.array(state.places.numbers, np.int32), batch)
            lane = backend.pool.lane(None)
            if work.kind == "denoise":
                buffers = lane.block(batch, BLOCK)
                buffers.inputs.upload(**_block_inputs(batch, self.config.mask_token_id), **placement)
                steps = [buffers.denoise, buffers.commit]
            else:
                buffers = lane.context(batch, work.length, 1, save=False)
                # AR needs a token of its one position; nobody asks for one after an extension.
                choice = sampling_inputs(_greedy(batch)) if work.kind == "ar" else SAMPLE_NOTHING
                small = {"input_ids": 5, "commit_len": work.length, "logit_positions": 0}
                buffers.inputs.upload(**small, lengths=CONTEXT_TOKENS, **choice, **placement)
                steps = [buffers.step]
            repeats = max(1, self._repeats // 10) if eager else self._repeats
            for _ in range(3):
                self._run(steps)
            self.device.wait()
            start = time.perf_counter()
            for _ in range(repeats):
                self._run(steps)
            self.device.wait()
            return (time.perf_counter() - start) / repeats, in_force(backend)

    def filled_blocks(self, weights: "TowerWeights") -> Iterator[dict[str, Any]]:
        """Measure whole blocks at every graph level: mean milliseconds, launches and waits a block."""
        for batch in self._batches:
            for level in (0, 1, 2):
                work = Work("denoise", batch, self._distinct[len(self._distinct) // 2])
                with self._backend(weights, work, level) as backend:
                    yield self._filled(backend, batch) | in_force(backend)

    def context_calls(self, weights: "TowerWeights") -> Iterator[dict[str, Any]]:
        """Measure an AR step, a chunk of a prompt and a verification with the advance after it, at every
        graph level: milliseconds, launches and waits each.
        """
        distinct = self._distinct[len(self._distinct) // 2]
        for kind, made in (("ar", _ar_calls), ("extend", _wide_calls)):
            for batch in self._batches:
                for level in (0, 1):
                    with self._backend(weights, Work(kind, batch, distinct), level) as backend:
                        for what, call in made(backend, batch).items():
                            counted = self._counted(call)
                            yield {"what": what, "batch": batch} | counted | in_force(backend)

    def _counted(self, call: Callable[[], object]) -> dict[str, Any]:
        """Return the mean of some calls after two that warm up and capture."""
        for _ in range(2):
            call()
        launches, waits, start = self.device.launches, self.device.waits, time.perf_counter()
        for _ in range(self._repeats):
            call()
        seconds = time.perf_counter() - start
        return {
            "ms": seconds / self._repeats * 1e3,
            "launches": (self.device.launches - launches) / self._repeats,
            "waits": (self.device.waits - waits) / self._repeats,
        }

    def _filled(self, backend: "OneGpu", batch: int) -> dict[str, Any]:
        state = with_context(backend, batch)
        masks = np.full((batch, BLOCK), self.config.mask_token_id, np.int32)
        # No prediction is more probable than 1: each step commits what the steps left demand.
        never, greedy = np.ones(batch, np.float32), np.zeros(batch, np.float32)
        keys = np.zeros(batch, np.int64)
        for _ in range(2):
            fill_block(backend, state, BlockInputs(masks, 2, never, greedy, keys))
        steps = reckoning.draw_steps(self._blocks)
        launches, waits = self.device.launches, self.device.waits
        taken, start = 0, time.perf_counter()
        for count in steps:
            taken += len(fill_block(backend, state, BlockInputs(masks, count, never, greedy, keys)))
        seconds = (time.perf_counter() - start) / len(steps)
        # The wait for what the block gave comes after it.
        return {
            "batch": batch,
            "ms_per_block": seconds * 1e3,
            "steps_per_block": taken / len(steps),
            "launches": (self.device.launches - launches) / len(steps),
            "waits_inside": (self.device.waits - waits) / len(steps) - 1,
        }

    @staticmethod
    def _run(steps: list[Any]) -> None:
        for step in steps:
            step.run()

    def _backend(self, weights: "TowerWeights", work: Work, level: int, *, eager: bool = False) -> "OneGpu":
        count = reckoning.distinct_experts(self.config, work)
        routed = weights.on_device(reckoning.routing(self.config, work.batch * work.length, count))
        inner = run_naive if eager else self._run_op

        problem = "the eager towers run without graphs" if eager else None
        executor = TorchExecutor(
            self.config,
            self.device,
            weights.laid_for(inner),
            "bfloat16",
            forced_routing(inner, routed),
            problem,
            used=(weights.name,),
            takes_out=self._takes_out and not eager,
        )
        return OneGpu(self.config, self.device, executor, level, self._compilers)


def in_force(backend: "OneGpu") -> dict[str, Any]:
    """Return the level that was measured, which may be a lower one than was asked for, and why."""
    notes = list(backend.notes)
    return {"graph_level": int(backend.graph_level)} | ({"notes": notes} if notes else {})


class TowerWeights:
    """Random weights of one tower on the device; given back at the end of the `with`."""

    def __init__(self, config: ModelConfig, device: Device, tower: str) -> None:
        self._config, self._device, self.name = config, device, tower
        self._scope = Scope(device)
        self.tensors: dict[str, torch.Tensor] = {}

    def __enter__(self) -> "TowerWeights":
        shapes = reckoning.weight_shapes(self._config, self.name)
        # As when a bundle is loaded: one matrix in place of its parts.
        for whole, parts in joined_projections(self._config, self.name).items():
            taken = [shapes.pop(name) for name in parts]
            dtype, (_, *inner) = taken[0]
            shapes[whole] = (dtype, (sum(shape[0] for _, shape in taken), *inner))
        for index, (name, (dtype, shape)) in enumerate(shapes.items()):
            tensor = view_of(self._device, self._scope.array(dtype, shape))
            generator = torch.Generator(tensor.device).manual_seed(index)
            # Sums over the inner size stay of order one; A_log and dt_bias stay small enough for exp.
            tensor.normal_(0.0, shape[-1] ** -0.5, generator=generator)
            self.tensors[name] = tensor
        if tensor.is_cuda:
            torch.cuda.synchronize()  # the numbers came on torch's stream, the towers run on another
        return self

    def __exit__(self, *_: object) -> None:
        self.tensors.clear()
        self._scope.close()

    def laid_for(self, run_op: Callable[..., Any]) -> dict[str, torch.Tensor]:
        """Return them as `ttc.load` lays them for such ops; random numbers are as good in tiles."""
        if run_op is run_naive:
            return self.tensors
        stacks = expert_stacks(self._config, self.name)
        return self.tensors | {name: as_tiles(self.tensors[name]) for name in stacks}

    def on_device(self, arrays: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """Return small arrays on the device of the weights."""
        where = next(iter(self.tensors.values())).device
        return {name: torch.from_numpy(array).to(where) for name, array in arrays.items()}


def forced_routing(run_op: Callable[..., Any], routed: Mapping[str, torch.Tensor]) -> Callable[..., Any]:
    """Return `run_op`, but what the routing op gives is replaced by this when it has run."""

    def run(op: Any, *inputs: Any, **attributes: Any) -> Any:
        made = run_op(op, *inputs, **attributes)
        return tuple(routed.values()) if op.name == MOE_ROUTING.name else made

    return run


class KeepsDevice(OverDevice):
    """A backend that leaves its device open for the next one."""

    def __init__(self, config: ModelConfig, device: Device, *rest: Any) -> None:
        super().__init__(config, cast(Device, _Kept(device)), *rest)
        self._real = device

    @property
    def device(self) -> Device:
        """The device itself, as another one knows it."""
        return self._real

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class OneGpu(KeepsDevice, PooledBackend):
    """What computes on one GPU."""


class _Kept:
    """A device that closing does not close."""

    def __init__(self, device: Device) -> None:
        self._device = device

    def __getattr__(self, name: str) -> Any:
        return getattr(self._device, name)

    def close(self) -> None:
        self._device.wait()


def _greedy(batch: int) -> SamplingParams:
    return SamplingParams.greedy(batch)


def with_context(backend: OneGpu, batch: int) -> PooledState:
    """Return rows that have a context, of whatever numbers."""
    state = pooled(backend.new_state(batch, CAPACITY))
    backend.pool.cover(np.array(state.places.numbers), state.lengths, CONTEXT_TOKENS)
    state.lengths[:] = CONTEXT_TOKENS
    return state


def _ar_calls(backend: OneGpu, batch: int) -> dict[str, Callable[[], object]]:
    state, how, one = backend.new_state(batch, CAPACITY), _greedy(batch), np.ones(batch, np.int32)
    position = np.zeros((batch, 1), np.int32)
    return {"AR step": lambda: backend.sample_next(state, _rewound(state, 1), one, position, how)}


def _wide_calls(backend: OneGpu, batch: int) -> dict[str, Callable[[], object]]:
    state, how, one = backend.new_state(batch, CAPACITY), _greedy(batch), np.ones(batch, np.int32)
    positions = np.tile(np.arange(BLOCK, dtype=np.int32), (batch, 1))

    def verify() -> None:
        _, saved = backend.sample_next(state, _rewound(state, BLOCK), 0 * one, positions, how, save=True)
        backend.advance(state, saved, one)

    return {
        "prefill chunk": lambda: backend.context(
            state, _rewound(state, BLOCK), BLOCK * one, positions[:, -1:]
        ),
        "verification and advance": verify,
    }


def _rewound(state: ContextState, length: int) -> npt.NDArray[np.int32]:
    """Return tokens (B, length) to read over the same context every time."""
    state.lengths[:] = CONTEXT_TOKENS
    return np.full((state.batch, length), 5, np.int32)


def fill_block(backend: Backend, state: ContextState, inputs: BlockInputs) -> list[StepOutputs]:
    """Fill blocks in one launch where the backend can, otherwise step by step; the outputs of every step."""
    outputs = backend.fill_blocks(state, inputs)
    if outputs is not None:
        return list(outputs)
    block, (B, L), mask_id = inputs.block_ids, inputs.block_ids.shape, backend.config.mask_token_id
    taken: list[StepOutputs] = []
    for step in range(inputs.steps):
        masked = (block == mask_id).sum(-1)
        if not masked.any():
            break
        draw, left = np.full(B, step, np.int32), np.full(B, inputs.steps - step, np.int32)
        small = (inputs.threshold, inputs.temperature, inputs.row_key, state.lengths, draw, left)
        taken.append(backend.denoise_step(state, (masked / L).astype(np.float32), StepInputs(block, *small)))
        block = taken[-1].next_block_ids
    return taken


def _block_inputs(batch: int, mask_id: int) -> dict[str, Any]:
    values: dict[str, Any] = dict.fromkeys(("temperature", "row_key", "step"), 0)
    return values | {
        "block_ids": np.full((batch, BLOCK), mask_id, np.int32),
        "threshold": 1.0,
        "position": CONTEXT_TOKENS,
        "steps_left": BLOCK,
        "t": 1.0,
        "lengths": CONTEXT_TOKENS,
    }

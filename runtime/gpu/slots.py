"""A slot: all buffers of B rows with capacity C at fixed addresses, with the works and graphs over them.

A context state lives in a slot for as long as somebody holds it; then the slot waits for the next one of its
size. So the graphs captured over a slot's addresses serve every later generation of that size.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from ttc.model.config import ModelConfig
from ttc.runtime.gpu.append_kv import KvAppender
from ttc.runtime.gpu.block_loop import BlockLoop
from ttc.runtime.gpu.closing import close_all
from ttc.runtime.gpu.cuda_graphs import CudaGraphs, StepGraph
from ttc.runtime.gpu.device import DeviceArray, Enqueue, Scope
from ttc.runtime.gpu.executor import (
    CONTEXT_INPUTS,
    DENOISER_INPUTS,
    SAMPLING_INPUTS,
    SAMPLING_OUTPUTS,
    STEP_INPUTS,
    STEP_OUTPUTS,
    Executor,
    cache_specs,
    mamba_specs,
    new_kv_specs,
    saved_specs,
    state_specs,
)
from ttc.runtime.gpu.packed_buffer import PackedBuffer, pack
from ttc.runtime.gpu.sampling import bind_sampling
from ttc.runtime.interface.backend import BlockInputs
from ttc.runtime.interface.state import ContextState

__all__ = ["BlockBuffers", "ContextBuffers", "Slot"]

# The lengths after the new keys and values; no graph has a tensor of this name.
_LENGTHS = "lengths_before"


class Slot:
    """Buffers of one batch size and capacity. Attributes: batch, capacity, state (name → tensor)."""

    def __init__(
        self,
        scope: Scope,
        executor: Executor,
        graphs: CudaGraphs,
        config: ModelConfig,
        block_kernel: Any,
        appender: KvAppender,
        batch: int,
        capacity: int,
        *,
        chooses: bool,
    ) -> None:
        self.scope, self.executor, self.graphs, self.config = scope, executor, graphs, config
        self.appender, self._chooses = appender, chooses
        self.block_kernel, self.batch, self.capacity = block_kernel, batch, capacity
        dtype = executor.compute_dtype
        self._whole, self.state = pack(scope, state_specs(config, dtype, batch, capacity), {})
        self._caches = [self.state[name] for name in cache_specs(config, dtype, batch, capacity)]
        # Mamba's new state, in the order of the old one, and so of one size with it.
        mamba = mamba_specs(config, dtype, batch)
        self._mamba = {name: self.state[name] for name in mamba}
        self._new_mamba: DeviceArray | None = None
        self.new_state: dict[str, DeviceArray] = {}
        if mamba and not executor.in_place:
            new = {f"new_{name}": spec for name, spec in mamba.items()}
            self._new_mamba, self.new_state = pack(scope, new, {})
        self._contexts: dict[tuple[int, int], ContextBuffers] = {}
        self._blocks: dict[int, BlockBuffers] = {}
        self._saved: dict[int, dict[str, DeviceArray]] = {}
        self._new_kv: dict[int, tuple[DeviceArray, dict[str, DeviceArray]]] = {}
        self._advances: dict[int, tuple[PackedBuffer, StepGraph]] = {}

    @property
    def whole_state(self) -> DeviceArray:
        """The state as one piece of memory; of equal size in every slot of this batch and capacity."""
        return self._whole

    def clear(self) -> None:
        """Enqueue setting the state to zero."""
        self.scope.device.fill(self._whole, 0)

    def context(self, length: int, places: int) -> "ContextBuffers":
        """What a context call over L tokens with logits at R places needs."""
        key = (length, places)
        if key not in self._contexts:
            self.saved(length)
            self.new_kv(length)
            with self.scope.all_or_nothing():
                self._contexts[key] = ContextBuffers(self, length, places)
        return self._contexts[key]

    def block(self, length: int) -> "BlockBuffers":
        """What denoising a block of L tokens needs."""
        if length not in self._blocks:
            with self.scope.all_or_nothing():
                self._blocks[length] = BlockBuffers(self, length)
        return self._blocks[length]

    def saved(self, length: int) -> dict[str, DeviceArray]:
        """What context calls over L tokens leave for `advance`."""
        if length not in self._saved:
            specs = saved_specs(self.config, self.executor.compute_dtype, self.batch, length)
            self._saved[length] = pack(self.scope, specs, {})[1]
        return self._saved[length]

    def new_kv(self, length: int) -> dict[str, DeviceArray]:
        """Where context calls over L tokens put their keys and values, and after them the lengths before the
        call; nothing where the executor writes into the caches itself.
        """
        return self._packed_new_kv(length)[1] if self._appends_kv else {}

    @property
    def _appends_kv(self) -> bool:
        return bool(self._caches) and not self.executor.in_place

    def _packed_new_kv(self, length: int) -> tuple[DeviceArray, dict[str, DeviceArray]]:
        if length not in self._new_kv:
            specs = new_kv_specs(self.config, self.executor.compute_dtype, self.batch, length)
            lengths = {_LENGTHS: ("int32", (self.batch,))}
            self._new_kv[length] = pack(self.scope, {**specs, **lengths}, {})
        return self._new_kv[length]

    def advance(self, length: int) -> tuple[PackedBuffer, StepGraph]:
        """Moving the state over saved inputs of L tokens: its one input, and the step."""
        if length not in self._advances:
            with self.scope.all_or_nothing():
                self._advances[length] = self._new_advance(length)
        return self._advances[length]

    def _new_advance(self, length: int) -> tuple[PackedBuffer, StepGraph]:
        inputs = PackedBuffer(self.scope, {"commit_len": ("int32", (self.batch,))}, {})
        tensors = inputs.device | self.saved(length) | self._mamba | self.new_state
        work = self.executor.bind(self.scope, "advance", tensors, self.sizes(length))

        def run() -> None:
            work()
            self._commit_mamba()

        return inputs, StepGraph(self.scope.device, self.graphs, f"advancing by {length} tokens", run)

    def commit_state(self, inputs: PackedBuffer, length: int) -> None:
        """Enqueue making the new state of a context call over L tokens the state; its lengths are inputs."""
        self._commit_mamba()
        if self._appends_kv:
            self.scope.device.copy(self.new_kv(length)[_LENGTHS], inputs.device["lengths"])
            self.append_kv(length, inputs.host["lengths"])

    def append_kv(self, length: int, lengths: npt.NDArray[np.int32]) -> None:
        """Enqueue appending the keys and values of a call over L tokens; `lengths`: tokens before it."""
        new_kv = dict(self.new_kv(length))
        on_device = new_kv.pop(_LENGTHS)
        self.appender.append(list(new_kv.values()), self._caches, on_device, lengths)

    def changed_mamba(self) -> list[DeviceArray]:
        """What `advance` changes, as pieces of memory that are equal in every slot of this size."""
        if self._new_mamba is None:
            return []
        return [DeviceArray.at(self._whole.memory, 0, "uint8", self._new_mamba.shape)]

    def changed_kv(self, length: int) -> list[DeviceArray]:
        """What a context call over L tokens brings beside that, in the same way."""
        return [self._packed_new_kv(length)[0]] if self._appends_kv else []

    def _commit_mamba(self) -> None:
        if self._new_mamba is not None:
            (old,) = self.changed_mamba()
            self.scope.device.copy(old, self._new_mamba)

    def choice(
        self, inputs: PackedBuffer, logits: DeviceArray, outputs: PackedBuffer, sizes: Mapping[str, int]
    ) -> Enqueue:
        """The work that chooses tokens; none where the device cannot."""
        if not self._chooses:
            return lambda: None
        return bind_sampling(self.executor, self.scope, inputs, logits, outputs, sizes)

    def sizes(self, length: int, places: int = 1) -> dict[str, int]:
        """The letters of the graphs' shapes in numbers."""
        return {"B": self.batch, "L": length, "C": self.capacity, "R": places}

    def close(self) -> None:
        """Give back graphs and memory; nothing may be running on them. Never raises."""
        steps = [context.step for context in self._contexts.values()]
        steps += [step for _, step in self._advances.values()]
        blocks = self._blocks.values()
        close_all([*(step.close for step in steps), *(block.close for block in blocks), self.scope.close])
        # Pinned memory goes with its last reference, and work refers to the slot.
        for made in (self._contexts, self._blocks, self._saved, self._new_kv, self._advances):
            made.clear()


class ContextBuffers:
    """A context call: `inputs` holds its small inputs and those of the choice of tokens; `step` runs it,
    moves the state and makes `chosen` of the logits.
    """

    def __init__(self, slot: Slot, length: int, places: int) -> None:
        scope, sizes = slot.scope, slot.sizes(length, places)
        inputs = self.inputs = PackedBuffer(scope, {**CONTEXT_INPUTS, **SAMPLING_INPUTS}, sizes)
        self.chosen = PackedBuffer(scope, SAMPLING_OUTPUTS, sizes)
        self.logits = scope.array("float32", (slot.batch, places, slot.config.vocab_size))
        own = {name: inputs.device[name] for name in CONTEXT_INPUTS} | {"logits": self.logits}
        tensors = own | slot.state | slot.new_state | slot.saved(length) | slot.new_kv(length)
        work = slot.executor.bind(scope, "context", tensors, sizes)
        choose = slot.choice(inputs, self.logits, self.chosen, sizes)

        def run() -> None:
            work()
            slot.commit_state(inputs, length)
            choose()

        self.step = StepGraph(scope.device, slot.graphs, f"a context call over {length} tokens", run)


class BlockBuffers:
    """Denoising a block: `inputs` and `outputs` of a step.

    `denoise` and `commit` are the two halves of a step on their own, `choose` is AR's choice in place of the
    second; `fill` is both halves. `loop` fills a whole block; None where there is no kernel for it.
    """

    def __init__(self, slot: Slot, length: int) -> None:
        scope, config, B = slot.scope, slot.config, slot.batch
        device, sizes = scope.device, slot.sizes(length)
        self.inputs = PackedBuffer(scope, {**STEP_INPUTS, **DENOISER_INPUTS}, sizes)
        self.outputs = PackedBuffer(scope, STEP_OUTPUTS, sizes)
        self.logits = scope.array("float32", (B, length, config.vocab_size))
        small = self.inputs.device
        denoise = slot.executor.bind(
            scope,
            "denoiser",
            {name: small[name] for name in DENOISER_INPUTS} | slot.state | {"logits": self.logits},
            sizes,
        )
        # The step graph's own t is not used: the host or the loop's kernel writes the next one.
        unused = {"t": scope.array("float32", (B,))}
        commit = slot.executor.bind(
            scope,
            "step",
            {name: small[name] for name in STEP_INPUTS}
            | {"logits": self.logits}
            | self.outputs.device
            | unused,
            sizes,
        )

        def step() -> None:
            denoise()
            commit()

        graphs, what = slot.graphs, f"a denoise step over {length} tokens"
        self.denoise = StepGraph(device, graphs, what, denoise)
        self.commit = StepGraph(device, graphs, "a diffusion step", commit)
        choose = slot.choice(self.inputs, self.logits, self.outputs, slot.sizes(length, length))
        self.choose = StepGraph(device, graphs, "a choice of tokens", choose)
        self.fill = StepGraph(device, graphs, what, step)
        self.loop: BlockLoop | None = None
        if slot.block_kernel is not None:
            tensors = self.inputs.device, self.outputs.device
            self.loop = BlockLoop(scope, graphs, slot.block_kernel, step, *tensors)

    def upload(
        self,
        state: ContextState,
        inputs: BlockInputs,
        block: npt.NDArray[np.int32],
        masked_count: npt.NDArray[Any],
        step: int,
    ) -> None:
        """Enqueue the copy of what step `step` of filling a block reads, of which `block` is left by the
        steps before.
        """
        self.inputs.upload(
            block_ids=block,
            t=masked_count / block.shape[1],
            lengths=state.lengths,
            threshold=inputs.threshold,
            temperature=inputs.temperature,
            row_key=inputs.row_key,
            position=state.lengths,
            step=step if inputs.redraw else 0,
            steps_left=inputs.steps - step,
        )

    def close(self) -> None:
        """Let go of the graphs. Never raises."""
        graphs = (self.denoise, self.commit, self.choose, self.fill, self.loop)
        close_all(graph.close for graph in graphs if graph is not None)

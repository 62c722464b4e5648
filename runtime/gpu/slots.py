"""A slot: all buffers of B rows with capacity C at fixed addresses, with the works and graphs over them.

A context state lives in a slot for as long as somebody holds it; then the slot waits for the next one of its
size. So the graphs captured over a slot's addresses serve every later generation of that size.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from ttc.config import ModelConfig
from ttc.dims import Shape
from ttc.runtime.gpu.block_loop import THREADS, record_words
from ttc.runtime.gpu.choice import bind_choice
from ttc.runtime.gpu.device import DeviceArray, Scope, Work
from ttc.runtime.gpu.executor import (
    CHOICE_INPUTS,
    CHOICE_OUTPUTS,
    STEP_INPUTS,
    STEP_OUTPUTS,
    Executor,
    saved_specs,
    state_specs,
)
from ttc.runtime.gpu.graphs import BlockGraph, Levels, StepGraph
from ttc.runtime.gpu.pages import Page, pack

__all__ = ["BlockBuffers", "ContextBuffers", "Slot"]


class Slot:
    """Buffers of one batch size and capacity. Attributes: batch, capacity, state (name → tensor)."""

    def __init__(
        self,
        scope: Scope,
        executor: Executor,
        levels: Levels,
        config: ModelConfig,
        block_kernel: Any,
        batch: int,
        capacity: int,
        *,
        chooses: bool,
    ) -> None:
        self.scope, self.executor, self.levels, self.config = scope, executor, levels, config
        self._chooses = chooses
        self.block_kernel, self.batch, self.capacity = block_kernel, batch, capacity
        specs = state_specs(config, executor.compute_dtype, batch, capacity)
        self._whole, self.state = pack(scope, specs, {})
        self._new_whole, new = self._whole, self.state
        if not executor.aliases_state:
            self._new_whole, new = pack(scope, specs, {})
        self.new_state = {f"new_{name}": tensor for name, tensor in new.items()}
        self._contexts: dict[tuple[int, int], ContextBuffers] = {}
        self._blocks: dict[int, BlockBuffers] = {}
        self._saved: dict[int, dict[str, DeviceArray]] = {}
        self._advances: dict[int, tuple[Page, StepGraph]] = {}

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

    def advance(self, length: int) -> tuple[Page, StepGraph]:
        """Moving the state over saved inputs of L tokens: its one input, and the step."""
        if length not in self._advances:
            with self.scope.all_or_nothing():
                self._advances[length] = self._new_advance(length)
        return self._advances[length]

    def _new_advance(self, length: int) -> tuple[Page, StepGraph]:
        page = Page(self.scope, {"commit_len": ("int32", (self.batch,))}, {})
        mamba = ("conv_state.", "ssm_state.")
        state = {name: tensor for name, tensor in self.state.items() if name.startswith(mamba)}
        new = {f"new_{name}": self.new_state[f"new_{name}"] for name in state}
        tensors = page.device | self.saved(length) | state | new
        work = self.executor.bind(self.scope, "advance", tensors, self.sizes(length))

        def run() -> None:
            work()
            if self._new_whole is not self._whole:
                for name, tensor in state.items():
                    self.scope.device.copy(tensor, new[f"new_{name}"])

        return page, StepGraph(self.scope.device, self.levels, f"advancing by {length} tokens", run)

    def commit_state(self) -> None:
        """Enqueue making the new state the state."""
        if self._new_whole is not self._whole:
            self.scope.device.copy(self._whole, self._new_whole)

    def choice(self, inputs: Page, logits: DeviceArray, outputs: Page, sizes: Mapping[str, int]) -> Work:
        """The work that chooses tokens; none where the device cannot."""
        if not self._chooses:
            return lambda: None
        return bind_choice(self.executor, self.scope, inputs, logits, outputs, sizes)

    def sizes(self, length: int, places: int = 1) -> dict[str, int]:
        """The letters of the graphs' shapes in numbers."""
        return {"B": self.batch, "L": length, "C": self.capacity, "R": places}

    def close(self) -> None:
        """Give back graphs and memory; nothing may be running on them."""
        for context in self._contexts.values():
            context.step.close()
        for _, step in self._advances.values():
            step.close()
        for block in self._blocks.values():
            block.close()
        self.scope.close()


class ContextBuffers:
    """A context call: `page` holds its small inputs and those of the choice; `step` runs it, moves the state
    and makes `chosen` of the logits.
    """

    def __init__(self, slot: Slot, length: int, places: int) -> None:
        scope, sizes = slot.scope, slot.sizes(length, places)
        inputs: Mapping[str, tuple[str, Shape]] = {
            "input_ids": ("int32", ("B", "L")),
            "lengths": ("int32", ("B",)),
            "commit_len": ("int32", ("B",)),
            "logit_positions": ("int32", ("B", "R")),
        }
        self.page = Page(scope, {**inputs, **CHOICE_INPUTS}, sizes)
        self.chosen = Page(scope, CHOICE_OUTPUTS, sizes)
        self.logits = scope.array("float32", (slot.batch, places, slot.config.vocab_size))
        own = {name: self.page.device[name] for name in inputs} | {"logits": self.logits}
        tensors = own | slot.state | slot.new_state | slot.saved(length)
        work = slot.executor.bind(scope, "context", tensors, sizes)
        choose = slot.choice(self.page, self.logits, self.chosen, sizes)

        def run() -> None:
            work()
            slot.commit_state()
            choose()

        self.step = StepGraph(scope.device, slot.levels, f"a context call over {length} tokens", run)


class BlockBuffers:
    """Denoising a block: `inputs` and `outputs` of a step, `records` of all steps of a block.

    `denoise` and `commit` are the two halves of a step on their own, `choose` is AR's choice in place of the
    second; `fill` is a step of the loop, with the block moved on; `whole` is the loop.
    """

    def __init__(self, slot: Slot, length: int) -> None:
        scope, config, B = slot.scope, slot.config, slot.batch
        device, sizes = scope.device, slot.sizes(length)
        self.inputs = Page(
            scope, {**STEP_INPUTS, "t": ("float32", ("B",)), "lengths": ("int32", ("B",))}, sizes
        )
        self.outputs = Page(scope, STEP_OUTPUTS, sizes)
        self.logits = scope.array("float32", (B, length, config.vocab_size))
        self.records = scope.array("int32", (length, record_words(B, length)))
        self._pinned = device.pinned(self.records.nbytes).view(np.int32).reshape(self.records.shape)
        self._device = device
        small = self.inputs.device
        denoise = slot.executor.bind(
            scope,
            "denoiser",
            {name: small[name] for name in ("block_ids", "t", "lengths")}
            | slot.state
            | {"logits": self.logits},
            sizes,
        )
        # The step graph's own t is not used: the loop's kernel writes the next one.
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
        update = self._update(slot.block_kernel, B, length)

        def body(condition: int) -> None:
            denoise()
            commit()
            update(condition)

        levels, what = slot.levels, f"a denoise step over {length} tokens"
        self.denoise = StepGraph(device, levels, what, denoise)
        self.commit = StepGraph(device, levels, "a diffusion step", commit)
        choose = slot.choice(self.inputs, self.logits, self.outputs, slot.sizes(length, length))
        self.choose = StepGraph(device, levels, "a choice of tokens", choose)
        self.fill = StepGraph(device, levels, what, lambda: body(0))
        self.whole = BlockGraph(device, levels, f"a block of {length} tokens", body)

    def record(self, first: int, count: int) -> npt.NDArray[np.int32]:
        """Records first … first + count − 1 on the host; waits for them."""
        host = self._pinned[first : first + count]
        self._device.download(host.reshape(-1).view(np.uint8), self.records.part(first, count))
        return host

    def close(self) -> None:
        """Let go of the graphs."""
        for graph in (self.denoise, self.commit, self.choose, self.fill):
            graph.close()
        self.whole.close()

    def _update(self, kernel: Any, B: int, length: int) -> Callable[[int], None]:
        made, given = self.outputs.device, self.inputs.device
        read = [made[name].address for name in ("next_block_ids", "predicted_ids", "confidence")]
        read.append(made["masked_count"].address)
        written = [given[name].address for name in ("block_ids", "t", "step", "steps_left")]
        written.append(self.records.address)
        shape = [np.int32(B), np.int32(length)]

        def launch(condition: int) -> None:
            arguments = [*read, *shape, np.uint64(condition), *written]
            self._device.launch(kernel, (1, 1, 1), THREADS, 0, arguments)

        return launch

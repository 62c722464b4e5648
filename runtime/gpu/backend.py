"""The backend interface over a device: static buffers, works that an executor makes, graphs where they help.

Everything that a generation needs stays on the device; what crosses are the few small inputs of a call, one
copy in, and what the host must know, one copy out. At graph level 2 a block is one copy in, one launch, one
copy out.
"""

import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from ttc.errors import BackendError, DeviceMemoryError
from ttc.model.config import LayerKind, ModelConfig
from ttc.runtime.gpu import append_kv, block_loop
from ttc.runtime.gpu.append_kv import KvAppender
from ttc.runtime.gpu.block_loop import read_record
from ttc.runtime.gpu.closing import close_all
from ttc.runtime.gpu.cuda_graphs import CudaGraphMode, CudaGraphs
from ttc.runtime.gpu.device import Device, DeviceArray, Scope
from ttc.runtime.gpu.executor import DENOISER_INPUTS, STEP_INPUTS, Executor
from ttc.runtime.gpu.leases import Lease, StateTensors
from ttc.runtime.gpu.lengths import call_lengths, padded_length, widened
from ttc.runtime.gpu.nvrtc import compile_ptx
from ttc.runtime.gpu.pinned_staging import PinnedStaging
from ttc.runtime.gpu.sampling import (
    SAMPLE_NOTHING,
    ContextLogits,
    sampled_tokens,
    sampling_inputs,
    sampling_problem,
)
from ttc.runtime.gpu.slots import BlockBuffers, ContextBuffers, Slot
from ttc.runtime.interface.backend import (
    Backend,
    BlockInputs,
    ContextCall,
    Floats,
    Ints,
    Limits,
    StepInputs,
    StepOutputs,
)
from ttc.runtime.interface.sampling import SampledTokens, SamplingParams
from ttc.runtime.interface.state import ContextState

__all__ = ["DeviceBackend", "warm_up_context"]


logger = logging.getLogger(__name__)
T = TypeVar("T")


class DeviceBackend(Backend):
    """A bundle on one device.

    Args:
        executor: computes the graphs; closed with the backend, as the device is.
        graph_level: at most this one (`ttc.runtime.gpu.cuda_graphs`); None for the highest that is available.
        compile_kernel: (name, source, compute capability) → PTX.

    Attributes:
        lock: held while the stream is used; two backends that copy to each other share one.
    """

    def __init__(
        self,
        config: ModelConfig,
        device: Device,
        executor: Executor,
        graph_level: int | None = None,
        compile_kernel: Callable[[str, str, str], bytes] = compile_ptx,
    ) -> None:
        self.name, self.config = executor.name, config
        self._device, self._executor = device, executor
        self._graphs = CudaGraphs(device, graph_level, executor)
        self._compile_kernel = compile_kernel
        self._kernel = None
        if self._graphs.mode >= CudaGraphMode.BLOCK:
            self._kernel = self._loaded(block_loop.KERNEL, block_loop.SOURCE, CudaGraphMode.STEP)
        append = None
        if (
            not executor.in_place
            and LayerKind.ATTENTION in config.layers
            and self._graphs.mode > CudaGraphMode.NONE
        ):
            append = self._loaded(append_kv.KERNEL, append_kv.SOURCE, CudaGraphMode.NONE)
        self._appender = KvAppender(device, append)
        self._sampling_problem = sampling_problem(executor, device, config.vocab_size)
        self._idle: list[Slot] = []
        self._staging = PinnedStaging(device)
        self.lock = threading.RLock()
        self._own_notes: tuple[str, ...] = ()
        self._closed = False

    @property
    def notes(self) -> Sequence[str]:  # type: ignore[override]  # they grow when a mode falls back
        """What is not as asked."""
        return (*self._executor.notes, *self._graphs.notes, *self._own_notes)

    @property
    def graph_level(self) -> int:  # type: ignore[override]  # it may fall
        """The mode in force, as a level."""
        return self._graphs.mode.value

    @property
    def limits(self) -> Limits | None:  # type: ignore[override]  # the executor's
        """Sizes that can be computed."""
        return self._executor.limits

    @property
    def device_name(self) -> str:
        return self._device.name

    @property
    def device(self) -> Device:
        """The device, for its counters."""
        return self._device

    def slot(self, state: ContextState) -> Slot:
        """The slot of a state, also for who copies states between devices."""
        self._check_open()
        assert isinstance(state.tensors, StateTensors)
        return state.tensors.lease.slot

    def new_state(self, batch: int, capacity: int) -> ContextState:
        with self.lock:
            lease = self._lease(batch, capacity)
            lease.slot.clear()
            return ContextState(capacity, np.zeros(batch, np.int32), lease.tensors())

    def context(
        self,
        state: ContextState,
        input_ids: Ints,
        commit_len: Ints,
        logit_positions: Ints,
        save: bool = False,
        then: Callable[[int], None] | None = None,
    ) -> ContextCall:
        """As `Backend.context`; `then` enqueues what is to follow before the host waits, and is
        called with the number of tokens read.
        """
        R = logit_positions.shape[1]
        with self.lock:
            buffers, length = self._read(state, input_ids, commit_len, logit_positions, SAMPLE_NOTHING, then)
            self._device.wait()  # the inputs may be written again
        return ContextCall(ContextLogits(buffers.logits, R), length if save else None)

    def sample_next(
        self,
        state: ContextState,
        input_ids: Ints,
        commit_len: Ints,
        logit_positions: Ints,
        how: SamplingParams,
        save: bool = False,
        then: Callable[[int], None] | None = None,
    ) -> tuple[SampledTokens, Any]:
        """As `Backend.sample_next`, in one launch; `then` as above."""
        if not self._chooses(how):
            call = self.context(state, input_ids, commit_len, logit_positions, save, then)
            return self.sample(call.logits, how), call.saved
        with self.lock:
            choice = sampling_inputs(how)
            buffers, length = self._read(state, input_ids, commit_len, logit_positions, choice, then)
            return sampled_tokens(buffers.chosen.download()), length if save else None

    def _read(
        self,
        state: ContextState,
        input_ids: Ints,
        commit_len: Ints,
        logit_positions: Ints,
        choice: Mapping[str, npt.ArrayLike],
        then: Callable[[int], None] | None,
    ) -> tuple[ContextBuffers, int]:
        """Enqueue a context call; its buffers and how many tokens it reads."""
        R = logit_positions.shape[1]
        slot = self.slot(state)
        room = state.capacity - int(state.lengths.max())
        length = padded_length(input_ids.shape[1], room, self.limits)
        places = length if R > 1 and (self.limits is None or length <= self.limits.positions[1]) else R
        buffers = self._making_room(lambda: slot.context(length, places))
        buffers.inputs.upload(
            input_ids=widened(input_ids, length),
            lengths=state.lengths,
            commit_len=commit_len,
            logit_positions=widened(logit_positions, places),
            **choice,
        )
        buffers.step.run()
        state.lengths = state.lengths + commit_len
        if then is not None:
            then(length)
        return buffers, length

    def reserve_new_kv(self, state: ContextState, length: int) -> None:
        """Allocate memory for the new keys and values of a context call over L tokens, unless it is there.

        Raises:
            DeviceMemoryError: there is no room for it, even without the slots that wait.
        """
        with self.lock:
            slot = self.slot(state)
            self._making_room(lambda: slot.changed_kv(length))

    def advance(self, state: ContextState, saved: Any, commit_len: Ints) -> None:
        with self.lock:
            slot = self.slot(state)
            inputs, step = self._making_room(lambda: slot.advance(saved))
            inputs.upload(commit_len=commit_len)
            step.run()
            self._device.wait()  # the inputs may be written again
            state.lengths = state.lengths + commit_len

    def denoise(self, state: ContextState, block_ids: Ints, t: Floats) -> BlockBuffers:
        with self.lock:
            slot = self.slot(state)
            buffers = self._making_room(lambda: slot.block(block_ids.shape[1]))
            nothing = dict.fromkeys(STEP_INPUTS, 0)
            buffers.inputs.upload(**nothing | {"block_ids": block_ids, "t": t, "lengths": state.lengths})
            buffers.denoise.run()
            self._device.wait()
            return buffers

    def sample(self, logits: BlockBuffers | ContextLogits, how: SamplingParams) -> SampledTokens:
        if isinstance(logits, ContextLogits) or not self._chooses(how):
            return super().sample(logits, how)
        with self.lock:
            self._check_open()
            nothing = dict.fromkeys((*STEP_INPUTS, *DENOISER_INPUTS), 0)
            logits.inputs.upload(**nothing | sampling_inputs(how))
            logits.choose.run()
            return sampled_tokens(logits.outputs.download())

    def _chooses(self, how: SamplingParams) -> bool:
        """Whether tokens are chosen on the device; where not, the reason becomes a note."""
        problem = self._sampling_problem
        if how.filters:
            problem = "top_k and top_p need the logits in order"
        if problem is not None:
            self._note(f"tokens are chosen on the host, which fetches their logits, because {problem}")
        return problem is None

    def fetch(self, logits: BlockBuffers | ContextLogits | DeviceArray) -> Floats:
        array = logits if isinstance(logits, DeviceArray) else logits.logits
        with self.lock:
            self._check_open()
            values = self._staging.read(array)
        return values[:, : logits.places] if isinstance(logits, ContextLogits) else values

    def step(self, logits: BlockBuffers, inputs: StepInputs) -> StepOutputs:
        buffers = logits
        with self.lock:
            self._check_open()
            small = {name: getattr(inputs, name) for name in STEP_INPUTS}
            buffers.inputs.upload(**small, t=0, lengths=0)
            buffers.commit.run()
            return StepOutputs(**buffers.outputs.download())

    def fill_block(self, state: ContextState, inputs: BlockInputs) -> Iterator[StepOutputs]:
        block, B, L = inputs.block_ids, *inputs.block_ids.shape
        if not (block == self.config.mask_token_id).any():
            return
        with self.lock:
            slot = self.slot(state)
            buffers = self._making_room(lambda: slot.block(L))
            records = self._fill_whole(state, buffers, inputs)
        if records is None:
            yield from self._fill_by_steps(state, buffers, inputs)
            return
        for record in records:
            outputs = read_record(record, B, L)
            yield outputs
            if not outputs.masked_count.any():
                return

    def _fill_whole(
        self, state: ContextState, buffers: BlockBuffers, inputs: BlockInputs
    ) -> npt.NDArray[np.int32] | None:
        """Fill the block in one launch: the records of its steps. None where that cannot be (yet)."""
        if buffers.loop is None or not buffers.loop.ready:
            return None
        if not inputs.redraw and (inputs.temperature > 0).any():
            # The graph counts its steps up, and they would draw anew.
            self._note("sampled drafts are stepped by the host: a block's graph would draw anew")
            return None
        block = inputs.block_ids
        masked_count = (block == self.config.mask_token_id).sum(-1)
        buffers.upload(state, inputs, block, masked_count, 0)
        return buffers.loop.run(min(inputs.steps, block.shape[1]))

    def _fill_by_steps(
        self, state: ContextState, buffers: BlockBuffers, inputs: BlockInputs
    ) -> Iterator[StepOutputs]:
        """Fill the block step by step: one copy in, one launch and one copy out each."""
        block = inputs.block_ids
        masked_count = (block == self.config.mask_token_id).sum(-1)
        for step in range(inputs.steps):
            with self.lock:
                self._check_open()
                buffers.upload(state, inputs, block, masked_count, step)
                buffers.fill.run()
                outputs = StepOutputs(**buffers.outputs.download())
            yield outputs
            block, masked_count = outputs.next_block_ids, outputs.masked_count
            if not masked_count.any():
                break
        if buffers.loop is not None:
            with self.lock:
                self._check_open()
                buffers.loop.warm_up()

    def _note(self, text: str) -> None:
        """Say once what is not as asked."""
        if text not in self._own_notes:
            self._own_notes = (*self._own_notes, text)
            logger.warning("%s", text)

    def select(self, state: ContextState, rows: Ints) -> ContextState:
        with self.lock:
            source = self.slot(state)
            lease = self._lease(len(rows), state.capacity)
            for name, tensor in lease.slot.state.items():
                for place, row in enumerate(rows.tolist()):
                    self._device.copy(tensor.part(place, 1), source.state[name].part(row, 1))
            # The old slot may be taken, and cleared, as soon as nobody holds its state.
            self._device.wait()
            return ContextState(state.capacity, state.lengths[rows], lease.tensors())

    def read_state(self, state: ContextState) -> dict[str, Floats]:
        with self.lock:
            tensors = self.slot(state).state
            return {name: self._staging.read(array).astype(np.float32) for name, array in tensors.items()}

    def write_state(self, capacity: int, lengths: Ints, tensors: Mapping[str, Any]) -> ContextState:
        with self.lock:
            state = self.new_state(len(lengths), capacity)
            for name, array in self.slot(state).state.items():
                self._staging.write(array, np.asarray(tensors[name], np.float32))
            state.lengths = np.asarray(lengths, np.int32)
            return state

    def warm_up(self, batch: int, capacity: int, block_size: int, chunk: int) -> None:
        warm_up_context(self, batch, capacity, block_size, chunk)
        self.warm_up_block(batch, capacity, block_size)

    def warm_up_block(self, batch: int, capacity: int, block_size: int) -> None:
        """Capture the filling of a block, in the same way as `warm_up_context`."""
        with self.lock:
            state = self.new_state(batch, capacity)
            masks = np.full((batch, block_size), self.config.mask_token_id, np.int32)
            zeros = np.zeros(batch, np.float32)
            block = BlockInputs(masks, 1, zeros, zeros, np.zeros(batch, np.int64))
            for _ in range(2):
                list(self.fill_block(state, block))

    def close(self) -> None:
        with self.lock:
            if self._closed:
                return
            self._closed = True
            waiting = [slot.close for slot in self._idle]
            # What is enqueued may still use what is given back.
            close_all([self._device.wait, *waiting, self._executor.close, self._device.close])
            self._idle.clear()
            self._staging.close()

    def _loaded(self, name: str, source: str, otherwise: CudaGraphMode) -> Any:
        """Return a kernel of ours; None where it is not available, and the mode falls to `otherwise`."""
        try:
            ptx = self._compile_kernel(name, source, self._device.compute_capability)
            return self._device.load_kernel(name, ptx)
        except BackendError as fault:
            self._graphs.lower(otherwise, f"the kernel {name} cannot be had ({fault})")
            return None

    def _lease(self, batch: int, capacity: int) -> Lease:
        """A slot of this size: one that waits, or a new one, for which others that wait make room."""
        self._check_open()
        for place, slot in enumerate(self._idle):
            if (slot.batch, slot.capacity) == (batch, capacity):
                return Lease(self._idle.pop(place), self._take_back)
        return Lease(self._making_room(lambda: self._new_slot(batch, capacity)), self._take_back)

    def _new_slot(self, batch: int, capacity: int) -> Slot:
        scope = Scope(self._device)
        with scope.all_or_nothing():
            return Slot(
                scope,
                self._executor,
                self._graphs,
                self.config,
                self._kernel,
                self._appender,
                batch,
                capacity,
                chooses=self._sampling_problem is None,
            )

    def _making_room(self, make: Callable[[], T]) -> T:
        """What `make` gives; where memory is short, slots that wait are given up, one after another."""
        while True:
            try:
                return make()
            except DeviceMemoryError as fault:
                if not self._idle:
                    raise DeviceMemoryError(f"{fault}; ask for a smaller batch or capacity") from None
                self._device.wait()
                self._idle.pop(0).close()

    def _take_back(self, slot: Slot) -> None:
        """A state was dropped: its slot waits for the next one."""
        with self.lock:
            if self._closed:
                slot.close()
            else:
                self._idle.append(slot)

    def _check_open(self) -> None:
        if self._closed:
            raise BackendError("the engine is closed; load the bundle again")


def warm_up_context(backend: Backend, batch: int, capacity: int, block_size: int, chunk: int) -> None:
    """Capture the context calls of these sizes: run each twice, on a state that nobody uses."""
    state = backend.new_state(batch, capacity)
    nothing, place = np.zeros(batch, np.int32), np.zeros((batch, 1), np.int32)
    for length in call_lengths(min(block_size, capacity), min(chunk, capacity), backend.limits):
        for _ in range(2):
            backend.context(state, np.zeros((batch, length), np.int32), nothing, place)

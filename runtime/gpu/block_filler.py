"""Fills a block on the device: in one launch where a CUDA graph holds the whole block, otherwise by steps.

In one launch, a block is one copy in, one launch and one copy out; the host reads what every step gave from
the loop's records afterwards.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from ttc.runtime.gpu.block_loop import read_record
from ttc.runtime.gpu.buffer_pool import BufferPool
from ttc.runtime.gpu.call_buffers import BlockBuffers
from ttc.runtime.gpu.device_runtime import DeviceRuntime
from ttc.runtime.interface.backend import BlockInputs, StepOutputs
from ttc.runtime.interface.state import ContextState

__all__ = ["BlockFiller"]


class BlockFiller:
    """Fills blocks over the static buffers of states."""

    def __init__(self, runtime: DeviceRuntime, pool: BufferPool) -> None:
        self._runtime, self._pool = runtime, pool

    def fill(self, state: ContextState, inputs: BlockInputs) -> Iterator[StepOutputs]:
        """Yield the outputs of every step, in order; as `Backend.fill_block`."""
        block, B, L = inputs.block_ids, *inputs.block_ids.shape
        if not (block == self._runtime.config.mask_token_id).any():
            return
        with self._runtime.lock:
            buffers = self._pool.buffers_of(state)
            block_buffers = self._pool.evict_until_fits(lambda: buffers.block(L))
            records = self._fill_whole(state, block_buffers, inputs)
        if records is None:
            yield from self._fill_by_steps(state, block_buffers, inputs)
            return
        for record in records:
            outputs = read_record(record, B, L)
            yield outputs
            if not outputs.masked_count.any():
                return

    def _fill_whole(
        self, state: ContextState, buffers: BlockBuffers, inputs: BlockInputs
    ) -> npt.NDArray[np.int32] | None:
        """Fill the block in one launch and return the records of its steps; None where that is not possible,
        or not yet.
        """
        if buffers.loop is None or not buffers.loop.ready:
            return None
        if not inputs.redraw and (inputs.temperature > 0).any():
            # The graph counts its steps up, and they would draw anew.
            self._runtime.note("sampled drafts are stepped by the host: a block's graph would draw anew")
            return None
        block = inputs.block_ids
        masked_count = (block == self._runtime.config.mask_token_id).sum(-1)
        buffers.upload(state, inputs, block, masked_count, 0)
        return buffers.loop.run(min(inputs.steps, block.shape[1]))

    def _fill_by_steps(
        self, state: ContextState, buffers: BlockBuffers, inputs: BlockInputs
    ) -> Iterator[StepOutputs]:
        """Fill the block step by step: one copy in, one launch and one copy out each."""
        block = inputs.block_ids
        masked_count = (block == self._runtime.config.mask_token_id).sum(-1)
        for step in range(inputs.steps):
            with self._runtime.lock:
                self._runtime.check_open()
                buffers.upload(state, inputs, block, masked_count, step)
                buffers.fill.run()
                outputs = StepOutputs(**buffers.outputs.download())
            yield outputs
            block, masked_count = outputs.next_block_ids, outputs.masked_count
            if not masked_count.any():
                break
        if buffers.loop is not None:
            with self._runtime.lock:
                self._runtime.check_open()
                buffers.loop.warm_up()

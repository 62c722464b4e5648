"""Fills a block on the device: in one launch where a CUDA graph holds the whole block, otherwise by steps.

In one launch, a block is one copy in, one launch and one copy out; the host reads what every step gave from
the loop's records afterwards.
"""

from collections.abc import Sequence

from ttc.runtime.gpu.block_loop import read_record
from ttc.runtime.gpu.buffer_pool import BufferPool
from ttc.runtime.gpu.device_runtime import DeviceRuntime
from ttc.runtime.interface.backend import BlockInputs, StepOutputs
from ttc.runtime.interface.state import ContextState

__all__ = ["BlockFiller"]


class BlockFiller:
    """Fills blocks over the static buffers of states."""

    def __init__(self, runtime: DeviceRuntime, pool: BufferPool) -> None:
        self._runtime, self._pool = runtime, pool

    def fill(self, state: ContextState, inputs: BlockInputs) -> Sequence[StepOutputs] | None:
        """Fill the blocks of all rows in one launch and return the outputs of every step, in order; None
        where
        that is not possible, or not yet: the loop is captured once a step has run on its own.
        """
        block, (B, L) = inputs.block_ids, inputs.block_ids.shape
        with self._runtime.lock:
            buffers = self._pool.buffers_of(state)
            call = self._pool.evict_until_fits(lambda: buffers.block(L))
            if call.loop is None or not call.loop.ready:
                return None
            masked_count = (block == self._runtime.config.mask_token_id).sum(-1)
            call.upload(state, inputs, masked_count)
            records = call.loop.run(min(inputs.steps, L))
        outputs = []
        for record in records:
            outputs.append(read_record(record, B, L))
            if not outputs[-1].masked_count.any():
                break
        return outputs

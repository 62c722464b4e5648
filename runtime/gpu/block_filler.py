"""Fills blocks on the device in one launch, where a CUDA graph holds the whole block.

That is one copy in, one launch and one copy out; the host reads what every step gave from the loop's records
afterwards.
"""

from collections.abc import Mapping, Sequence

import numpy.typing as npt

from ttc.runtime.gpu.block_loop import read_record
from ttc.runtime.gpu.call_buffers import BlockBuffers
from ttc.runtime.interface.backend import BlockInputs, Ints, StepOutputs

__all__ = ["fill_blocks"]


def fill_blocks(
    call: BlockBuffers,
    lengths: Ints,
    inputs: BlockInputs,
    mask_id: int,
    placement: Mapping[str, npt.ArrayLike],
) -> Sequence[StepOutputs] | None:
    """Fill the blocks of all rows in one launch and return the outputs of every step, in order; None where
    that is not possible, or not yet: the loop is captured once a step has run on its own.

    Args:
        lengths: (B,) tokens before the blocks.
        placement: where the rows lie, if the call has an input for that.
    """
    if call.loop is None or not call.loop.ready:
        return None
    B, L = inputs.block_ids.shape
    call.inputs.upload(
        block_ids=inputs.block_ids,
        t=(inputs.block_ids == mask_id).sum(-1) / L,
        lengths=lengths,
        threshold=inputs.threshold,
        temperature=inputs.temperature,
        row_key=inputs.row_key,
        position=lengths,
        step=0,
        steps_left=inputs.steps,
        **placement,
    )
    outputs = []
    for record in call.loop.run(min(inputs.steps, L)):
        outputs.append(read_record(record, B, L))
        if not outputs[-1].masked_count.any():
            break
    return outputs

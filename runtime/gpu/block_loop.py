"""What happens between two denoise steps, on the GPU: the next block becomes the block, and the loop learns
whether to go on.

One small CUDA C kernel, compiled by NVRTC when an engine starts that may run whole blocks as graphs. It is
not Triton's because only CUDA C can set the condition of a graph's WHILE node. `update` is its reference.

What a step gave is kept in a record, so that a host which only looks after the block sees every step. Record
of step s, int32 words: next ids (B·L), predicted ids (B·L), confidence (B·L, the bits of float32), masked
count (B).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from ttc.model.graphs import STEP_OUTPUTS
from ttc.runtime.gpu.cuda_graphs import BlockGraph, CudaGraphs
from ttc.runtime.gpu.device import DeviceArray, Enqueue, Scope
from ttc.runtime.interface.backend import StepOutputs

__all__ = ["KERNEL", "SOURCE", "BlockLoop", "read_record", "record_words", "update"]

KERNEL, THREADS = "ttc_block_update", 256
# NVRTC has no header for the last function; the driver resolves it when the module is loaded.
_DECLARED = """
typedef __device_builtin__ unsigned long long cudaGraphConditionalHandle;
extern "C" __device__ __cudart_builtin__ void cudaGraphSetConditional(
    cudaGraphConditionalHandle handle, unsigned int value);
"""
# One block of threads. `condition` is 0 outside a WHILE node.
_BODY = """
extern "C" __global__ void ttc_block_update(
    const int *next_ids, const int *predicted_ids, const float *confidence, const int *masked_count,
    int B, int L, unsigned long long condition,
    int *block_ids, float *t, int *step, int *steps_left, int *records)
{
    const int n = B * L, taken = step[0], left = steps_left[0] - 1;
    int *record = records + (long long)taken * (3 * n + B);
    int open = 0;
    for (int i = threadIdx.x; i < n; i += blockDim.x) {
        block_ids[i] = record[i] = next_ids[i];
        record[n + i] = predicted_ids[i];
        record[2 * n + i] = __float_as_int(confidence[i]);
    }
    for (int b = threadIdx.x; b < B; b += blockDim.x) {
        record[3 * n + b] = masked_count[b];
        t[b] = (float)masked_count[b] / (float)L;
        open |= masked_count[b] > 0;
    }
    open = __syncthreads_or(open);
    for (int b = threadIdx.x; b < B; b += blockDim.x) {
        step[b] = taken + 1;
        steps_left[b] = left;
    }
    if (threadIdx.x == 0 && condition)
        cudaGraphSetConditional(condition, open && left > 0 && taken + 1 < L);
}
"""
SOURCE = _DECLARED + _BODY
# What the kernel reads of a step's outputs and writes of its inputs, in its order.
_READ = tuple(tensor.name for tensor in STEP_OUTPUTS)
_WRITTEN = ("block_ids", "t", "step", "steps_left")

Ints = npt.NDArray[np.int32]


def record_words(B: int, L: int) -> int:
    """Return the length of one record in int32 words."""
    return 3 * B * L + B


def update(
    next_ids: Ints,
    predicted_ids: Ints,
    confidence: npt.NDArray[np.float32],
    masked_count: Ints,
    block_ids: Ints,
    t: npt.NDArray[np.float32],
    step: Ints,
    steps_left: Ints,
    records: Ints,
) -> bool:
    """Do as the kernel, in numpy and in place, and return whether the loop goes on.

    Args:
        next_ids, predicted_ids, confidence: (B, L) outputs of the step.
        masked_count: (B,) output of the step.
        block_ids: (B, L), becomes the next block.
        t: (B,), becomes the share of masked positions.
        step, steps_left: (B,), all entries equal.
        records: (L, record_words): a block takes at most L steps.
    """
    words = [a.ravel().view(np.int32) for a in (next_ids, predicted_ids, confidence, masked_count)]
    records[step[0]] = np.concatenate(words)
    block_ids[...] = next_ids
    t[...] = masked_count.astype(np.float32) / np.float32(block_ids.shape[1])
    step += 1
    steps_left -= 1
    L = block_ids.shape[1]
    return bool((masked_count > 0).any() and steps_left[0] > 0 and step[0] < L)


def read_record(record: Ints, B: int, L: int) -> StepOutputs:
    """Return the outputs of the step that wrote this record."""
    n = B * L
    copy = record.copy()

    def block(i: int, dtype: Any = np.int32) -> Any:
        return copy[i * n : (i + 1) * n].view(dtype).reshape(B, L)

    return StepOutputs(block(0), block(1), block(2, np.float32), copy[3 * n :])


class BlockLoop:
    """The loop over a block on the device, and the records of its steps.

    Args:
        kernel: the one above, loaded.
        step: enqueues a denoise step over these tensors.
        given: name → input of a step.
        made: name → output of a step.
    """

    def __init__(
        self,
        scope: Scope,
        graphs: CudaGraphs,
        kernel: Any,
        step: Enqueue,
        given: Mapping[str, DeviceArray],
        made: Mapping[str, DeviceArray],
    ) -> None:
        B, L = given["block_ids"].shape
        self._device = scope.device
        self._records = scope.array("int32", (L, record_words(B, L)))
        pinned = self._device.pinned(self._records.nbytes)
        self._pinned = pinned.view(np.int32).reshape(self._records.shape)
        arguments = [made[name].address for name in _READ]
        written = [*(given[name].address for name in _WRITTEN), self._records.address]
        device = self._device

        def last(condition: int) -> None:
            sizes = [np.int32(B), np.int32(L), np.uint64(condition)]
            device.launch(kernel, (1, 1, 1), THREADS, 0, [*arguments, *sizes, *written])

        self._graph = BlockGraph(device, graphs, f"a block of {L} tokens", step, last)

    def warm_up(self, *, stepped: bool) -> None:
        """Run on its own what the loop runs, as `BlockGraph.warm_up`; the step's buffers must hold a step."""
        self._graph.warm_up(stepped=stepped)

    @property
    def ready(self) -> bool:
        """Whether a block can be filled by it now; captures the loop if that has not been tried."""
        return self._graph.ready

    def run(self, steps: int) -> Ints:
        """Fill the block and return the records of `steps` steps, of which not all need have been taken."""
        self._graph.run()
        host = self._pinned[:steps]
        self._device.download(host.reshape(-1).view(np.uint8), self._records.part(0, steps))
        return host.copy()

    def close(self) -> None:
        """Let go of the graph."""
        self._graph.close()

"""AR's sampling on the device: what it is bound to, what goes in, what comes back.

It is the first half of a diffusion step, the op `DiffusionPredict`, with a mask id that is no token: then
nothing is banned, and a position is open where its id says so.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ttc.errors import BackendError, DeviceMemoryError
from ttc.runtime.gpu.device import Device, DeviceArray, Enqueue, Scope
from ttc.runtime.gpu.executor import SAMPLING_INPUTS, SAMPLING_OUTPUTS, UNUSED_MASK_ID, Executor
from ttc.runtime.gpu.packed_buffer import PackedBuffer
from ttc.runtime.interface.sampling import INVALID_TOKEN, EagerSamples, SampledTokens, SamplingParams

__all__ = [
    "SAMPLE_NOTHING",
    "ContextLogits",
    "bind_sampling",
    "sampled_tokens",
    "sampling_inputs",
    "sampling_problem",
]

# `SAMPLING_INPUTS` of a call after which no token is wanted: no position is open, and no logits are read.
SAMPLE_NOTHING: Mapping[str, npt.ArrayLike] = dict.fromkeys(SAMPLING_INPUTS, 0)


@dataclass(frozen=True, slots=True)
class ContextLogits:
    """What a context call left on the device; the first `positions` of them were asked for."""

    logits: DeviceArray
    positions: int


def sampling_problem(executor: Executor, device: Device, vocabulary: int) -> str | None:
    """Return why the executor cannot sample tokens on this device; None where it can."""
    scope, sizes = Scope(device), {"B": 1, "L": 1, "R": 1}
    try:
        inputs, outputs = (PackedBuffer(scope, specs, sizes) for specs in (SAMPLING_INPUTS, SAMPLING_OUTPUTS))
        logits = scope.array(executor.logits_dtype, (1, 1, vocabulary))
        bind_sampling(executor, scope, inputs, logits, outputs, sizes)
    except DeviceMemoryError:
        raise
    except BackendError as fault:
        return str(fault)
    finally:
        scope.close()
    return None


def bind_sampling(
    executor: Executor,
    scope: Scope,
    inputs: PackedBuffer,
    logits: DeviceArray,
    outputs: PackedBuffer,
    sizes: Mapping[str, int],
) -> Enqueue:
    """Return the work that makes `SAMPLING_OUTPUTS`, in `outputs`, from logits (B, R, V)."""
    tensors = {name: inputs.device[name] for name in SAMPLING_INPUTS} | {"logits": logits}
    tensors |= {name: outputs.device[name] for name in SAMPLING_OUTPUTS}
    return executor.bind(scope, "sample", tensors, sizes)


def sampling_inputs(how: SamplingParams) -> dict[str, npt.ArrayLike]:
    """Return `SAMPLING_INPUTS` that sample at every position. AR draws as a block's first step does."""
    return {
        "block_ids": UNUSED_MASK_ID,
        "temperature": how.temperature,
        "row_key": how.row_key,
        "position": how.position,
        "step": 0,
    }


def sampled_tokens(outputs: Mapping[str, npt.NDArray[Any]]) -> SampledTokens:
    """Return the samples of downloaded `SAMPLING_OUTPUTS`.

    A probability that is NaN comes from logits that are NaN or infinite.
    """
    usable = ~np.isnan(outputs["confidence"])
    tokens = np.where(usable, outputs["predicted_ids"], np.int32(INVALID_TOKEN))
    return EagerSamples(tokens, outputs["confidence"])

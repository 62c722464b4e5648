"""AR's choice of tokens on the device: what it is bound to, what goes in, what comes back.

It is the first half of a diffusion step, the op `DiffusionPredict`, with a mask id that is no token: then
nothing is banned, and a place is open where its id says so.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ttc.errors import BackendError, DeviceMemoryError
from ttc.runtime.gpu.device import Device, DeviceArray, Scope, Work
from ttc.runtime.gpu.executor import CHOICE_INPUTS, CHOICE_OUTPUTS, OPEN, Executor
from ttc.runtime.gpu.pages import Page
from ttc.runtime.interface.choice import NO_TOKEN, Choices, Choosing, MadeChoices

__all__ = ["NO_CHOICE", "ContextLogits", "bind_choice", "choice_page", "choice_problem", "made_choices"]

# `CHOICE_INPUTS` of a call after which no token is wanted: no place is open, and no logits are read.
NO_CHOICE: Mapping[str, npt.ArrayLike] = dict.fromkeys(CHOICE_INPUTS, 0)


@dataclass(frozen=True, slots=True)
class ContextLogits:
    """What a context call left on the device; the first `places` of them were asked for."""

    logits: DeviceArray
    places: int


def choice_problem(executor: Executor, device: Device, vocabulary: int) -> str | None:
    """Why the executor cannot choose tokens on this device; None where it can."""
    scope, sizes = Scope(device), {"B": 1, "L": 1, "R": 1}
    try:
        inputs, outputs = (Page(scope, specs, sizes) for specs in (CHOICE_INPUTS, CHOICE_OUTPUTS))
        bind_choice(executor, scope, inputs, scope.array("float32", (1, 1, vocabulary)), outputs, sizes)
    except DeviceMemoryError:
        raise
    except BackendError as fault:
        return str(fault)
    finally:
        scope.close()
    return None


def bind_choice(
    executor: Executor,
    scope: Scope,
    inputs: Page,
    logits: DeviceArray,
    outputs: Page,
    sizes: Mapping[str, int],
) -> Work:
    """The work that makes `CHOICE_OUTPUTS`, on the page of outputs, from logits (B, R, V)."""
    tensors = {name: inputs.device[name] for name in CHOICE_INPUTS} | {"logits": logits}
    tensors |= {name: outputs.device[name] for name in CHOICE_OUTPUTS}
    return executor.bind(scope, "choose", tensors, sizes)


def choice_page(how: Choosing) -> dict[str, npt.ArrayLike]:
    """`CHOICE_INPUTS` of a choice at every place. AR draws as a block's first step does."""
    return {
        "block_ids": OPEN,
        "temperature": how.temperature,
        "row_key": how.row_key,
        "position": how.position,
        "step": 0,
    }


def made_choices(outputs: Mapping[str, npt.NDArray[Any]]) -> Choices:
    """Downloaded `CHOICE_OUTPUTS`. A probability that is NaN comes from logits that are NaN or infinite."""
    usable = ~np.isnan(outputs["confidence"])
    return MadeChoices(np.where(usable, outputs["predicted_ids"], np.int32(NO_TOKEN)))

"""The backend over four ONNX Runtime sessions. State tensors are OrtValues and pass from call to call without
a copy.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
from onnxruntime import OrtValue

from ttc.errors import BackendError
from ttc.model.config import ModelConfig
from ttc.model.graphs import (
    STEP_OUTPUTS,
    GraphTensor,
    mamba_state,
    new_name,
    saved_inputs,
    state_tensors,
)
from ttc.runtime.interface.backend import Backend, ContextCall, Floats, Ints, StepInputs, StepOutputs
from ttc.runtime.interface.state import ContextState

__all__ = ["OnnxRuntimeBackend"]

_STEP_OUTPUTS = tuple(tensor.name for tensor in STEP_OUTPUTS)


class OnnxRuntimeBackend(Backend):
    """Args: sessions by role; the weights they use (kept alive here); the dtype computed in; device kind and
    index.
    """

    name = "onnxruntime"

    def __init__(
        self,
        config: ModelConfig,
        sessions: Mapping[str, onnxruntime.InferenceSession],
        weights: Mapping[str, OrtValue],
        compute_dtype: str,
        device: tuple[str, int],
        notes: Sequence[str],
    ) -> None:
        self.config, self.notes = config, tuple(notes)
        self._sessions, self._weights = dict(sessions), dict(weights)
        self.can_advance = "advance" in sessions
        self._dtype = np.dtype(compute_dtype)
        self._device = device
        self.threads = max(map(_threads, sessions.values())) if device[0] == "cpu" else None
        self._state = state_tensors(config)
        self._state_names = [tensor.name for tensor in self._state]
        self._mamba_names = [tensor.name for tensor in mamba_state(config)]
        self._saved_names = [tensor.name for tensor in saved_inputs(config)]

    @property
    def device_name(self) -> str:
        kind, index = self._device
        return kind if kind == "cpu" else f"{kind}:{index}"

    @property
    def computes_in(self) -> str:
        """Name of the dtype it computes in, which may be wider than the bundle's."""
        return str(self._dtype)

    def new_state(self, batch: int, capacity: int) -> ContextState:
        sizes = {"B": batch, "C": capacity}
        tensors = {
            tensor.name: self._value(np.zeros(tensor.sizes(sizes), self._dtype_of(tensor)))
            for tensor in self._state
        }
        return ContextState(capacity, np.zeros(batch, np.int32), tensors)

    def context(
        self,
        state: ContextState,
        input_ids: Ints,
        commit_len: Ints,
        logit_positions: Ints,
        save: bool = False,
    ) -> ContextCall:
        feeds = state.tensors | {
            "input_ids": self._value(input_ids),
            "lengths": self._value(state.lengths),
            "commit_len": self._value(commit_len),
            "logit_positions": self._value(logit_positions),
        }
        new_names = [new_name(name) for name in self._state_names]
        saved_names = self._saved_names if save else []
        outputs = self._run("context", feeds, ["logits", *new_names, *saved_names])
        state.tensors = {name: outputs[new_name(name)] for name in self._state_names}
        state.lengths = state.lengths + commit_len
        return ContextCall(outputs["logits"], {name: outputs[name] for name in saved_names})

    def advance(self, state: ContextState, saved: Any, commit_len: Ints) -> None:
        if self._mamba_names:
            mamba_state = {name: state.tensors[name] for name in self._mamba_names}
            feeds = {"commit_len": self._value(commit_len)} | saved | mamba_state
            outputs = self._run("advance", feeds, [new_name(name) for name in self._mamba_names])
            state.tensors = state.tensors | {name: outputs[new_name(name)] for name in self._mamba_names}
        state.lengths = state.lengths + commit_len

    def denoise(self, state: ContextState, block_ids: Ints, t: Floats) -> OrtValue:
        feeds = state.tensors | {
            "block_ids": self._value(block_ids),
            "t": self._value(t),
            "lengths": self._value(state.lengths),
        }
        return self._run("denoiser", feeds, ["logits"])["logits"]

    def fetch(self, logits: OrtValue) -> Floats:
        array: Floats = logits.numpy()
        return array

    def step(self, logits: OrtValue, inputs: StepInputs) -> StepOutputs:
        small = {name: self._value(getattr(inputs, name)) for name in StepInputs.__dataclass_fields__}
        outputs = self._run("step", {"logits": logits} | small, _STEP_OUTPUTS)
        return StepOutputs(*(outputs[name].numpy() for name in _STEP_OUTPUTS))

    def select(self, state: ContextState, rows: Ints) -> ContextState:
        tensors = {name: self._value(value.numpy()[rows]) for name, value in state.tensors.items()}
        return ContextState(state.capacity, state.lengths[rows], tensors)

    def read_state(self, state: ContextState) -> dict[str, Floats]:
        return {name: value.numpy().astype(np.float32) for name, value in state.tensors.items()}

    def write_state(self, capacity: int, lengths: Ints, tensors: Mapping[str, Any]) -> ContextState:
        made = {
            tensor.name: self._value(np.asarray(tensors[tensor.name], self._dtype_of(tensor)))
            for tensor in self._state
        }
        return ContextState(capacity, np.asarray(lengths, np.int32), made)

    def close(self) -> None:
        self._sessions.clear()
        self._weights.clear()

    def _dtype_of(self, tensor: GraphTensor) -> np.dtype[Any]:
        return np.dtype(tensor.dtype_in(str(self._dtype)))

    def _value(self, array: npt.NDArray[Any]) -> OrtValue:
        return OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array), *self._device)

    def _run(self, role: str, feeds: Mapping[str, OrtValue], outputs: Sequence[str]) -> dict[str, OrtValue]:
        session = self._sessions.get(role)
        if session is None:
            raise BackendError("the engine is closed; load the bundle again")
        if self._device[0] == "cpu":
            values = session.run_with_ort_values(list(outputs), dict(feeds))
        else:
            binding = session.io_binding()
            for name, value in feeds.items():
                binding.bind_ortvalue_input(name, value)
            for name in outputs:
                binding.bind_output(name, *self._device)
            session.run_with_iobinding(binding)
            values = binding.get_outputs()
        return dict(zip(outputs, values, strict=True))


def _threads(session: onnxruntime.InferenceSession) -> int:
    """Threads of a call; the library takes 0 for one per core."""
    asked: int = session.get_session_options().intra_op_num_threads
    return asked or os.cpu_count() or 1

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
from ttc.runtime.interface.backend import Backend, ContextCall, Floats, Ints, StepInputs, StepOutputs
from ttc.runtime.interface.state import ContextState, state_layout

__all__ = ["OnnxRuntimeBackend"]

_STEP_OUTPUTS = ("next_block_ids", "predicted_ids", "confidence", "masked_count")


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
        self._state_names = [tensor.name for tensor in state_layout(config, 0)]
        self._mamba_names = [
            name for name in self._state_names if name.startswith(("conv_state", "ssm_state"))
        ]
        mamba = [i for i, kind in enumerate(config.pattern) if kind == "M"]
        self._saved_names = [f"{name}.{i}" for i in mamba for name in ("saved_xbc", "saved_dt")]

    @property
    def device_name(self) -> str:
        kind, index = self._device
        return kind if kind == "cpu" else f"{kind}:{index}"

    @property
    def computes_in(self) -> str:
        """Name of the dtype it computes in, which may be wider than the bundle's."""
        return str(self._dtype)

    def new_state(self, batch: int, capacity: int) -> ContextState:
        tensors = {
            tensor.name: self._value(
                np.zeros((batch, *tensor.shape), np.float32 if tensor.float32 else self._dtype)
            )
            for tensor in state_layout(self.config, capacity)
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
        new_names = [f"new_{name}" for name in self._state_names]
        saved_names = self._saved_names if save else []
        outputs = self._run("context", feeds, ["logits", *new_names, *saved_names])
        state.tensors = {name: outputs[f"new_{name}"] for name in self._state_names}
        state.lengths = state.lengths + commit_len
        return ContextCall(outputs["logits"], {name: outputs[name] for name in saved_names})

    def advance(self, state: ContextState, saved: Any, commit_len: Ints) -> None:
        if self._mamba_names:
            mamba_state = {name: state.tensors[name] for name in self._mamba_names}
            feeds = {"commit_len": self._value(commit_len)} | saved | mamba_state
            outputs = self._run("advance", feeds, [f"new_{name}" for name in self._mamba_names])
            state.tensors = state.tensors | {name: outputs[f"new_{name}"] for name in self._mamba_names}
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
            tensor.name: self._value(
                np.asarray(tensors[tensor.name], np.float32 if tensor.float32 else self._dtype)
            )
            for tensor in state_layout(self.config, capacity)
        }
        return ContextState(capacity, np.asarray(lengths, np.int32), made)

    def close(self) -> None:
        self._sessions.clear()
        self._weights.clear()

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

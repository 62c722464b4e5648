"""The backend over four ONNX Runtime sessions.

State tensors are numpy arrays with room for more rows than are in use (memory that nobody wrote to costs
nothing). A call sees the rows that it is about as views of them, and writes back what it changed: the Mamba
state and the block's own keys and values.
"""

import contextlib
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
from onnxruntime import OrtValue

from ttc.base.quoting import escaped
from ttc.errors import BackendError
from ttc.model.config import ModelConfig
from ttc.model.graphs import (
    STEP_OUTPUTS,
    GraphTensor,
    graph_outputs,
    is_mamba_state,
    mamba_state,
    new_kv,
    new_kv_name,
    new_name,
    saved_inputs,
    state_tensors,
)
from ttc.runtime.backends.onnxruntime.spare_states import SpareStates
from ttc.runtime.interface.backend import Backend, ContextCall, Floats, Ints, StepInputs, StepOutputs
from ttc.runtime.interface.state import ContextState, RowPiece, as_span, lazy_zeros, reserved_rows

__all__ = ["OnnxRuntimeBackend", "faults_in"]

_STEP_OUTPUTS = tuple(tensor.name for tensor in STEP_OUTPUTS)


class OnnxRuntimeBackend(Backend):
    """Args: sessions by role; the weights they use (kept alive here); the dtype computed in; device kind and
    index.
    """

    name = "onnxruntime"
    can_save_rows = True
    _state_class: type[ContextState] = ContextState

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
        self._compute_dtype, self._dtype = compute_dtype, np.dtype(compute_dtype)
        self._device = device
        self.shares_state = device[0] != "cpu"
        # Role → further outputs of its graph, and who is told of them after every call.
        self.watched: Mapping[str, Collection[str]] = {}
        self.on_watched: Callable[[Mapping[str, Floats]], None] = lambda _: None
        self._seen: set[str] = set()  # graphs whose results' shapes were looked at
        self.threads = max(map(_threads, sessions.values())) if device[0] == "cpu" else None
        self._state = state_tensors(config)
        self._state_names = [tensor.name for tensor in self._state]
        self._mamba_names = [tensor.name for tensor in mamba_state(config)]
        # Output of the context graph → the cache that it extends.
        self._kv_names = {new_kv_name(name): name for name in self._state_names if not is_mamba_state(name)}
        self._saved_names = [tensor.name for tensor in saved_inputs(config)]
        self._spares = SpareStates()

    @property
    def device_name(self) -> str:
        kind, index = self._device
        return kind if kind == "cpu" else f"{kind}:{index}"

    @property
    def computes_in(self) -> str:
        """Name of the dtype it computes in, which may be wider than the bundle's."""
        return self._compute_dtype

    def new_state(self, batch: int, capacity: int) -> ContextState:
        spare = self._spares.take(capacity)
        if spare is not None:
            self.resize(spare, batch)
            return spare
        one = {"B": 1, "C": capacity}
        row_bytes = sum(prod(t.sizes(one)) * self._dtype_of(t).itemsize for t in self._state)
        room = reserved_rows(batch, row_bytes)
        tensors = {t.name: self._zeros(t, room, capacity) for t in self._state}
        return self._state_class(capacity, np.zeros(batch, np.int32), tensors)

    def release(self, state: ContextState) -> None:
        # Rows that left it before were cleared then.
        self.clear_rows(state, state.rows(None))
        self._spares.put(state)

    @property
    def spare_bytes(self) -> int:
        return self._spares.nbytes

    def context(
        self,
        state: ContextState,
        input_ids: Ints,
        commit_len: Ints,
        logit_positions: Ints,
        save: bool = False,
        rows: Ints | None = None,
    ) -> ContextCall:
        rows = state.rows(rows)
        lengths = state.lengths[rows]
        feeds = self._state_feeds(state, rows) | {
            "input_ids": self._value(input_ids),
            "lengths": self._value(lengths),
            "commit_len": self._value(commit_len),
            "logit_positions": self._value(logit_positions),
        }
        saved_names = self._saved_names if save else []
        names = ["logits", *map(new_name, self._mamba_names), *self._kv_names, *saved_names]
        outputs = self._run("context", feeds, names)
        self._write_mamba(state, rows, outputs)
        # Without `save` nobody will ask for more than is committed now.
        counts = np.full_like(commit_len, input_ids.shape[1]) if save else commit_len
        self._append_kv(state, rows, outputs, counts)
        state.lengths[rows] = lengths + commit_len
        return ContextCall(outputs["logits"], {name: outputs[name] for name in saved_names})

    def advance(self, state: ContextState, saved: Any, commit_len: Ints, rows: Ints | None = None) -> None:
        rows = state.rows(rows)
        if self._mamba_names:
            mamba = self._state_feeds(state, rows, self._mamba_names)
            feeds = {"commit_len": self._value(commit_len)} | saved | mamba
            self._write_mamba(
                state, rows, self._run("advance", feeds, list(map(new_name, self._mamba_names)))
            )
        state.lengths[rows] += commit_len

    def denoise(self, state: ContextState, block_ids: Ints, t: Floats, rows: Ints | None = None) -> OrtValue:
        rows = state.rows(rows)
        feeds = self._state_feeds(state, rows) | {
            "block_ids": self._value(block_ids),
            "t": self._value(t),
            "lengths": self._value(state.lengths[rows]),
        }
        return self._run("denoiser", feeds, ["logits"])["logits"]

    def fetch(self, logits: OrtValue) -> Floats:
        array: Floats = logits.numpy()
        return array

    def step(self, logits: OrtValue, inputs: StepInputs) -> StepOutputs:
        small = {name: self._value(getattr(inputs, name)) for name in StepInputs.__dataclass_fields__}
        outputs = self._run("step", {"logits": logits} | small, _STEP_OUTPUTS)
        return StepOutputs(*(outputs[name].numpy() for name in _STEP_OUTPUTS))

    def resize(self, state: ContextState, batch: int) -> None:
        for tensor in self._state:
            old = state.tensors[tensor.name]
            if batch > len(old):
                state.tensors[tensor.name] = self._zeros(tensor, 2 * batch, state.capacity)
                state.tensors[tensor.name][: len(old)] = old
        state.resize(batch)

    def clear_rows(self, state: ContextState, rows: Ints) -> None:
        # What a cache holds beyond a row's length is masked, but a NaN there would still come through.
        for name, tensor in state.tensors.items():
            for row in rows.tolist():
                if is_mamba_state(name):
                    tensor[row] = 0
                else:
                    tensor[row, :, : state.touched[row]] = 0
        state.lengths[rows] = state.touched[rows] = 0

    def copy_row(self, source: ContextState, row: int, target: ContextState, to: int) -> None:
        length = source.lengths[row]
        for name, tensor in source.tensors.items():
            if is_mamba_state(name):
                target.tensors[name][to] = tensor[row]
            else:
                target.tensors[name][to, :, :length] = tensor[row, :, :length]
        target.lengths[to] = length
        target.touched[to] = max(target.touched[to], length)

    def save_row(self, state: ContextState, row: int, start: int) -> RowPiece:
        stop = int(state.lengths[row])
        tensors = {
            name: (tensor[row] if is_mamba_state(name) else tensor[row, :, start:stop]).copy()
            for name, tensor in state.tensors.items()
        }
        finite = all(bool(np.isfinite(array).all()) for array in tensors.values())
        return RowPiece(start, stop, tensors, sum(array.nbytes for array in tensors.values()), finite)

    def load_row(self, state: ContextState, row: int, pieces: Sequence[RowPiece]) -> None:
        for name, tensor in state.tensors.items():
            if is_mamba_state(name):
                tensor[row] = pieces[-1].tensors[name]
            else:
                for piece in pieces:
                    tensor[row, :, piece.start : piece.stop] = piece.tensors[name]
        state.lengths[row] = state.touched[row] = pieces[-1].stop

    def read_state(self, state: ContextState, rows: Ints | None = None) -> dict[str, Floats]:
        rows = state.rows(rows)
        return {name: tensor[rows].astype(np.float32) for name, tensor in state.tensors.items()}

    def write_state(self, capacity: int, lengths: Ints, tensors: Mapping[str, Any]) -> ContextState:
        state = self.new_state(len(lengths), capacity)
        for name, tensor in state.tensors.items():
            tensor[: len(lengths)] = tensors[name]
        state.lengths[:] = state.touched[:] = lengths
        return state

    def end_profiles(self) -> dict[str, str]:
        """End the profiles of the sessions, which were asked for when they were made: role → file."""
        return {role: session.end_profiling() for role, session in self._sessions.items()}

    def close(self) -> None:
        self._spares.close()
        self._sessions.clear()
        self._weights.clear()

    def _state_feeds(
        self, state: ContextState, rows: Ints, names: Sequence[str] | None = None
    ) -> dict[str, OrtValue]:
        """The state of these rows: views where the rows are neighbours, else a copy."""
        span = as_span(rows)
        return {name: self._value(state.tensors[name][span]) for name in names or self._state_names}

    def _write_mamba(self, state: ContextState, rows: Ints, outputs: Mapping[str, OrtValue]) -> None:
        span = as_span(rows)
        for name in self._mamba_names:
            state.tensors[name][span] = outputs[new_name(name)].numpy()

    def _append_kv(
        self, state: ContextState, rows: Ints, outputs: Mapping[str, OrtValue], counts: Ints
    ) -> None:
        """Put each row's new keys and values (B, KV heads, L, P) after what its cache holds, the first
        `counts` of them.
        """
        for name, cache in self._kv_names.items():
            new, target = outputs[name].numpy(), state.tensors[cache]
            for i, row in enumerate(rows.tolist()):
                start, count = int(state.lengths[row]), int(counts[i])
                target[row, :, start : start + count] = new[i, :, :count]
        state.touched[rows] = np.maximum(state.touched[rows], state.lengths[rows] + counts)

    def _zeros(self, tensor: GraphTensor, rows: int, capacity: int) -> npt.NDArray[Any]:
        """Return the memory of one state tensor."""
        return lazy_zeros(tensor.sizes({"B": rows, "C": capacity}), self._dtype_of(tensor))

    def _dtype_of(self, tensor: GraphTensor) -> np.dtype[Any]:
        return np.dtype(tensor.dtype_in(self._compute_dtype))

    def _value(self, array: npt.NDArray[Any]) -> OrtValue:
        return OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array), *self._device)

    def _run(self, role: str, feeds: Mapping[str, OrtValue], outputs: Sequence[str]) -> dict[str, OrtValue]:
        session, watched = self._session(role), self.watched.get(role, ())
        with faults_in(role):
            values = self._called(session, feeds, [*outputs, *watched])
        found = dict(zip([*outputs, *watched], values, strict=True))
        self._see(role, found)
        return found

    def _session(self, role: str) -> onnxruntime.InferenceSession:
        session = self._sessions.get(role)
        if session is None:
            raise BackendError("the engine is closed; load the bundle again")
        return session

    def _see(self, role: str, found: dict[str, OrtValue]) -> None:
        """Look at a graph's results: at their shapes the first time, and at what somebody watches."""
        if role not in self._seen:
            self._check(role, found)
            self._seen.add(role)
        watched = {name: found.pop(name).numpy() for name in self.watched.get(role, ())}
        if watched:
            self.on_watched(watched)

    def _called(
        self,
        session: onnxruntime.InferenceSession,
        feeds: Mapping[str, OrtValue],
        outputs: Sequence[str],
    ) -> Sequence[OrtValue]:
        """Run one graph."""
        if self._device[0] == "cpu":
            return list(session.run_with_ort_values(list(outputs), dict(feeds)))
        binding = session.io_binding()
        for name, value in feeds.items():
            binding.bind_ortvalue_input(name, value)
        for name in outputs:
            binding.bind_output(name, *self._device)
        session.run_with_iobinding(binding)
        return list(binding.get_outputs())

    def _check(self, role: str, found: Mapping[str, OrtValue]) -> None:
        """Raise `BackendError` where a graph's first results are of other shapes than it must give."""
        dues = {each.name: each for each in (*graph_outputs(self.config, role), *new_kv(self.config))}
        for name, value in found.items():
            due = dues[name].shape if name in dues else None
            shape = value.shape()
            if due is not None and (
                len(shape) != len(due)
                or any(isinstance(n, int) and n != got for n, got in zip(due, shape, strict=True))
            ):
                raise BackendError(
                    f"the {role} graph gave {name} of shape {shape}, {list(due)} is due; export again"
                )


@contextlib.contextmanager
def faults_in(role: str) -> Iterator[None]:
    """Turn what ONNX Runtime raises in a call into a `BackendError` that names the graph."""
    try:
        yield
    except Exception as fault:  # ONNX Runtime's own classes have no common base but this
        lines = escaped(str(fault), kept="\n").strip().splitlines() or [type(fault).__name__]
        raise BackendError(f"ONNX Runtime failed in the {role} graph: {lines[0][:300]}") from fault


def _threads(session: onnxruntime.InferenceSession) -> int:
    """Threads of a call; the library takes 0 for one per core."""
    asked: int = session.get_session_options().intra_op_num_threads
    return asked or os.cpu_count() or 1

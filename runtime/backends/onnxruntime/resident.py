"""The backend over sessions on a GPU: state, caches and logits stay there, and tokens are chosen there.

A call is bound to values of its provider. What a context call gives becomes the state: the new Mamba state in
place of the old, and the caches in the very memory they had, where the provider allows that. Rows that come
and go are copied there too, by a small graph. Only token ids and what the host must know cross.

On a GPU it has not run yet; the tests run it on the CPU's provider, with the same bindings.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import onnxruntime
from onnxruntime import OrtValue

from ttc.model.config import ModelConfig
from ttc.model.graphs import is_mamba_state, new_name
from ttc.runtime.backends.onnxruntime.providers import Choice
from ttc.runtime.backends.onnxruntime.run import OnnxRuntimeBackend, faults_in
from ttc.runtime.backends.onnxruntime.small_graphs import ROW_GRAPH, row_graph, sample_graph
from ttc.runtime.backends.onnxruntime.values import element_type, value_of
from ttc.runtime.gpu.rows import RowsOfWholes
from ttc.runtime.gpu.sampling import sampled_tokens, sampling_inputs
from ttc.runtime.interface.backend import (
    Backend,
    BlockInputs,
    ContextCall,
    Floats,
    Ints,
    StepInputs,
    StepOutputs,
)
from ttc.runtime.interface.sampling import LazySamples, SampledTokens, SamplingParams
from ttc.runtime.interface.state import ContextState

__all__ = ["ResidentBackend"]

Array = npt.NDArray[Any]
_SAMPLED = ("predicted_ids", "confidence")


@dataclass(slots=True)
class _Resident:
    """A state tensor.

    Attributes:
        value: its numbers.
        dtype: their numpy name.
        kept: whose memory it is; None: the provider's, which a call made and may write again.
    """

    value: OrtValue
    dtype: str
    kept: Array | None

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.value.shape())

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape)) * np.dtype(self.dtype).itemsize


class ResidentBackend(RowsOfWholes, OnnxRuntimeBackend):
    """Args: as of `OnnxRuntimeBackend`, of sessions whose context graph gives whole caches; who computes
    them.
    """

    can_save_rows = False

    def __init__(
        self,
        config: ModelConfig,
        sessions: Mapping[str, onnxruntime.InferenceSession],
        weights: Mapping[str, OrtValue],
        compute_dtype: str,
        choice: Choice,
        notes: Sequence[str],
    ) -> None:
        super().__init__(config, sessions, weights, compute_dtype, choice.device, notes)
        self.shares_state = True
        self._choice = choice
        self._small: dict[Any, onnxruntime.InferenceSession] = {}

    # What `OnnxRuntimeBackend` does with arrays of the host is done over whole states here.
    release = Backend.release

    @property
    def spare_bytes(self) -> int:
        return 0

    def rows_of(self, state: ContextState) -> int:
        return next(iter(state.tensors.values())).shape[0] if state.tensors else state.batch

    def new_whole(self, batch: int, capacity: int) -> ContextState:
        tensors = {}
        for tensor in self._state:
            zeros = np.zeros(tensor.sizes({"B": batch, "C": capacity}), self._dtype_of(tensor))
            tensors[tensor.name] = _Resident(value_of(zeros), tensor.dtype_in(self._compute_dtype), zeros)
        return ContextState(capacity, np.zeros(batch, np.int32), tensors)

    def context_whole(
        self,
        state: ContextState,
        input_ids: Ints,
        commit_len: Ints,
        logit_positions: Ints,
        save: bool = False,
    ) -> ContextCall:
        feeds = self._small_values(
            input_ids=input_ids, lengths=state.lengths, commit_len=commit_len, logit_positions=logit_positions
        )
        feeds |= {name: tensor.value for name, tensor in state.tensors.items()}
        over = {
            new_name(name): tensor.value
            for name, tensor in state.tensors.items()
            if self._choice.writes_in_place and tensor.kept is None and not is_mamba_state(name)
        }
        saved_names = self._saved_names if save else []
        wanted = ["logits", *map(new_name, self._state_names), *saved_names]
        outputs = self._bound("context", feeds, wanted, over)
        for name, tensor in state.tensors.items():
            tensor.value, tensor.kept = outputs[new_name(name)], None
        state.lengths[:] += commit_len
        saved = {name: outputs[name] for name in saved_names}
        return ContextCall(outputs["logits"], saved if save else None)

    def sample_next_whole(
        self,
        state: ContextState,
        input_ids: Ints,
        commit_len: Ints,
        logit_positions: Ints,
        how: SamplingParams,
        save: bool = False,
    ) -> tuple[SampledTokens, Any]:
        call = self.context_whole(state, input_ids, commit_len, logit_positions, save)
        samples = self.sample_whole(call.logits, how)
        return samples or LazySamples(self.fetch_whole(call.logits), how), call.saved

    def sample_whole(self, logits: OrtValue, how: SamplingParams) -> SampledTokens | None:
        if any(row.host_only is not None for row in how.rows):
            return None
        B, R, V = logits.shape()
        shapes = {"block_ids": (B, R)}
        kinds = {"temperature": np.float32, "row_key": np.int64}
        given = {
            name: np.ascontiguousarray(
                np.broadcast_to(np.asarray(value, kinds.get(name, np.int32)), shapes.get(name, (B,)))
            )
            for name, value in sampling_inputs(how).items()
        }
        session = self._own("sample", lambda: sample_graph(V))
        with faults_in("sample"):
            found = self._called(session, {"logits": logits, **self._small_values(**given)}, _SAMPLED)
        return sampled_tokens({name: value.numpy() for name, value in zip(_SAMPLED, found, strict=True)})

    def advance_whole(self, state: ContextState, saved: Any, commit_len: Ints) -> None:
        if self._mamba_names:
            feeds = self._small_values(commit_len=commit_len) | saved
            feeds |= {name: state.tensors[name].value for name in self._mamba_names}
            outputs = self._bound("advance", feeds, [new_name(name) for name in self._mamba_names], {})
            for name in self._mamba_names:
                state.tensors[name].value, state.tensors[name].kept = outputs[new_name(name)], None
        state.lengths[:] += commit_len

    def denoise_whole(self, state: ContextState, block_ids: Ints, t: Floats) -> OrtValue:
        feeds = self._small_values(block_ids=block_ids, t=t, lengths=state.lengths)
        feeds |= {name: tensor.value for name, tensor in state.tensors.items()}
        return self._bound("denoiser", feeds, ["logits"], {})["logits"]

    def denoise_step_whole(self, state: ContextState, t: Floats, inputs: StepInputs) -> StepOutputs:
        return self.step_whole(self.denoise_whole(state, inputs.block_ids, t), inputs)

    def fill_whole(self, state: ContextState, inputs: BlockInputs) -> None:
        return None

    def fetch_whole(self, logits: OrtValue) -> Floats:
        array: Floats = logits.numpy()
        return array

    def step_whole(self, logits: OrtValue, inputs: StepInputs) -> StepOutputs:
        return OnnxRuntimeBackend.step(self, logits, inputs)

    def clear_rows(self, state: ContextState, rows: Ints) -> None:
        for tensor in state.tensors.values():
            nothing = np.zeros((1, *tensor.shape[1:]), tensor.dtype)
            for row in rows.tolist():
                self._put_row(tensor, row, value_of(nothing), 0)
        state.lengths[rows] = state.touched[rows] = 0

    def copy_row(self, source: ContextState, row: int, target: ContextState, to: int) -> None:
        for name, tensor in target.tensors.items():
            of = source.tensors[name]
            if of.shape[1:] == tensor.shape[1:]:
                self._put_row(tensor, to, of.value, row)
                continue
            tokens = min(source.capacity, target.capacity)
            changed = np.zeros((1, *tensor.shape[1:]), tensor.dtype)
            changed[:, :, :tokens] = self._on_host(of)[row, :, :tokens]
            self._put_row(tensor, to, value_of(changed), 0)
        target.lengths[to] = source.lengths[row]

    def read_state(self, state: ContextState, rows: Ints | None = None) -> dict[str, Floats]:
        which = state.rows(rows)
        return {name: self._on_host(x).astype(np.float32)[which] for name, x in state.tensors.items()}

    def write_state(self, capacity: int, lengths: Ints, tensors: Mapping[str, Any]) -> ContextState:
        state = self.new_state(len(lengths), capacity)
        for name, tensor in state.tensors.items():
            values = np.zeros(tensor.shape, tensor.dtype)
            values[: len(lengths)] = tensors[name]
            tensor.value, tensor.kept = value_of(values), values
        state.lengths[:] = lengths
        return state

    def close(self) -> None:
        self._small.clear()
        super().close()

    def _put_row(self, tensor: _Resident, to: int, source: OrtValue, row: int) -> None:
        """Replace one row of a tensor, whose value is another afterwards."""
        rank = len(tensor.shape)
        session = self._own((tensor.dtype, rank), lambda: row_graph(tensor.dtype, rank))
        numbers = [np.array([number], np.int64) for number in (to, row)]
        feeds = dict(
            zip(ROW_GRAPH, (tensor.value, value_of(numbers[0]), source, value_of(numbers[1])), strict=False)
        )
        with faults_in("rows"):
            (tensor.value,) = self._called(session, feeds, ROW_GRAPH[-1:])
        tensor.kept = None

    def _on_host(self, tensor: _Resident) -> Array:
        """Return a copy of a tensor in the host's memory: a graph writes it there, whatever its dtype."""
        rank, dtype = len(tensor.shape), tensor.dtype
        session = self._own((dtype, rank), lambda: row_graph(dtype, rank))
        zero, found = np.zeros(1, np.int64), np.empty(tensor.shape, dtype)
        binding = session.io_binding()
        for name, value in zip(
            ROW_GRAPH, (tensor.value, value_of(zero), tensor.value, value_of(zero)), strict=False
        ):
            binding.bind_ortvalue_input(name, value)
        address = found.ctypes.data
        binding.bind_output(ROW_GRAPH[-1], "cpu", 0, element_type(dtype), tensor.shape, address)
        with faults_in("rows"):
            session.run_with_iobinding(binding)
        return found

    def _bound(
        self, role: str, feeds: Mapping[str, OrtValue], wanted: Sequence[str], over: Mapping[str, OrtValue]
    ) -> dict[str, OrtValue]:
        """Run a graph; outputs named in `over` are written into those values."""
        session, watched = self._session(role), list(self.watched.get(role, ()))
        binding, names = session.io_binding(), [*wanted, *watched]
        taken = {each.name for each in session.get_inputs()}
        for name, value in feeds.items():
            if name in taken:
                binding.bind_ortvalue_input(name, value)
        for name in names:
            if name in over:
                binding.bind_ortvalue_output(name, over[name])
            else:
                binding.bind_output(name, *self._device)
        with faults_in(role):
            session.run_with_iobinding(binding)
        found = dict(zip(names, binding.get_outputs(), strict=True))
        self._see(role, found)
        return found

    def _own(self, key: Any, make: Any) -> onnxruntime.InferenceSession:
        """Return the session of a small graph, made when it is first needed."""
        self._session("denoiser")  # of a closed engine there is none
        if key not in self._small:
            content = ir.serde.serialize_model(make()).SerializeToString()
            options = onnxruntime.SessionOptions()
            options.log_severity_level = 3
            self._small[key] = onnxruntime.InferenceSession(content, options, self._choice.providers)
        return self._small[key]

    def _small_values(self, **arrays: Array) -> dict[str, OrtValue]:
        return {name: self._value(array) for name, array in arrays.items()}

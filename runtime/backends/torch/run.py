"""The backend over `ttc.model.towers`, one eager call after another."""

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ttc.errors import BackendError
from ttc.model import towers
from ttc.model.config import ModelConfig
from ttc.model.graphs import GraphTensor, is_kv_cache, layer_names, state_tensors
from ttc.model.mixers import LayerState, RunOp
from ttc.model.towers import TowerWeights
from ttc.model.weights import CONTEXT, DENOISER
from ttc.plugins.diffusion_step import DIFFUSION_STEP
from ttc.plugins.naive import run_naive
from ttc.runtime.interface.backend import Backend, ContextCall, Floats, Ints, StepInputs, StepOutputs
from ttc.runtime.interface.state import ContextState, RowPiece, as_span, lazy_zeros, reserved_rows

__all__ = ["TorchBackend"]


class TorchBackend(Backend):
    """Args: the weights by checkpoint name, on `device`; the compute dtype; what times are rounded to, if not
    to that.

    `record`, where set, sees every layer's residual stream (`ttc.model.towers.Record`); `run_op` computes
    the `ttc` ops.
    """

    name = "torch"
    can_save_rows = True
    notes = ()

    def __init__(
        self,
        config: ModelConfig,
        weights: Mapping[str, Tensor],
        dtype: torch.dtype,
        device: torch.device,
        time_dtype: torch.dtype | None = None,
    ) -> None:
        self.config, self._dtype, self._device, self._time_dtype = config, dtype, device, time_dtype
        self.shares_state = device.type != "cpu"
        self.record: towers.Record | None = None
        self.run_op: RunOp = run_naive
        self._towers = {tower: TowerWeights.of(config, tower, weights) for tower in (CONTEXT, DENOISER)}

    @property
    def device_name(self) -> str:
        return str(self._device)

    @property
    def threads(self) -> int | None:  # type: ignore[override]  # torch has them for the whole process
        """Threads of torch on the CPU."""
        return torch.get_num_threads() if self._device.type == "cpu" else None

    def new_state(self, batch: int, capacity: int) -> ContextState:
        state, one = state_tensors(self.config), {"B": 1, "C": capacity}
        if self._device.type == "cpu":
            row_bytes = sum(prod(t.sizes(one)) * self._dtype_of(t).itemsize for t in state)
            sizes = {"B": reserved_rows(batch, row_bytes), "C": capacity}
        else:
            sizes = {"B": batch, "C": capacity}  # memory of a GPU costs as soon as it is asked for
        tensors = {t.name: self._zeros(t.sizes(sizes), self._dtype_of(t)) for t in state}
        return ContextState(capacity, np.zeros(batch, np.int32), tensors)

    @torch.inference_mode()
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
        logits, new_state, saved = towers.context_forward(
            self.config,
            self._tower(CONTEXT),
            self.run_op,
            self._tensor(input_ids),
            self._tensor(lengths),
            self._tensor(commit_len),
            self._tensor(logit_positions),
            self._by_layer(state, rows),
            self.record,
            _new_kv,
        )
        # Without `save` nobody will ask for more than is committed now.
        counts = np.full_like(commit_len, input_ids.shape[1]) if save else commit_len
        for i, new in enumerate(new_state):
            for name, tensor in zip(layer_names(self.config, i), new, strict=True):
                if is_kv_cache(name):
                    self._append_kv(state, rows, name, tensor, counts)
                else:
                    state.tensors[name][self._span(rows)] = tensor
        state.touched[rows] = np.maximum(state.touched[rows], lengths + counts)
        state.lengths[rows] = lengths + commit_len
        return ContextCall(logits, saved if save else None)

    @torch.inference_mode()
    def advance(self, state: ContextState, saved: Any, commit_len: Ints, rows: Ints | None = None) -> None:
        rows = state.rows(rows)
        count, weights = self._tensor(commit_len), self._tower(CONTEXT)
        layers = enumerate(zip(saved, self._by_layer(state, rows), strict=True))
        for i, (layer_saved, layer_state) in layers:
            if layer_saved:
                xbc, dt = layer_saved
                moved = towers.advance_layer(
                    self.config, weights.layers[i], self.run_op, xbc, dt, count, layer_state
                )
                for name, tensor in zip(layer_names(self.config, i), moved, strict=True):
                    state.tensors[name][self._span(rows)] = tensor
        state.lengths[rows] += commit_len

    @torch.inference_mode()
    def denoise(self, state: ContextState, block_ids: Ints, t: Floats, rows: Ints | None = None) -> Tensor:
        rows = state.rows(rows)
        return towers.denoiser_forward(
            self.config,
            self._tower(DENOISER),
            self.run_op,
            self._tensor(block_ids),
            self._tensor(t),
            self._tensor(state.lengths[rows]),
            self._by_layer(state, rows),
            self.record,
            self._time_dtype,
        )

    def fetch(self, logits: Tensor) -> Floats:
        array: Floats = logits.cpu().numpy()
        return array

    @torch.inference_mode()
    def step(self, logits: Tensor, inputs: StepInputs) -> StepOutputs:
        small = [self._tensor(getattr(inputs, spec.name)) for spec in DIFFUSION_STEP.inputs[1:]]
        outputs = self.run_op(DIFFUSION_STEP, logits, *small, mask_id=self.config.mask_token_id)
        named = dict(zip((spec.name for spec in DIFFUSION_STEP.outputs), outputs, strict=True))
        return StepOutputs(**{name: tensor.cpu().numpy() for name, tensor in named.items()})

    @torch.inference_mode()
    def resize(self, state: ContextState, batch: int) -> None:
        for name, tensor in state.tensors.items():
            if batch > len(tensor):
                larger = self._zeros((2 * batch, *tensor.shape[1:]), tensor.dtype)
                larger[: len(tensor)] = tensor
                state.tensors[name] = larger
        state.resize(batch)

    @torch.inference_mode()
    def clear_rows(self, state: ContextState, rows: Ints) -> None:
        # What a cache holds beyond a row's length is masked, but a NaN there would still come through.
        for name, tensor in state.tensors.items():
            for row in rows.tolist():
                if is_kv_cache(name):
                    tensor[row, :, : int(state.touched[row])] = 0
                else:
                    tensor[row] = 0
        state.lengths[rows] = state.touched[rows] = 0

    @torch.inference_mode()
    def copy_row(self, source: ContextState, row: int, target: ContextState, to: int) -> None:
        length = int(source.lengths[row])
        for name, tensor in source.tensors.items():
            if is_kv_cache(name):
                target.tensors[name][to, :, :length] = tensor[row, :, :length]
            else:
                target.tensors[name][to] = tensor[row]
        target.lengths[to] = length
        target.touched[to] = max(target.touched[to], length)

    @torch.inference_mode()
    def save_row(self, state: ContextState, row: int, start: int) -> RowPiece:
        stop = int(state.lengths[row])
        tensors = {
            name: (tensor[row, :, start:stop] if is_kv_cache(name) else tensor[row]).clone()
            for name, tensor in state.tensors.items()
        }
        finite = all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values())
        return RowPiece(start, stop, tensors, sum(tensor.nbytes for tensor in tensors.values()), finite)

    @torch.inference_mode()
    def load_row(self, state: ContextState, row: int, pieces: Sequence[RowPiece]) -> None:
        for name, tensor in state.tensors.items():
            if is_kv_cache(name):
                for piece in pieces:
                    tensor[row, :, piece.start : piece.stop] = piece.tensors[name]
            else:
                tensor[row] = pieces[-1].tensors[name]
        state.lengths[row] = state.touched[row] = pieces[-1].stop

    def read_state(self, state: ContextState, rows: Ints | None = None) -> dict[str, Floats]:
        span = self._span(state.rows(rows))
        # Copied: the state itself changes in place.
        return {name: tensor[span].float().cpu().numpy().copy() for name, tensor in state.tensors.items()}

    @torch.inference_mode()
    def write_state(self, capacity: int, lengths: Ints, tensors: Mapping[str, Any]) -> ContextState:
        state = self.new_state(len(lengths), capacity)
        for name, tensor in state.tensors.items():
            tensor[: len(lengths)] = torch.as_tensor(np.array(tensors[name], np.float32)).to(tensor)
        state.lengths[:] = state.touched[:] = lengths
        return state

    def close(self) -> None:
        self._towers.clear()

    def _tower(self, tower: str) -> TowerWeights:
        if tower not in self._towers:
            raise BackendError("the engine is closed; load the bundle again")
        return self._towers[tower]

    def _tensor(self, array: npt.NDArray[Any]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self._device)

    def _span(self, rows: Ints) -> slice | Tensor:
        span = as_span(rows)
        return span if isinstance(span, slice) else self._tensor(span).long()

    def _by_layer(self, state: ContextState, rows: Ints) -> list[tuple[Tensor, ...]]:
        """The state of these rows: views where the rows are neighbours, else a copy."""
        span = self._span(rows)
        return [
            tuple(state.tensors[name][span] for name in layer_names(self.config, i))
            for i in range(self.config.num_layers)
        ]

    def _append_kv(self, state: ContextState, rows: Ints, name: str, new: Tensor, counts: Ints) -> None:
        """Put the first `counts` new keys or values (B, KV heads, L, P) of each row after those it has."""
        for i, row in enumerate(rows.tolist()):
            start, count = int(state.lengths[row]), int(counts[i])
            state.tensors[name][row, :, start : start + count] = new[i, :, :count]

    def _dtype_of(self, tensor: GraphTensor) -> torch.dtype:
        return torch.float32 if tensor.dtype == "float32" else self._dtype

    def _zeros(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        if self._device.type != "cpu":
            return torch.zeros(*shape, dtype=dtype, device=self._device)
        # torch's own zeros take their memory at once.
        raw = lazy_zeros((prod(shape) * dtype.itemsize,), np.uint8)
        return torch.from_numpy(raw).view(dtype).view(*shape)


def _new_kv(state: LayerState, keys: Tensor, values: Tensor, lengths: Tensor) -> LayerState:
    """In place of a cache with them: the block's keys and values."""
    return keys, values

"""The backend over `ttc.model.towers`, one eager call after another."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ttc.errors import BackendError
from ttc.model import towers
from ttc.model.config import ModelConfig
from ttc.model.graphs import COMPUTE, GraphTensor, layer_names, state_tensors
from ttc.model.mixers import RunOp
from ttc.model.towers import TowerWeights
from ttc.model.weights import CONTEXT, DENOISER
from ttc.plugins.diffusion_step import DIFFUSION_STEP
from ttc.plugins.naive import run_naive
from ttc.runtime.interface.backend import Backend, ContextCall, Floats, Ints, StepInputs, StepOutputs
from ttc.runtime.interface.state import ContextState

__all__ = ["TorchBackend"]


class TorchBackend(Backend):
    """Args: the weights by checkpoint name, on `device`; the compute dtype; what times are rounded to, if not
    to that.

    `record`, where set, sees every layer's residual stream (`ttc.model.towers.Record`); `run_op` computes
    the `ttc` ops.
    """

    name = "torch"
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
        self._state = state_tensors(config)
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
        sizes = {"B": batch, "C": capacity}
        tensors = {
            tensor.name: torch.zeros(tensor.sizes(sizes), dtype=self._dtype_of(tensor), device=self._device)
            for tensor in self._state
        }
        return ContextState(capacity, np.zeros(batch, np.int32), tensors)

    @torch.inference_mode()
    def context(
        self,
        state: ContextState,
        input_ids: Ints,
        commit_len: Ints,
        logit_positions: Ints,
        save: bool = False,
    ) -> ContextCall:
        logits, new_state, saved = towers.context_forward(
            self.config,
            self._tower(CONTEXT),
            self.run_op,
            self._tensor(input_ids),
            self._tensor(state.lengths),
            self._tensor(commit_len),
            self._tensor(logit_positions),
            self._by_layer(state),
            self.record,
        )
        names = [tensor.name for tensor in self._state]
        flat = [tensor for layer in new_state for tensor in layer]
        state.tensors = dict(zip(names, flat, strict=True))
        state.lengths = state.lengths + commit_len
        return ContextCall(logits, saved if save else None)

    @torch.inference_mode()
    def advance(self, state: ContextState, saved: Any, commit_len: Ints) -> None:
        count = self._tensor(commit_len)
        weights = self._tower(CONTEXT)
        for i, (layer_saved, layer_state) in enumerate(zip(saved, self._by_layer(state), strict=True)):
            if layer_saved:
                xbc, dt = layer_saved
                after = towers.advance_layer(
                    self.config, weights.layers[i], self.run_op, xbc, dt, count, layer_state
                )
                state.tensors = state.tensors | dict(zip(layer_names(self.config, i), after, strict=True))
        state.lengths = state.lengths + commit_len

    @torch.inference_mode()
    def denoise(self, state: ContextState, block_ids: Ints, t: Floats) -> Tensor:
        return towers.denoiser_forward(
            self.config,
            self._tower(DENOISER),
            self.run_op,
            self._tensor(block_ids),
            self._tensor(t),
            self._tensor(state.lengths),
            self._by_layer(state),
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

    def select(self, state: ContextState, rows: Ints) -> ContextState:
        index = self._tensor(rows)
        tensors = {name: tensor.index_select(0, index) for name, tensor in state.tensors.items()}
        return ContextState(state.capacity, state.lengths[rows], tensors)

    def read_state(self, state: ContextState) -> dict[str, Floats]:
        return {name: tensor.float().cpu().numpy() for name, tensor in state.tensors.items()}

    def write_state(self, capacity: int, lengths: Ints, tensors: Mapping[str, Any]) -> ContextState:
        made = {
            tensor.name: torch.as_tensor(
                np.array(tensors[tensor.name], np.float32),
                dtype=self._dtype_of(tensor),
                device=self._device,
            )
            for tensor in self._state
        }
        return ContextState(capacity, np.asarray(lengths, np.int32), made)

    def close(self) -> None:
        self._towers.clear()

    def _tower(self, tower: str) -> TowerWeights:
        if tower not in self._towers:
            raise BackendError("the engine is closed; load the bundle again")
        return self._towers[tower]

    def _dtype_of(self, tensor: GraphTensor) -> torch.dtype:
        return self._dtype if tensor.dtype == COMPUTE else getattr(torch, tensor.dtype)

    def _tensor(self, array: npt.NDArray[Any]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self._device)

    def _by_layer(self, state: ContextState) -> list[tuple[Tensor, ...]]:
        return [
            tuple(state.tensors[name] for name in layer_names(self.config, i))
            for i in range(self.config.num_layers)
        ]

"""The context state of B rows at fixed addresses, and what moves it."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from ttc.runtime.gpu.device import DeviceArray, Enqueue, Scope
from ttc.runtime.gpu.device_runtime import DeviceRuntime
from ttc.runtime.gpu.executor import cache_specs, mamba_specs, new_kv_specs, saved_specs, state_specs
from ttc.runtime.gpu.packed_buffer import PackedBuffer, pack
from ttc.runtime.gpu.sampling import bind_sampling

__all__ = ["StateBuffers"]

# The lengths after the new keys and values; no graph has a tensor of this name.
_LENGTHS = "lengths_before"


class StateBuffers:
    """The state of one batch size and capacity.

    Args:
        scope: its memory, and that of all calls over it.
        batch: B rows.
        capacity: C tokens that the caches hold.

    Attributes:
        state: name → tensor (B, …), see `state_specs`.
        new_state: name → Mamba's new state, of the same shapes, for an executor that does not write in place;
            empty otherwise.
    """

    def __init__(self, runtime: DeviceRuntime, scope: Scope, batch: int, capacity: int) -> None:
        self.runtime, self.scope, self.batch, self.capacity = runtime, scope, batch, capacity
        config, dtype = runtime.config, runtime.executor.compute_dtype
        self._whole, self.state = pack(scope, state_specs(config, dtype, batch, capacity), {})
        self._caches = [self.state[name] for name in cache_specs(config, dtype, batch, capacity)]
        # Mamba's new state, in the order of the old one, and so of one size with it.
        mamba = mamba_specs(config, dtype, batch)
        self.mamba = {name: self.state[name] for name in mamba}
        self._new_mamba: DeviceArray | None = None
        self.new_state: dict[str, DeviceArray] = {}
        if mamba and not runtime.executor.in_place:
            new = {f"new_{name}": spec for name, spec in mamba.items()}
            self._new_mamba, self.new_state = pack(scope, new, {})
        self._saved: dict[int, dict[str, DeviceArray]] = {}
        self._new_kv: dict[int, tuple[DeviceArray, dict[str, DeviceArray]]] = {}

    @property
    def whole_state(self) -> DeviceArray:
        """The state as one piece of memory; of equal size in all buffers of this batch and capacity."""
        return self._whole

    def clear(self) -> None:
        """Enqueue setting the state to zero."""
        self.scope.device.fill(self._whole, 0)

    def saved(self, length: int) -> dict[str, DeviceArray]:
        """Return what context calls over L tokens leave for `advance`: name → (B, L, …)."""
        if length not in self._saved:
            specs = saved_specs(self.runtime.config, self.runtime.executor.compute_dtype, self.batch, length)
            self._saved[length] = pack(self.scope, specs, {})[1]
        return self._saved[length]

    def new_kv(self, length: int) -> dict[str, DeviceArray]:
        """Return where context calls over L tokens put their keys and values, name → (B, H, L, P), and after
        them the lengths before the call; empty where the executor writes into the caches itself.
        """
        return self._packed_new_kv(length)[1] if self._appends_kv else {}

    def commit_mamba(self) -> None:
        """Enqueue making Mamba's new state the state."""
        if self._new_mamba is not None:
            (old,) = self.changed_mamba()
            self.scope.device.copy(old, self._new_mamba)

    def commit(self, inputs: PackedBuffer, length: int) -> None:
        """Enqueue making the new state of a context call over L tokens the state.

        Args:
            inputs: of the call, its lengths among them.
        """
        self.commit_mamba()
        if self._appends_kv:
            self.scope.device.copy(self.new_kv(length)[_LENGTHS], inputs.device["lengths"])
            self.append_kv(length, inputs.host["lengths"])

    def append_kv(self, length: int, lengths: npt.NDArray[np.int32]) -> None:
        """Enqueue appending the keys and values of a call over L tokens; lengths: (B,) tokens before it."""
        new_kv = dict(self.new_kv(length))
        on_device = new_kv.pop(_LENGTHS)
        self.runtime.appender.append(list(new_kv.values()), self._caches, on_device, lengths)

    def changed_mamba(self) -> list[DeviceArray]:
        """Return what `advance` changes, as pieces of memory that are equal in all buffers of this size."""
        if self._new_mamba is None:
            return []
        return [DeviceArray.at(self._whole.memory, 0, "uint8", self._new_mamba.shape)]

    def changed_kv(self, length: int) -> list[DeviceArray]:
        """Return what a context call over L tokens brings beside that, in the same way."""
        return [self._packed_new_kv(length)[0]] if self._appends_kv else []

    def bind_sampling(
        self, inputs: PackedBuffer, logits: DeviceArray, outputs: PackedBuffer, sizes: Mapping[str, int]
    ) -> Enqueue:
        """Return the work that samples tokens from logits (B, R, V); none where the device cannot."""
        if self.runtime.sampling_problem is not None:
            return lambda: None
        return bind_sampling(self.runtime.executor, self.scope, inputs, logits, outputs, sizes)

    def sizes(self, length: int, positions: int = 1) -> dict[str, int]:
        """Return the letters of the graphs' shapes in numbers; R is for logit positions."""
        return {"B": self.batch, "L": length, "C": self.capacity, "R": positions}

    def close(self) -> None:
        """Give back the memory; nothing may be running on it. Never raises."""
        self.scope.close()
        for made in (self._saved, self._new_kv):
            made.clear()

    @property
    def _appends_kv(self) -> bool:
        return bool(self._caches) and not self.runtime.executor.in_place

    def _packed_new_kv(self, length: int) -> tuple[DeviceArray, dict[str, DeviceArray]]:
        if length not in self._new_kv:
            specs = new_kv_specs(self.runtime.config, self.runtime.executor.compute_dtype, self.batch, length)
            lengths = {_LENGTHS: ("int32", (self.batch,))}
            self._new_kv[length] = pack(self.scope, {**specs, **lengths}, {})
        return self._new_kv[length]

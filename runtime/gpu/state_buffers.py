"""The context state of B rows at fixed addresses, and what moves it."""

import numpy as np
import numpy.typing as npt

from ttc.runtime.gpu.call_place import CallPlace
from ttc.runtime.gpu.device import DeviceArray, Scope
from ttc.runtime.gpu.device_runtime import DeviceRuntime
from ttc.runtime.gpu.executor import Specs, cache_specs, mamba_specs, new_kv_specs, saved_specs, state_specs
from ttc.runtime.gpu.packed_buffer import PackedBuffer, pack

__all__ = ["StateBuffers"]

# The lengths after the new keys and values; no graph has a tensor of this name.
_LENGTHS = "lengths_before"


class StateBuffers(CallPlace):
    """The state of one batch size and capacity.

    Args:
        scope: its memory, and that of all calls over it.
        batch: B rows.
        capacity: C tokens that the caches hold.

    The state is that of these rows, see `state_specs`; new Mamba state has the same shapes.
    """

    def __init__(self, runtime: DeviceRuntime, scope: Scope, batch: int, capacity: int) -> None:
        self.runtime, self.scope, self.batch, self.capacity = runtime, scope, batch, capacity
        self.placement: Specs = {}
        config, dtype = runtime.config, runtime.executor.compute_dtype
        self._whole, self.state = pack(scope, state_specs(config, dtype, batch, capacity), {})
        self._caches = [self.state[name] for name in cache_specs(config, dtype, batch, capacity)]
        # Mamba's new state, in the order of the old one, and so of one size with it.
        mamba = mamba_specs(config, dtype, batch)
        self._mamba = {name: self.state[name] for name in mamba}
        self._new_mamba: DeviceArray | None = None
        self.new_state: dict[str, DeviceArray] = {}
        if mamba:
            new = {f"new_{name}": spec for name, spec in mamba.items()}
            self._new_mamba, self.new_state = pack(scope, new, {})
        self._saved: dict[int, dict[str, DeviceArray]] = {}
        self._new_kv: dict[int, tuple[DeviceArray, dict[str, DeviceArray]]] = {}

    @property
    def mamba(self) -> dict[str, DeviceArray]:
        return self._mamba

    @property
    def whole_state(self) -> DeviceArray:
        """The state as one piece of memory; of equal size in all buffers of this batch and capacity."""
        return self._whole

    def clear(self) -> None:
        """Enqueue setting the state to zero."""
        self.scope.device.fill(self._whole, 0)

    def logits(self, positions: int) -> DeviceArray:
        shape = self.batch, positions, self.runtime.config.vocab_size
        return self.scope.array(self.runtime.executor.logits_dtype, shape)

    def saved(self, length: int) -> dict[str, DeviceArray]:
        if length not in self._saved:
            specs = saved_specs(self.runtime.config, self.runtime.executor.compute_dtype, self.batch, length)
            self._saved[length] = pack(self.scope, specs, {})[1]
        return self._saved[length]

    def new_kv(self, length: int) -> dict[str, DeviceArray]:
        """Return where context calls over L tokens put their keys and values, name → (B, H, L, P), and after
        them the lengths before the call; empty without attention.
        """
        return self._packed_new_kv(length)[1] if self._caches else {}

    def commit_mamba(self) -> None:
        if self._new_mamba is not None:
            (old,) = self.changed_mamba()
            self.scope.device.copy(old, self._new_mamba)

    def commit(self, inputs: PackedBuffer, length: int) -> None:
        self.commit_mamba()
        if self._caches:
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
        return [self._packed_new_kv(length)[0]] if self._caches else []

    def sizes(self, length: int, positions: int = 1) -> dict[str, int]:
        return {"B": self.batch, "L": length, "C": self.capacity, "R": positions}

    def close(self) -> None:
        """Give back the memory; nothing may be running on it. Never raises."""
        self.scope.close()
        for made in (self._saved, self._new_kv):
            made.clear()

    def _packed_new_kv(self, length: int) -> tuple[DeviceArray, dict[str, DeviceArray]]:
        if length not in self._new_kv:
            specs = new_kv_specs(self.runtime.config, self.runtime.executor.compute_dtype, self.batch, length)
            lengths = {_LENGTHS: ("int32", (self.batch,))}
            self._new_kv[length] = pack(self.scope, {**specs, **lengths}, {})
        return self._new_kv[length]

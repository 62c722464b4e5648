"""The memory of a pool: the Mamba state of its rows, the keys and values of its pages, at fixed addresses."""

from collections.abc import Sequence

from ttc.base.dims import Shape, sizes_of
from ttc.base.dtypes import stored_bytes
from ttc.plugins.launch import ALIGNMENT
from ttc.runtime.gpu.device import DeviceArray, Scope
from ttc.runtime.gpu.device_runtime import DeviceRuntime
from ttc.runtime.gpu.executor import Specs, mamba_specs, page_specs
from ttc.runtime.gpu.packed_buffer import pack

__all__ = ["PoolMemory"]


class PoolMemory:
    """Rows and pages on the device, all zero at first.

    Args:
        rows: S, the scratch row among them.
        pages: G, the scratch page among them.

    Attributes:
        mamba: name → tensor (S, …), see `mamba_specs`.
        stacks: name → the tensors of that kind in all layers, as one (layers, S, …): `conv_states` and
            `ssm_states`.
        pages: name → tensor (G, KV heads, tokens of a page, head dim).
    """

    def __init__(self, runtime: DeviceRuntime, rows: int, pages: int) -> None:
        self._device = runtime.device
        self._scope = Scope(runtime.device)
        config, dtype = runtime.config, runtime.executor.compute_dtype
        self.mamba: dict[str, DeviceArray] = {}
        self.stacks: dict[str, DeviceArray] = {}
        kinds: dict[str, dict[str, tuple[str, Shape]]] = {}
        with self._scope.all_or_nothing():
            for name, spec in mamba_specs(config, dtype, rows).items():
                kinds.setdefault(name.partition(".")[0], {})[name] = spec
            for kind, specs in kinds.items():
                self._stack(f"{kind}s", specs)
            _, self.pages = pack(self._scope, page_specs(config, dtype, pages), {})
            for whole in (*self.stacks.values(), *self.pages.values()):
                self._device.fill(whole, 0)

    @property
    def state(self) -> dict[str, DeviceArray]:
        """All of it by name."""
        return self.mamba | self.stacks | self.pages

    @property
    def row_bytes(self) -> int:
        """Size of one row, without pages."""
        return sum(tensor.nbytes // tensor.shape[0] for tensor in self.mamba.values())

    @property
    def page_bytes(self) -> int:
        """Size of one page, in all layers."""
        return sum(tensor.nbytes // tensor.shape[0] for tensor in self.pages.values())

    def take_over(self, smaller: "PoolMemory") -> None:
        """Enqueue copying all that another pool holds; its rows and pages keep their numbers."""
        old_tensors, tensors = smaller.mamba | smaller.pages, self.mamba | self.pages
        for name, old in old_tensors.items():
            self._device.copy(tensors[name].part(0, old.shape[0]), old)

    def clear_row(self, row: int) -> None:
        """Enqueue setting a row's Mamba state to zero."""
        for tensor in self.mamba.values():
            self._device.fill(tensor.part(row, 1), 0)

    def copy_row(self, row: int, to: int) -> None:
        """Enqueue copying a row's Mamba state."""
        for tensor in self.mamba.values():
            self._device.copy(tensor.part(to, 1), tensor.part(row, 1))

    def copy_pages(self, copies: Sequence[tuple[int, int]]) -> None:
        """Enqueue copying pages, each (from, to)."""
        for source, target in copies:
            for tensor in self.pages.values():
                self._device.copy(tensor.part(target, 1), tensor.part(source, 1))

    def _stack(self, name: str, specs: Specs) -> None:
        """Make tensors of one shape, one after another."""
        (dtype, shape), *_ = specs.values()
        rows, *rest = sizes_of(shape, {})
        while stored_bytes(dtype, (rows, *rest)) % ALIGNMENT:
            rows += 1  # every layer's has to begin where a kernel may
        stack = self.stacks[name] = self._scope.array(dtype, (len(specs), rows, *rest))
        apart = stack.nbytes // len(specs)
        for i, layer in enumerate(specs):
            self.mamba[layer] = DeviceArray.at(stack.memory, i * apart, dtype, (rows, *rest))

    def close(self) -> None:
        """Give the memory back; nothing may be running on it. Never raises."""
        self._scope.close()

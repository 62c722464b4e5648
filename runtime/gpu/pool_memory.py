"""The memory of a pool: the Mamba state of its rows, the keys and values of its pages, at fixed addresses."""

from collections.abc import Sequence

from ttc.base.dims import Shape, sizes_of
from ttc.base.dtypes import stored_bytes
from ttc.plugins.launch import ALIGNMENT
from ttc.runtime.gpu.device import DeviceArray, Scope
from ttc.runtime.gpu.device_runtime import DeviceRuntime
from ttc.runtime.gpu.executor import Specs, mamba_specs, page_specs, specs_bytes
from ttc.runtime.gpu.packed_buffer import pack

__all__ = ["MambaRows", "PoolMemory", "page_bytes", "row_bytes"]


def row_bytes(runtime: DeviceRuntime) -> int:
    """Return the size of one row's Mamba state."""
    return specs_bytes(mamba_specs(runtime.config, runtime.executor.compute_dtype, 1))


def page_bytes(runtime: DeviceRuntime) -> int:
    """Return the size of one page, in all layers."""
    return specs_bytes(page_specs(runtime.config, runtime.executor.compute_dtype, 1))


class MambaRows:
    """Mamba states of rows, all zero at first.

    Args:
        rows: S.

    Attributes:
        tensors: name → tensor (S, …), see `mamba_specs`; S may be more than asked for.
        stacks: name → the tensors of that kind in all layers, as one (layers, S, …): `conv_states` and
            `ssm_states`.
    """

    def __init__(self, runtime: DeviceRuntime, rows: int) -> None:
        self._device = runtime.device
        self._scope = Scope(runtime.device)
        self.tensors: dict[str, DeviceArray] = {}
        self.stacks: dict[str, DeviceArray] = {}
        kinds: dict[str, dict[str, tuple[str, Shape]]] = {}
        for name, spec in mamba_specs(runtime.config, runtime.executor.compute_dtype, rows).items():
            kinds.setdefault(name.partition(".")[0], {})[name] = spec
        with self._scope.all_or_nothing():
            for kind, specs in kinds.items():
                self._stack(f"{kind}s", specs)
            for stack in self.stacks.values():
                self._device.fill(stack, 0)

    def clear_row(self, row: int) -> None:
        """Enqueue setting a row to zero."""
        for tensor in self.tensors.values():
            self._device.fill(tensor.part(row, 1), 0)

    def copy_row(self, to: int, source: "MambaRows", row: int) -> None:
        """Enqueue copying a row of these or of others."""
        for name, tensor in self.tensors.items():
            self._device.copy(tensor.part(to, 1), source.tensors[name].part(row, 1))

    def close(self) -> None:
        """Give the memory back; nothing may be running on it. Never raises."""
        self._scope.close()

    def _stack(self, name: str, specs: Specs) -> None:
        """Make tensors of one shape, one after another."""
        (dtype, shape), *_ = specs.values()
        rows, *rest = sizes_of(shape, {})
        while stored_bytes(dtype, (rows, *rest)) % ALIGNMENT:
            rows += 1  # every layer's has to begin where a kernel may
        stack = self.stacks[name] = self._scope.array(dtype, (len(specs), rows, *rest))
        apart = stack.nbytes // len(specs)
        for i, layer in enumerate(specs):
            self.tensors[layer] = DeviceArray.at(stack.memory, i * apart, dtype, (rows, *rest))


class PoolMemory:
    """Rows and pages on the device, all zero at first.

    Args:
        rows: S, the scratch row among them.
        pages: G, the scratch page among them.

    Attributes:
        rows: the Mamba states.
        pages: name → tensor (G, KV heads, tokens of a page, head dim).
    """

    def __init__(self, runtime: DeviceRuntime, rows: int, pages: int) -> None:
        self._device = runtime.device
        self._scope = Scope(runtime.device)
        self.rows = MambaRows(runtime, rows)
        try:
            specs = page_specs(runtime.config, runtime.executor.compute_dtype, pages)
            with self._scope.all_or_nothing():
                _, self.pages = pack(self._scope, specs, {})
                for tensor in self.pages.values():
                    self._device.fill(tensor, 0)
        except BaseException:
            self.rows.close()
            raise

    @property
    def state(self) -> dict[str, DeviceArray]:
        """All of it by name."""
        return self.rows.tensors | self.rows.stacks | self.pages

    def take_over(self, smaller: "PoolMemory") -> None:
        """Enqueue copying all that another pool holds; its rows and pages keep their numbers."""
        tensors = self.rows.tensors | self.pages
        for name, old in (smaller.rows.tensors | smaller.pages).items():
            self._device.copy(tensors[name].part(0, old.shape[0]), old)

    def copy_pages(self, copies: Sequence[tuple[int, int]]) -> None:
        """Enqueue copying pages, each (from, to)."""
        for source, target in copies:
            for tensor in self.pages.values():
                self._device.copy(tensor.part(target, 1), tensor.part(source, 1))

    def close(self) -> None:
        """Give the memory back; nothing may be running on it. Never raises."""
        self.rows.close()
        self._scope.close()

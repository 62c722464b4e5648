"""Who holds a slot: a context state, until its last reference goes."""

from collections.abc import Callable
from typing import Any

from ttc.runtime.gpu.slots import Slot
from ttc.runtime.interface.state import ContextState

__all__ = ["Lease", "StateTensors"]


class Lease:
    """A slot in use; dropping the last reference gives it back."""

    def __init__(self, slot: Slot, give_back: Callable[[Slot], None]) -> None:
        self.slot, self._give_back = slot, give_back

    def tensors(self) -> "StateTensors":
        """The slot's state as a context state holds it."""
        return StateTensors(self)

    def __del__(self) -> None:
        self._give_back(self.slot)


class StateTensors(dict[str, Any]):
    """Name → tensor of a slot, which stays taken as long as this lives."""

    def __init__(self, lease: Lease) -> None:
        super().__init__(lease.slot.state)
        self.lease = lease
        # The same state on the denoiser's GPU, where that is another one.
        self.replica: ContextState | None = None

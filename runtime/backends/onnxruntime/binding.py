"""A session bound to the memory that it reads and writes."""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

__all__ = ["Array", "Binding"]

Array = npt.NDArray[Any]


class Binding:
    """One session with an array for everything that it takes and gives, made once and run often.

    Args:
        session: it.
        taken: names of what it takes.
        inputs: may have more than that.
        outputs: what it shall give.

    Attributes:
        inputs: graph name → what it reads.
        outputs: graph name → what it writes; an array may be both.
        lengths: (B,) the rows' lengths that the inputs were made for, where somebody keeps them.
        nbytes: size of the arrays that are its own; views are somebody else's.
    """

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        taken: Collection[str],
        inputs: Mapping[str, Array],
        outputs: Mapping[str, Array],
    ) -> None:
        self._session, self._bound = session, session.io_binding()
        self.inputs, self.outputs = dict(inputs), dict(outputs)
        self.lengths: npt.NDArray[np.int32] | None = None
        arrays = (*self.inputs.values(), *self.outputs.values())
        self.nbytes = sum(array.nbytes for array in arrays if array.base is None)
        # ONNX Runtime has the addresses alone; the arrays live as long as this does.
        for name, array in self.inputs.items():
            if name in taken:
                self._bound.bind_cpu_input(name, array)
        for name, array in self.outputs.items():
            self._bound.bind_output(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)

    def run(self) -> None:
        """Run once."""
        self._session.run_with_iobinding(self._bound)

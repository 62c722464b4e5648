"""What all parts of a backend on one device share."""

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any

from ttc.errors import BackendError
from ttc.model.config import LayerKind, ModelConfig
from ttc.runtime.gpu import append_kv, block_loop
from ttc.runtime.gpu.append_kv import KvAppender
from ttc.runtime.gpu.cuda_graphs import CudaGraphMode, CudaGraphs
from ttc.runtime.gpu.device import Device
from ttc.runtime.gpu.dropped import Dropped
from ttc.runtime.gpu.executor import Executor
from ttc.runtime.gpu.sampling import sampling_problem

__all__ = ["CompileKernel", "DeviceRuntime"]

logger = logging.getLogger(__name__)

# (name, source, compute capability) → PTX or cubin.
CompileKernel = Callable[[str, str, str], bytes]


class DeviceRuntime:
    """The device, what computes on it, our own kernels, and whether all of it is still open.

    Args:
        config: the model.
        device: closed by `close`.
        executor: computes the graphs; closed by `close`.
        graph_level: see `CudaGraphs`.
        compilers: compile our kernels in CUDA C; the next one where the driver refuses what one gave.

    Attributes:
        graphs: what CUDA graphs capture.
        block_kernel: the kernel of `block_loop`; None where it is not available, or not needed.
        appender: appends keys and values to the caches, where the executor does not.
        sampling_problem: why tokens cannot be sampled on the device; None where they can.
        dropped: what was dropped and not taken back yet; two backends that copy to each other share it.
        closed: whether nothing may be started any more.
    """

    def __init__(
        self,
        config: ModelConfig,
        device: Device,
        executor: Executor,
        graph_level: int | None,
        compilers: Sequence[CompileKernel],
    ) -> None:
        self.config, self.device, self.executor = config, device, executor
        self.graphs = CudaGraphs(device, graph_level, executor)
        self._compilers = compilers
        self.block_kernel = None
        if self.graphs.mode >= CudaGraphMode.BLOCK:
            self.block_kernel = self._load_kernel(block_loop.KERNEL, block_loop.SOURCE, CudaGraphMode.STEP)
        append = None
        appends = LayerKind.ATTENTION in config.layers and not executor.pooled
        if appends and self.graphs.mode > CudaGraphMode.NONE:
            append = self._load_kernel(append_kv.KERNEL, append_kv.SOURCE, CudaGraphMode.NONE)
        self.appender = KvAppender(device, append)
        self.sampling_problem = sampling_problem(executor, device, config.vocab_size)
        self.dropped = Dropped()
        self.closed = False
        self._own_notes: tuple[str, ...] = ()

    @property
    def lock(self) -> threading.RLock:
        """Held while the stream is used."""
        return self.dropped.lock

    @property
    def notes(self) -> Sequence[str]:
        """What is not as asked, one sentence each; they grow when a mode falls back."""
        return (*self.executor.notes, *self.graphs.notes, *self._own_notes)

    def note(self, text: str) -> None:
        """Say once what is not as asked."""
        if text not in self._own_notes:
            self._own_notes = (*self._own_notes, text)
            logger.warning("%s", text)

    def check_open(self) -> None:
        """Raise `BackendError` once the backend is closed."""
        if self.closed:
            raise BackendError("the engine is closed; load the bundle again")

    def _load_kernel(self, name: str, source: str, otherwise: CudaGraphMode) -> Any:
        """Return a kernel of ours; None where it is not available, and the mode falls to `otherwise`."""
        faults = []
        for compile_kernel in self._compilers:
            try:
                code = compile_kernel(name, source, self.device.compute_capability)
                return self.device.load_kernel(name, code)
            except BackendError as fault:
                faults.append(str(fault))
        said = "; ".join(dict.fromkeys(faults))
        self.graphs.lower(otherwise, f"the kernel {name} cannot be had ({said})")
        return None

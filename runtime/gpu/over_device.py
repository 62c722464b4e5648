"""What backends on one device have in common: the device, what they note, and tokens made of its logits."""

from abc import abstractmethod
from collections.abc import Callable, Sequence

import numpy as np

from ttc.model.config import ModelConfig
from ttc.runtime.gpu.closing import close_all
from ttc.runtime.gpu.device import Device, DeviceArray
from ttc.runtime.gpu.device_runtime import CompileKernel, DeviceRuntime
from ttc.runtime.gpu.executor import Executor
from ttc.runtime.gpu.lengths import padded_length
from ttc.runtime.gpu.nvrtc import compile_cubin, compile_ptx
from ttc.runtime.gpu.pinned_staging import PinnedStaging
from ttc.runtime.interface.backend import Backend, Floats, Limits
from ttc.runtime.interface.sampling import LazySamples, SampledTokens, SamplingParams, SplitSamples

__all__ = ["OverDevice"]


class OverDevice(Backend):
    """A bundle on one device.

    Args:
        executor: computes the graphs; closed with the backend, as the device is.
        graph_level: at most this one (`ttc.runtime.gpu.cuda_graphs`); None for the highest there is.
        compilers: each (name, source, compute capability) → PTX or cubin; see `DeviceRuntime`.

    Attributes:
        runtime: what the backend's parts share.
    """

    def __init__(
        self,
        config: ModelConfig,
        device: Device,
        executor: Executor,
        graph_level: int | None = None,
        compilers: Sequence[CompileKernel] = (compile_ptx, compile_cubin),
    ) -> None:
        self.name, self.config = executor.name, config
        self.runtime = DeviceRuntime(config, device, executor, graph_level, compilers)
        self._staging = PinnedStaging(device)

    @property
    def notes(self) -> Sequence[str]:  # type: ignore[override]  # they grow when a mode falls back
        return self.runtime.notes

    @property
    def graph_level(self) -> int:  # type: ignore[override]  # it may fall
        return self.runtime.graphs.lowest.value

    @property
    def limits(self) -> Limits | None:  # type: ignore[override]  # the executor's
        return self.runtime.executor.limits

    @property
    def skips_logits(self) -> bool:  # type: ignore[override]  # the executor's
        return self.runtime.executor.skips_logits

    @property
    def device_name(self) -> str:
        return self.runtime.device.name

    @property
    def device(self) -> Device:
        """The device, for its counters and for copies to another."""
        return self.runtime.device

    def call_length(self, length: int) -> int:
        return padded_length(length, length * 2, self.limits)

    def samples_on_device(self, how: SamplingParams) -> bool:
        """Return whether tokens can be sampled on the device; why not, if only for some rows, becomes a
        note.
        """
        problem = self.runtime.sampling_problem
        for why in (problem, *(row.host_only for row in how.rows)):
            if why is not None:
                self.runtime.note(f"tokens are chosen on the host, which fetches their logits, because {why}")
        return problem is None

    def split(
        self, samples: SampledTokens, logits: DeviceArray, positions: int, how: SamplingParams
    ) -> SampledTokens:
        """Return these samples, those of some rows replaced by samples on the host, which fetches their
        logits.
        """
        others = {
            i: LazySamples(self.read_logits(logits.part(i, 1))[:, :positions], SamplingParams((row,)))
            for i, row in enumerate(how.rows)
            if row.host_only is not None
        }
        return SplitSamples(samples, others) if others else samples

    def read_logits(self, logits: DeviceArray) -> Floats:
        """Return a copy of logits on the host. Raises `BackendError` once the backend is closed."""
        with self.runtime.lock:
            self.runtime.check_open()
            return self._staging.read(logits).astype(np.float32, copy=False)

    def close(self) -> None:
        runtime = self.runtime
        with runtime.lock:
            if runtime.closed:
                return
            runtime.dropped.take_back()
            runtime.closed = True
            # What is enqueued may still use what is given back.
            steps: list[Callable[[], object]] = [runtime.device.wait, self.close_buffers]
            close_all([*steps, runtime.executor.close, runtime.device.close])
            self._staging.close()

    @abstractmethod
    def close_buffers(self) -> None:
        """Give back the memory of states and calls; called once, when the backend is closed."""

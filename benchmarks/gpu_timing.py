"""Times of what torch enqueues, without the host in them, and what the machine can do at best.

On a GPU calls are captured into a CUDA graph, which is replayed between events. Without one (the dry run)
they are timed by the clock, which shows that they run and nothing else.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import torch

__all__ = ["Ceilings", "Timer"]

Call = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Ceilings:
    """What this machine reached in this run, a second.

    Attributes:
        copy_bytes: read and written by a large copy.
        read_bytes: read by a large sum: the floor of what mostly reads weights.
        bf16_flops: of a large bfloat16 matrix product.
    """

    copy_bytes: float
    read_bytes: float
    bf16_flops: float


class Timer:
    """Times calls on one device.

    Args:
        device: "cuda" or "cpu".
        large_bytes: memory for the ceilings, and to push everything else out of the L2.
    """

    def __init__(self, device: str, large_bytes: int) -> None:
        self.device, self._large_bytes = device, large_bytes
        self._large: torch.Tensor | None = None

    def seconds(self, calls: Sequence[Call], rounds: int = 10) -> float:
        """Return the median seconds of one call, of graphs that hold all of `calls` once.

        What the calls read should be different from call to call, and larger together than the L2.
        """
        if self.device == "cpu":
            start = time.perf_counter()
            for call in calls:
                call()
            return (time.perf_counter() - start) / len(calls)
        for call in calls:  # kernels are compiled, libraries choose
            call()
        graph = self._captured(calls)
        events: list[Any] = [torch.cuda.Event(enable_timing=True) for _ in range(rounds + 1)]
        for _ in range(2):
            graph.replay()
        for event in events[:-1]:
            event.record()
            graph.replay()
        events[-1].record()
        torch.cuda.synchronize()
        times = [a.elapsed_time(b) for a, b in pairwise(events)]
        return float(sorted(times)[rounds // 2]) / 1e3 / len(calls)

    def cold_seconds(self, calls: Sequence[Call]) -> float:
        """Return the same, each call behind a read that pushes its inputs out of the L2; not counting it."""
        large = self._large_tensor()[: self._large_bytes // 8].view(torch.float32)

        def flush() -> object:
            return large.sum()

        if self.device == "cpu":
            return self.seconds(calls)
        mixed = [each for call in calls for each in (flush, call)]
        return max(2 * self.seconds(mixed) - self.seconds([flush] * len(calls)), 0.0)

    def ceilings(self) -> Ceilings:
        """Measure them."""
        a = self._large_tensor()
        b = torch.empty_like(a)
        copied = self.seconds([partial(b.copy_, a)], 5)
        read = self.seconds([a.view(torch.float32).sum], 5)
        del b
        size = 8192 if self.device == "cuda" else 64
        x, y = (torch.randn(size, size, device=self.device).to(torch.bfloat16) for _ in range(2))
        product = self.seconds([lambda: x @ y], 5)
        return Ceilings(2 * a.nbytes / copied, a.nbytes / read, 2 * size**3 / product)

    def _captured(self, calls: Sequence[Call]) -> Any:
        torch.cuda.synchronize()
        stream: Any = torch.cuda.Stream()
        with torch.cuda.stream(stream):  # what was warmed on another stream may lack its workspace here
            for call in calls:
                call()
        torch.cuda.synchronize()
        graph: Any = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            for call in calls:
                call()
        return graph

    def _large_tensor(self) -> torch.Tensor:
        if self._large is None:
            self._large = torch.zeros(self._large_bytes, dtype=torch.uint8, device=self.device)
        return self._large

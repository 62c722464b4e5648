"""When work is captured into CUDA graphs, and what happens where that is not possible.

    mode    graph_level   one graph holds
    NONE    0             nothing: the host starts every launch
    STEP    1             a step: denoise and commit, or a context call
    BLOCK   2             a whole block: a WHILE node that goes on until nothing is masked

A mode that is not available falls back by one, with a reason that is logged and noted in the results.

The first run of any work is never captured: libraries load kernels and choose algorithms then.
"""

import logging
from collections.abc import Callable
from enum import IntEnum

from ttc.errors import BackendError, InputError
from ttc.runtime.gpu.device import Device, Enqueue, Graph
from ttc.runtime.gpu.executor import Executor

__all__ = ["BlockGraph", "CudaGraphMode", "CudaGraphs", "StepGraph"]

logger = logging.getLogger(__name__)


class CudaGraphMode(IntEnum):
    """What a CUDA graph holds; the values are the levels of the public option `graph_level`."""

    NONE = 0
    STEP = 1
    BLOCK = 2


class CudaGraphs:
    """The mode in force on one device, and captures under it.

    Args:
        graph_level: the highest mode, as a user gives it; None for the highest there is.

    Attributes:
        mode: in force now; it only falls.
        notes: why it is lower than asked, one sentence each.

    Raises:
        InputError: graph_level is no level.
    """

    def __init__(self, device: Device, graph_level: int | None, executor: Executor) -> None:
        if graph_level not in (None, *CudaGraphMode):
            raise InputError(
                f"graph_level is {graph_level!r}; valid: 0 (no graphs), 1 (one per step), 2 (one per block)"
            )
        self.mode = CudaGraphMode.BLOCK if graph_level is None else CudaGraphMode(graph_level)
        self.notes: list[str] = []
        self._executor = executor
        if self.allow(CudaGraphMode.STEP) and device.loop_problem is not None:
            self.lower(CudaGraphMode.STEP, device.loop_problem)

    def allow(self, mode: CudaGraphMode) -> bool:
        """Return whether work may be captured in this mode, as far as the executor knows by now."""
        if self._executor.capture_problem is not None:
            self.lower(CudaGraphMode.NONE, self._executor.capture_problem)
        return self.mode >= mode

    def capture(self, otherwise: CudaGraphMode, what: str, capture: Callable[[], Graph]) -> Graph | None:
        """Return the graph that `capture` makes; None where that is not possible, and the mode falls to
        `otherwise`.

        A graph whose capture took scratch memory is not used: memory that comes while a graph is captured is
        nothing that its replays could ask for. It is captured once more, with that memory there.
        """
        for _ in range(2):
            before = self._executor.scratch()
            try:
                graph = capture()
            except BackendError as fault:
                self.lower(otherwise, f"{what} cannot be captured ({fault})")
                return None
            if self._executor.scratch() == before:
                return graph
            graph.close()
        self.lower(otherwise, f"{what} took scratch memory each time it was captured")
        return None

    def lower(self, mode: CudaGraphMode, reason: str) -> None:
        """Fall back to `mode`, unless it is in force already."""
        if mode >= self.mode:
            return
        self.notes.append(f"CUDA graphs: level {mode.value} in place of {self.mode.value}, because {reason}")
        self.mode = mode
        logger.warning(self.notes[-1])


class StepGraph:
    """Work of one step, replayed as a graph from its second run on.

    Args:
        what: the step in words, for notes.
    """

    def __init__(self, device: Device, graphs: CudaGraphs, what: str, work: Enqueue) -> None:
        self._device, self._graphs, self._what, self._work = device, graphs, what, work
        self._graph: Graph | None = None
        self._warm = False

    def run(self) -> None:
        """Enqueue one run."""
        if self._graph is None and self._warm and self._graphs.allow(CudaGraphMode.STEP):
            self._graph = self._graphs.capture(
                CudaGraphMode.NONE, self._what, lambda: self._device.capture(self._work)
            )
        if self._graph is not None:
            self._graph.launch()
        else:
            self._work()
            self._warm = True

    def close(self) -> None:
        """Let go of the graph."""
        if self._graph is not None:
            self._graph.close()
            self._graph = None


class BlockGraph:
    """A loop as one graph with a WHILE node, once what it consists of has run on its own.

    Args:
        what: the loop in words, for notes.
        work: a step.
        last: ends it, with the handle of the loop's condition, or 0 outside the loop.
    """

    def __init__(
        self, device: Device, graphs: CudaGraphs, what: str, work: Enqueue, last: Callable[[int], None]
    ) -> None:
        self._device, self._graphs, self._what, self._work, self._last = device, graphs, what, work, last
        self._graph: Graph | None = None
        self._warm = False

    def warm_up(self) -> None:
        """Run `last` once outside the loop; called when `work` has run on its own."""
        if not self._warm and self._graphs.mode >= CudaGraphMode.BLOCK:
            self._last(0)
            self._warm = True

    @property
    def ready(self) -> bool:
        """Whether the loop can be launched; captures it if that has not been tried."""
        if not self._warm or not self._graphs.allow(CudaGraphMode.BLOCK):
            return False
        if self._graph is None:
            self._graph = self._graphs.capture(
                CudaGraphMode.STEP, self._what, lambda: self._device.capture_loop(self._work, self._last)
            )
        return self._graph is not None

    def run(self) -> None:
        """Enqueue the whole loop, which is `ready`."""
        assert self._graph is not None, "only what is ready can be run"
        self._graph.launch()

    def close(self) -> None:
        """Let go of the graph."""
        if self._graph is not None:
            self._graph.close()
            self._graph = None

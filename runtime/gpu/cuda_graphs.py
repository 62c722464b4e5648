"""When work is captured into CUDA graphs, and what happens where that is not possible.

    mode    graph_level   one graph holds
    NONE    0             nothing: the host starts every launch
    STEP    1             a step: denoise and commit, or a context call
    BLOCK   2             a whole block: a WHILE node that goes on until nothing is masked

Where a mode is not available at all, all works fall to the one below. Where one work cannot be captured, that
work alone does: for good, or, where memory was short, until some was given back. Each fall has a reason that
is logged and noted in the results.

The first run of any work is never captured: libraries load kernels and choose algorithms then, and some, such
as cuBLAS, keep a handle per thread. So a work is captured by a thread that has run it.
"""

import logging
import threading
from collections.abc import Callable
from enum import IntEnum

from ttc.errors import BackendError, DeviceMemoryError, InputError
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
        mode: the highest that any work may have; it only falls.
        notes: why it is lower than asked, for all works or for one, one sentence each.
        make_room: gives some memory back, if there is any to give; returns whether it did.
        room_made: how often memory was given back.

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
        self.make_room: Callable[[], bool] = lambda: False
        self.room_made = 0
        # Works that have fallen, in words → to which mode.
        self._fallen: dict[str, CudaGraphMode] = {}
        self._executor = executor
        if self.allow(CudaGraphMode.STEP) and device.loop_problem is not None:
            self.lower(CudaGraphMode.STEP, device.loop_problem)

    @property
    def lowest(self) -> CudaGraphMode:
        """The mode of the work that has fallen lowest."""
        return min([self.mode, *self._fallen.values()])

    def allow(self, mode: CudaGraphMode) -> bool:
        """Return whether work may be captured in this mode, as far as the executor knows by now."""
        if self._executor.capture_problem is not None:
            self.lower(CudaGraphMode.NONE, self._executor.capture_problem)
        return self.mode >= mode

    def capture(self, capture: Callable[[], Graph]) -> Graph:
        """Return the graph that `capture` makes.

        A graph whose capture took scratch memory is not used: memory that comes while a graph is captured is
        nothing that its replays could ask for. It is captured once more, with that memory there.

        Raises:
            DeviceMemoryError: there is too little memory, whatever is given back.
            BackendError: it cannot be captured.
        """
        for _ in range(2):
            before = self._executor.scratch()
            graph = self._with_room(capture)
            if self._executor.scratch() == before:
                return graph
            graph.close()
        raise BackendError("it took scratch memory each time it was captured")

    def _with_room(self, capture: Callable[[], Graph]) -> Graph:
        while True:
            try:
                return capture()
            except DeviceMemoryError:
                if not self.make_room():
                    raise

    def lower(self, mode: CudaGraphMode, reason: str) -> None:
        """Let all works fall to `mode`, unless they are there already."""
        if mode < self.mode:
            self._note(mode, self.mode, reason)
            self.mode = mode

    def lower_one(self, what: str, mode: CudaGraphMode, reason: str) -> None:
        """Let one work fall to `mode`."""
        if self._fallen.get(what) != mode:
            self._note(mode, CudaGraphMode(mode + 1), f"{what} cannot be captured ({reason})")
            self._fallen[what] = mode

    def raise_one(self, what: str) -> None:
        """A work that had fallen has a graph now."""
        if self._fallen.pop(what, None) is not None:
            logger.info("CUDA graphs: %s is captured after all", what)

    def _note(self, mode: CudaGraphMode, before: CudaGraphMode, reason: str) -> None:
        note = f"CUDA graphs: level {mode.value} in place of {before.value}, because {reason}"
        if note not in self.notes:
            self.notes.append(note)
            logger.warning(note)


class _Captured:
    """A work and, once it is captured, its graph.

    Args:
        what: the work in words, for notes.
        mode: of the graph; without one the work falls to the mode below.
    """

    def __init__(self, device: Device, graphs: CudaGraphs, what: str, mode: CudaGraphMode) -> None:
        self._device, self._graphs, self._what, self._mode = device, graphs, what, mode
        self._graph: Graph | None = None
        self._warm_in: int | None = None
        self._refused_for_good = False
        self._retry_at = 0

    @property
    def warm(self) -> bool:
        """Whether this thread has run the work, so that it may capture it."""
        return self._warm_in == threading.get_ident()

    def _mark_warm(self) -> None:
        self._warm_in = threading.get_ident()

    def _captured(self, capture: Callable[[], Graph]) -> Graph | None:
        """Return the graph, captured now if that is possible; None where it is not, or not yet."""
        graphs = self._graphs
        if self._graph is None and self.warm and self._worth_trying() and graphs.allow(self._mode):
            below = CudaGraphMode(self._mode - 1)
            try:
                self._graph = graphs.capture(capture)
                graphs.raise_one(self._what)
            except DeviceMemoryError as fault:
                self._retry_at = graphs.room_made + 1
                graphs.lower_one(self._what, below, str(fault))
            except BackendError as fault:
                self._refused_for_good = True
                graphs.lower_one(self._what, below, str(fault))
        return self._graph

    def _worth_trying(self) -> bool:
        return not self._refused_for_good and self._graphs.room_made >= self._retry_at

    def close(self) -> None:
        """Let go of the graph."""
        if self._graph is not None:
            self._graph.close()
            self._graph = None


class StepGraph(_Captured):
    """Work of one step, replayed as a graph from its second run on.

    Args:
        what: the step in words, for notes.
    """

    def __init__(self, device: Device, graphs: CudaGraphs, what: str, work: Enqueue) -> None:
        super().__init__(device, graphs, what, CudaGraphMode.STEP)
        self._work = work

    def run(self) -> None:
        """Enqueue one run."""
        graph = self._captured(lambda: self._device.capture(self._work))
        if graph is not None:
            graph.launch()
        else:
            self._work()
            self._mark_warm()


class BlockGraph(_Captured):
    """A loop as one graph with a WHILE node, once what it consists of has run on its own.

    Args:
        what: the loop in words, for notes.
        work: a step.
        last: ends it, with the handle of the loop's condition, or 0 outside the loop.
    """

    def __init__(
        self, device: Device, graphs: CudaGraphs, what: str, work: Enqueue, last: Callable[[int], None]
    ) -> None:
        super().__init__(device, graphs, what, CudaGraphMode.BLOCK)
        self._work, self._last = work, last

    def warm_up(self, *, stepped: bool) -> None:
        """Run on its own what the loop runs; the step's buffers must hold a step.

        stepped: this thread has run `work` uncaptured.
        """
        if self._graph is None and not self.warm and self._graphs.mode >= CudaGraphMode.BLOCK:
            if not stepped:
                self._work()
            self._last(0)
            self._mark_warm()

    @property
    def ready(self) -> bool:
        """Whether the loop can be launched; captures it if that is due."""
        return self._captured(lambda: self._device.capture_loop(self._work, self._last)) is not None

    def run(self) -> None:
        """Enqueue the whole loop, which is `ready`."""
        assert self._graph is not None, "only what is ready can be run"
        self._graph.launch()

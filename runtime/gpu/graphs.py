"""When work is captured into CUDA graphs, and what happens where it cannot be.

Level 0: the host starts every launch. Level 1: a step (denoise and commit, or a context call) is one graph.
Level 2: a whole block is one graph whose WHILE node goes on until nothing is masked. A level that cannot be
had falls back by one, with a reason that is logged and noted in the results.

The first run of any work is never captured: libraries load kernels and choose algorithms then.
"""

import logging
from collections.abc import Callable

from ttc.errors import BackendError, InputError
from ttc.runtime.gpu.device import Device, Enqueue, Graph
from ttc.runtime.gpu.executor import Executor

__all__ = ["HOST", "PER_BLOCK", "PER_STEP", "BlockGraph", "Levels", "StepGraph"]

logger = logging.getLogger(__name__)

HOST, PER_STEP, PER_BLOCK = 0, 1, 2


class Levels:
    """The graph level in force, at most the one asked for. `notes`: why it is lower, one sentence each."""

    def __init__(self, device: Device, asked: int | None, executor: Executor) -> None:
        if asked not in (None, HOST, PER_STEP, PER_BLOCK):
            raise InputError(
                f"graph_level is {asked!r}; valid: 0 (no graphs), 1 (one per step), 2 (one per block)"
            )
        self.level = PER_BLOCK if asked is None else asked
        self.notes: list[str] = []
        self._executor = executor
        if self.allow(PER_STEP) and device.loop_problem is not None:
            self.lower(PER_STEP, device.loop_problem)

    def allow(self, level: int) -> bool:
        """Whether work may be captured at this level; what the executor has learnt of its work counts."""
        if self._executor.capture_problem is not None:
            self.lower(HOST, self._executor.capture_problem)
        return self.level >= level

    def captured(self, otherwise: int, what: str, capture: Callable[[], Graph]) -> Graph | None:
        """The graph that `capture` makes; None where that cannot be, and the level falls to `otherwise`.

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

    def lower(self, level: int, reason: str) -> None:
        """Fall back to `level`, unless it is in force already."""
        if level >= self.level:
            return
        self.notes.append(f"CUDA graphs: level {level} in place of {self.level}, because {reason}")
        self.level = level
        logger.warning(self.notes[-1])


class StepGraph:
    """Work of one step, replayed as a graph from its second run on."""

    def __init__(self, device: Device, levels: Levels, what: str, work: Enqueue) -> None:
        self._device, self._levels, self._what, self._work = device, levels, what, work
        self._graph: Graph | None = None
        self._warm = False

    def run(self) -> None:
        """Enqueue one run."""
        if self._graph is None and self._warm and self._levels.allow(PER_STEP):
            self._graph = self._levels.captured(HOST, self._what, lambda: self._device.capture(self._work))
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

    work: a step.  last: ends it, with the handle of the loop's condition, or 0 outside the loop.
    """

    def __init__(
        self, device: Device, levels: Levels, what: str, work: Enqueue, last: Callable[[int], None]
    ) -> None:
        self._device, self._levels, self._what, self._work, self._last = device, levels, what, work, last
        self._graph: Graph | None = None
        self._warm = False

    def warm_up(self) -> None:
        """Run `last` once outside the loop; called when `work` has run on its own."""
        if not self._warm and self._levels.level >= PER_BLOCK:
            self._last(0)
            self._warm = True

    @property
    def ready(self) -> bool:
        """Whether the loop can be launched; captures it if that has not been tried."""
        if not self._warm or not self._levels.allow(PER_BLOCK):
            return False
        if self._graph is None:
            self._graph = self._levels.captured(
                PER_STEP, self._what, lambda: self._device.capture_loop(self._work, self._last)
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

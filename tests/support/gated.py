"""A backend whose context calls a test can hold up or make fail, and an `AsyncEngine` over one."""

import asyncio
import threading
import time

from tests.support.recording import Wrapped
from ttc.runtime.async_engine import AsyncEngine
from ttc.runtime.decoding.plan import CoreLimits
from ttc.runtime.engine import Engine


class Gated(Wrapped):
    """Waits before every context call while the gate is shut, and raises `fault` in one if there is any."""

    def __init__(self, inner):
        super().__init__(inner)
        self.gate, self.arrived, self.fault = threading.Event(), threading.Event(), None
        self.gate.set()
        self.calls = 0

    def context(self, *args, **more):
        self.calls += 1
        self.arrived.set()
        assert self.gate.wait(30)
        if self.fault is not None:
            raise self.fault
        return super().context(*args, **more)


def shared(backend, tokenizer=None, rows=2, **bounds):
    return AsyncEngine(Engine(backend, tokenizer, limits=CoreLimits(rows, None, 1024)), **bounds)


async def until(condition):
    """Give the loop to others until it holds."""
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, "waited for too long"
        await asyncio.sleep(0.002)

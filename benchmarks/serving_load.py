"""Load on a service: loops of clients, and clients that behave badly."""

import asyncio
import contextlib
import json
import random
import resource
import socket
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from benchmarks.serving_client import Answer, Link, Served

__all__ = ["PATH", "Hostile", "closed_loop", "crowd", "open_loop", "percentile"]

PATH = "/v1/completions"
# A client that takes longer than this hangs.
_PATIENCE_SECONDS = 30.0


async def closed_loop(links: Sequence[Link], bodies: Sequence[dict[str, Any]]) -> tuple[list[Answer], float]:
    """Send all requests, each client one after another; return the answers in order, and the seconds."""
    answers: list[Answer | None] = [None] * len(bodies)
    todo = iter(range(len(bodies)))

    async def client(link: Link) -> None:
        for i in todo:
            answers[i] = await asyncio.wait_for(link.post(PATH, bodies[i]), 4 * _PATIENCE_SECONDS)

    started = time.perf_counter()
    await asyncio.gather(*(client(link) for link in links))
    seconds = time.perf_counter() - started
    return [answer for answer in answers if answer is not None], seconds


async def open_loop(
    make: Callable[[], Link], bodies: Sequence[dict[str, Any]], per_second: float, rng: random.Random
) -> list[Answer]:
    """Send requests at random times, whatever becomes of those before; return the answers."""

    async def one(body: dict[str, Any]) -> Answer:
        link = make()
        try:
            return await link.post(PATH, body)
        finally:
            link.close()

    tasks = []
    for body in bodies:
        tasks.append(asyncio.create_task(one(body)))
        await asyncio.sleep(rng.expovariate(per_second))
    return list(await asyncio.gather(*tasks))


@contextlib.asynccontextmanager
async def crowd(served: Served, count: int) -> AsyncIterator[int]:
    """Keep so many connections open that say nothing; give how many of them were told to go."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, count + 512)), hard))
    opened: list[socket.socket] = []
    try:
        for number in range(count):
            opened.append(socket.create_connection((served.host, served.port), 30))
            if number % 100 == 0:
                await asyncio.sleep(0)
        await asyncio.sleep(1.0)
        yield sum(map(_was_told, opened))
    finally:
        for each in opened:
            each.close()


def _was_told(connection: socket.socket) -> bool:
    """Return whether there is something to read, or an end."""
    connection.setblocking(False)
    try:
        connection.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that is not below this share of them."""
    ordered = sorted(values)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]


class Hostile:
    """Clients that drop, send halves and nonsense, or do not read; `statuses` counts what they were told."""

    def __init__(self, served: Served, seed: int) -> None:
        self._served, self._rng = served, random.Random(seed)
        self.statuses: dict[str, int] = {}
        self.hung = 0

    async def run(self, count: int, at_once: int = 64) -> None:
        """Behave badly so many times."""
        slots = asyncio.Semaphore(at_once)

        async def one(kind: Callable[[], Any]) -> None:
            async with slots:
                try:
                    await asyncio.wait_for(self._behave(*kind()), _PATIENCE_SECONDS)
                except TimeoutError:
                    self.hung += 1
                except (ConnectionError, asyncio.IncompleteReadError):
                    self._told("closed")

        kinds = [self._drop, self._half, self._unread, self._bad_text, self._giant, self._noise, self._empty]
        await asyncio.gather(*(one(self._rng.choice(kinds)) for _ in range(count)))

    async def _behave(self, raw: bytes, seconds: float, reads: bool) -> None:
        """Send bytes, wait, and read the status or leave without."""
        reader, writer = await asyncio.open_connection(self._served.host, self._served.port)
        try:
            writer.write(raw)
            await writer.drain()
            await asyncio.sleep(seconds)
            if reads:
                line = await reader.readline()
                self._told(line.split(b" ")[1].decode() if b" " in line else "closed")
            else:
                self._told("left")
        finally:
            writer.close()

    def _told(self, what: str) -> None:
        self.statuses[what] = self.statuses.get(what, 0) + 1

    def _request(self, body: bytes, said: int | None = None) -> bytes:
        return (
            f"POST {PATH} HTTP/1.1\r\nhost: x\r\ncontent-length: {said or len(body)}\r\n\r\n".encode() + body
        )

    def _body(self, **more: Any) -> bytes:
        mode = self._rng.choice(["diffusion", "ar", "lossless"])
        prompt = [self._rng.randrange(4, 300) for _ in range(self._rng.randint(1, 60))]
        return json.dumps({"prompt": prompt, "mode": mode, "ignore_eos": True, **more}).encode()

    def _drop(self) -> tuple[bytes, float, bool]:
        body = self._body(stream=self._rng.random() < 0.5, max_tokens=400)
        return self._request(body), self._rng.random() * 0.05, False

    def _half(self) -> tuple[bytes, float, bool]:
        body = self._body()
        return self._request(body[: len(body) // 2], len(body)), 0.01, False

    def _unread(self) -> tuple[bytes, float, bool]:
        return self._request(self._body(stream=True, max_tokens=64)), 0.2, False

    def _bad_text(self) -> tuple[bytes, float, bool]:
        return self._request(b'{"prompt": "\xff\xfe"}'), 0.0, True

    def _giant(self) -> tuple[bytes, float, bool]:
        name = self._rng.choice(["n", "max_tokens", "seed", "top_k", "steps", "priority", "deadline_ms"])
        return self._request(self._body(**{name: 10 ** self._rng.randint(9, 40)})), 0.0, True

    def _noise(self) -> tuple[bytes, float, bool]:
        return self._rng.randbytes(self._rng.randint(1, 200)) + b"\r\n\r\n", 0.0, True

    def _empty(self) -> tuple[bytes, float, bool]:
        return self._rng.choice([b"", b"GET", b"POST /v1/completions HTTP/1.1\r\n"]), 0.01, False

"""Figures of a service that is asked for too much: bad behaviour, connections, overload, one greedy key.

`python -m benchmarks.serving` says what each is and runs them.
"""

import asyncio
import random
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ttc
from benchmarks.serving_client import Answer, Link, served
from benchmarks.serving_load import PATH, Hostile, closed_loop, crowd, percentile

__all__ = ["FREE", "ROWS", "Setting", "connections", "fair", "hostile", "overload", "spread"]

ROWS = 16
FREE = {"ignore_eos": True, "return_token_ids": True}


@dataclass(frozen=True, slots=True)
class Setting:
    """What every figure gets: the bundle, an engine that nobody else uses, and the share of the load."""

    bundle: Path
    engine: ttc.Engine
    share: float

    def count(self, whole: int) -> int:
        """Return how many of `whole` requests are sent."""
        return max(int(whole * self.share), 16)


async def hostile(setting: Setting) -> dict[str, Any]:
    """Bad behaviour, and what is left of it."""
    with served(setting.bundle, "--max-rows", ROWS) as service:
        clients = Hostile(service, 14)
        await clients.run(setting.count(10_000))
        await asyncio.sleep(0.1)
        after = await service.metrics()
        answer = await service.link().post(PATH, {"prompt": [5], "max_tokens": 4})
    return {
        "behaviours": sum(clients.statuses.values()) + clients.hung,
        "statuses": dict(sorted(clients.statuses.items())),
        "hung": clients.hung,
        "rows_left_after_100_ms": after["ttc_requests_running"] + after["ttc_requests_waiting"],
        "state_bytes_left": after["ttc_state_bytes"],
        "answers_afterwards": answer.status == 200,
    }


async def connections(setting: Setting) -> dict[str, Any]:
    """10,000 connections that stay and say nothing."""
    count = setting.count(10_000)
    with served(setting.bundle, "--max-rows", ROWS) as service:
        link = service.link()
        alone = [(await link.post(PATH, {"prompt": [5], "max_tokens": 4})).seconds for _ in range(20)]
        async with crowd(service, count) as refused:
            beside = [await link.post(PATH, {"prompt": [5], "max_tokens": 4}) for _ in range(20)]
        await asyncio.sleep(0.5)
        after = await service.link().post(PATH, {"prompt": [5], "max_tokens": 4})
    return {
        "connections": count,
        "refused": refused,
        "answered_beside_them": sum(answer.status == 200 for answer in beside),
        "median_ms": {
            "alone": 1e3 * statistics.median(alone),
            "beside": 1e3 * statistics.median(answer.seconds for answer in beside),
        },
        "answers_afterwards": after.status == 200,
    }


async def overload(setting: Setting) -> dict[str, Any]:
    """64 clients that ask again when Retry-After says so, on a queue of 16; 32, who are all served, are the
    capacity. In turns.
    """
    seconds, turns = max(10.0 * setting.share, 4.0), 3
    refusals: list[Answer] = []
    ratios = []
    for turn in range(turns):
        rates = {}
        for clients in (32, 64):
            with served(setting.bundle, "--max-rows", ROWS, "--max-queued", 16) as service:
                begin = time.perf_counter() + 2.0  # by then the queue is as full as it gets
                crowding = Crowding(begin, begin + seconds, random.Random(16 + turn))
                await asyncio.gather(*(crowding.client(service.link()) for _ in range(clients)))
            rates[clients] = crowding.done / seconds
            refusals += crowding.refusals
        ratios.append(rates[64] / rates[32])
    return {
        "refused": len(refusals),
        "refused_p99_ms": 1e3 * percentile([answer.seconds for answer in refusals], 0.99),
        "without_retry_after": sum("retry-after" not in answer.headers for answer in refusals),
        "goodput_over_capacity": spread(ratios),
    }


class Crowding:
    """Clients that ask again and again until a window of time is over.

    Attributes:
        done: answers within it; one that only partly falls into it counts as that part.
        refusals: answers that were none.
    """

    def __init__(self, begin: float, end: float, rng: random.Random) -> None:
        self._begin, self._end, self._rng = begin, end, rng
        self.done, self.refusals = 0.0, list[Answer]()

    async def client(self, link: Link) -> None:
        """Ask; wait where that is what the answer says."""
        while (asked := time.perf_counter()) < self._end:
            prompt = [self._rng.randrange(4, 300) for _ in range(20)]
            answer = await link.post(PATH, {"prompt": prompt, "max_tokens": 48, **FREE})
            if answer.status == 429:
                self.refusals.append(answer)
                await asyncio.sleep(float(answer.headers.get("retry-after", 1)) * (0.5 + self._rng.random()))
            else:
                assert answer.status == 200, answer.body
                within = min(asked + answer.seconds, self._end) - max(asked, self._begin)
                self.done += max(within, 0.0) / answer.seconds
        link.close()


async def fair(setting: Setting) -> dict[str, Any]:
    """Short requests of one key alone, and beside 100 requests of 1024 tokens of another. In turns."""
    rng, turns = random.Random(18), 3
    seconds: dict[str, list[float]] = {"alone": [], "beside": []}
    short, long = (
        [
            {"prompt": [rng.randrange(4, 300) for _ in range(20)], "max_tokens": new, **FREE}
            for _ in range(count)
        ]
        for count, new in ((10, 48), (setting.count(100), 1024))
    )
    with tempfile.TemporaryDirectory() as folder:
        keys = Path(folder) / "keys"
        keys.touch(0o600)
        keys.write_text("heavy key-of-heavy\nlight key-of-light\n", encoding="ascii")
        for _ in range(turns):
            for name, flood in (("alone", []), ("beside", long)):
                with served(setting.bundle, "--max-queued", 128, "--api-key-file", keys) as service:
                    heavy = [service.link("key-of-heavy") for _ in flood]
                    flooding = [
                        asyncio.create_task(link.post(PATH, body))
                        for link, body in zip(heavy, flood, strict=True)
                    ]
                    await asyncio.sleep(1.0 if flood else 0.0)
                    answers, _ = await closed_loop([service.link("key-of-light")], short)
                    assert all(answer.status == 200 for answer in answers)
                    seconds[name] += [answer.seconds for answer in answers]
                    for task in flooding:
                        task.cancel()
                    await asyncio.gather(*flooding, return_exceptions=True)
                    for link in heavy:
                        link.close()
                    await asyncio.sleep(0.5)  # until the service has seen it
    p95 = {name: percentile(times, 0.95) for name, times in seconds.items()}
    return {
        "short_p95_ms": {name: 1e3 * value for name, value in p95.items()},
        "beside_over_alone": p95["beside"] / p95["alone"],
    }


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return the median, the best and the least."""
    return {"median": statistics.median(values), "best": max(values), "least": min(values)}

"""An asyncio service of a user's, as a type checker sees it."""

from collections.abc import AsyncIterator
from typing import assert_type

import ttc


async def answer(engine: ttc.AsyncEngine, question: str) -> str:
    result = await engine.generate(question, mode="diffusion", max_new_tokens=64, deadline=10)
    assert_type(result, ttc.Result)
    return result.text or ""


async def several(engine: ttc.AsyncEngine, questions: list[str]) -> list[ttc.Result]:
    return await engine.generate(questions, mode="ar", owner="somebody", priority=1)


async def pieces(engine: ttc.AsyncEngine, question: str) -> AsyncIterator[str]:
    async for update in engine.stream(question, provisional=True):
        assert_type(update, ttc.Update)
        if update.kind == "committed":
            yield update.text or ""


async def main(bundle: str) -> None:
    async with ttc.AsyncEngine.load(bundle, max_rows=16, max_queued=64) as engine:
        try:
            assert await answer(engine, "Why?")
        except (ttc.QueueFull, ttc.DeadlineExceeded) as fault:
            assert_type(fault, ttc.QueueFull | ttc.DeadlineExceeded)
        await engine.generate("Why?", max_tokens=8)  # type: ignore[call-overload]

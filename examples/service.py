"""A service in one process: several users, one `AsyncEngine`, streams, and a user who walks away.

python examples/service.py [BUNDLE]
"""

import asyncio
import contextlib
import sys
from typing import Any

import ttc

QUESTIONS = {
    "ada": "Ada has 9 bags with 9 stamps each. Ada sells 4 of them. How many stamps does Ada have now?",
    "tom": "Tom has 8 boxes with 7 keys each. Tom gets 5 more. How many keys does Tom have now?",
    "mona": "Mona has 50 shells. Mona eats 4 of them. Mona buys 7 more. How many shells does Mona have now?",
}


async def answer(engine: ttc.AsyncEngine, user: str, question: str, **options: Any) -> None:
    """Stream one answer, a line for every piece of text that stays."""
    async for update in engine.stream(f"Question: {question}\nAnswer:", deadline=60.0, **options):
        print(f"{user}: {update.text!r}", flush=True)
        if update.result is not None:
            print(f"{user}: {update.finish_reason} after {len(update.result.token_ids)} tokens", flush=True)


async def main(bundle: str) -> None:
    """Answer everybody at once; "mallory" wants a text without an end, and leaves."""
    async with ttc.AsyncEngine.load(bundle, max_rows=8, max_queued=16) as engine:
        endless = {"max_new_tokens": None, "stop_at_eos": False}
        mallory = asyncio.create_task(answer(engine, "mallory", QUESTIONS["tom"], **endless))
        await asyncio.gather(
            *(answer(engine, user, question, max_new_tokens=64) for user, question in QUESTIONS.items())
        )
        mallory.cancel()  # as a server does when a connection is gone: the row is free at the next tick
        with contextlib.suppress(asyncio.CancelledError):
            await mallory
        print("mallory: has left", flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "miniature"))

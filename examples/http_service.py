"""An HTTP service over one engine, without `ttc serve`.

    python examples/http_service.py [BUNDLE] [PORT]

POST /generate {"prompt": "…"} answers with the text as it is committed, block by block.
"""

import contextlib
import sys
from collections.abc import AsyncIterator

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

import ttc


def application(bundle: str) -> Starlette:
    """Return the application; the engine is loaded when it starts and closed when it ends."""

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with ttc.AsyncEngine.load(bundle, max_rows=16, max_queued=64) as engine:
            app.state.engine = engine
            yield

    async def generate(request: Request) -> Response:
        engine: ttc.AsyncEngine = request.app.state.engine
        prompt = (await request.json())["prompt"]
        updates = engine.stream(prompt, max_new_tokens=128, deadline=60)
        try:
            first = await anext(updates)  # what is refused is refused here, before the answer begins
        except ttc.QueueFull as full:
            return JSONResponse({"error": str(full)}, 429, {"Retry-After": f"{full.retry_after:.0f}"})
        except ttc.InputError as error:
            return JSONResponse({"error": str(error)}, 400)

        async def text() -> AsyncIterator[str]:
            yield first.text or ""
            async for update in updates:
                yield update.text or ""

        return StreamingResponse(text(), media_type="text/plain")

    return Starlette(routes=[Route("/generate", generate, methods=["POST"])], lifespan=lifespan)


if __name__ == "__main__":
    words = [*sys.argv[1:], "miniature", "8000"][: max(2, len(sys.argv) - 1)]
    uvicorn.run(application(words[0]), port=int(words[1]))

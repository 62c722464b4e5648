"""A running service on a port of its own, in a thread of the test's process, and clients for it."""

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

from ttc.serving.server import Server, listen
from ttc.serving.service.auth import Keys
from ttc.serving.service.service import Phase, Service, load_engine
from ttc.serving.service.settings import Settings

QUESTION = (
    "Question: Tom has 8 boxes with 7 keys each. Tom gets 5 more. How many keys does Tom have now?\nAnswer:"
)


class Running:
    """A service that runs: its `service`, its `server`, its `url`, and a plain `client`."""

    def __init__(self, service: Service, server: Server, url: str) -> None:
        self.service, self.server, self.url = service, server, url
        self.client = httpx.Client(base_url=url, timeout=60)

    @property
    def core(self) -> Any:
        return self.service.engine.engine.core

    def post(self, path: str = "/v1/completions", **body: Any) -> httpx.Response:
        return self.client.post(path, json=body)

    def events(self, path: str = "/v1/completions", **body: Any) -> list[Any]:
        """The data of all events of a stream, "[DONE]" as it is."""
        with self.client.stream("POST", path, json={"stream": True, **body}) as response:
            assert response.status_code == 200, response.read()
            lines = list(response.iter_lines())
        data = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
        return [one if one == "[DONE]" else json.loads(one) for one in data]


@contextlib.contextmanager
def running(
    bundle: Path, keys: dict[str, str] | None = None, load: Any = load_engine, **settings: Any
) -> Iterator[Running]:
    """Serve the bundle until the block ends."""
    service = Service(Settings(bundle=str(bundle), port=0, **settings), Keys(keys), load)
    with listen("127.0.0.1", 0) as bound:
        server = Server(service, bound, lambda line: None)
        thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[bound])))
        thread.start()
        try:
            until(lambda: service.phase is not Phase.LOADING or not thread.is_alive(), 60)
            assert service.phase is not Phase.LOADING, "the server did not start"
            up = Running(service, server, "http://{}:{}".format(*bound.getsockname()))
            with up.client:
                yield up
        finally:
            server.should_exit = True
            thread.join(30)
            assert not thread.is_alive(), "the server did not end"


def until(condition: Any, seconds: float = 20) -> None:
    """Wait until it holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited for too long"
        time.sleep(0.005)

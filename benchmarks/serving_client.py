"""A small HTTP client for measuring a service, and the service as a process of its own."""

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["Answer", "Link", "Served", "served"]


@dataclass(slots=True)
class Answer:
    """What came of one request.

    Attributes:
        status, headers, body: of the response; of a stream the body is all of its events.
        seconds: from sending to the last byte.
        event_seconds: of a stream, from sending to each event.
    """

    status: int
    headers: dict[str, str]
    body: Any = None
    seconds: float = 0.0
    event_seconds: list[float] = field(default_factory=list)


class Link:
    """One connection that is kept open; use it for one request at a time."""

    def __init__(self, host: str, port: int, key: str | None = None) -> None:
        self._host, self._port, self._key = host, port, key
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def post(self, path: str, body: dict[str, Any]) -> Answer:
        """Return the whole answer; of a stream, with the time of each event."""
        if self._writer is None or self._reader is None or self._reader.at_eof():
            self._reader, self._writer = await asyncio.open_connection(self._host, self._port)
        assert self._reader is not None
        raw = json.dumps(body).encode()
        key = "" if self._key is None else f"authorization: Bearer {self._key}\r\n"
        started = time.perf_counter()
        self._writer.write(
            f"POST {path} HTTP/1.1\r\nhost: x\r\n{key}content-length: {len(raw)}\r\n\r\n".encode() + raw
        )
        answer = await self._head()
        if "content-length" in answer.headers:
            content = await self._reader.readexactly(int(answer.headers["content-length"]))
            answer.body = json.loads(content)
        else:
            answer.body = []
            async for event in self._events():
                answer.event_seconds.append(time.perf_counter() - started)
                answer.body.append(event)
        answer.seconds = time.perf_counter() - started
        return answer

    def close(self) -> None:
        """Leave."""
        if self._writer is not None:
            self._writer.close()
            self._reader = self._writer = None

    async def _head(self) -> Answer:
        assert self._reader is not None
        lines = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines[1:] if line)
        return Answer(int(lines[0].split(" ")[1]), headers)

    async def _events(self) -> AsyncIterator[Any]:
        """Yield the data of a chunked event stream."""
        assert self._reader is not None
        while size := int(await self._reader.readline(), 16):
            content = (await self._reader.readexactly(size + 2))[:-2].decode()
            for line in content.splitlines():
                if line.startswith("data: "):
                    yield line[6:] if line == "data: [DONE]" else json.loads(line[6:])
        await self._reader.readline()


@dataclass(slots=True)
class Served:
    """A service that runs as a process."""

    process: "subprocess.Popen[str]"
    host: str
    port: int

    def link(self, key: str | None = None) -> Link:
        """Return a new connection to it."""
        return Link(self.host, self.port, key)

    async def metrics(self) -> dict[str, float]:
        """Return its metrics by name and labels."""
        reader, writer = await asyncio.open_connection(self.host, self.port)
        writer.write(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        text = (await reader.read(-1)).decode().split("\r\n\r\n", 1)[1]
        writer.close()
        lines = (line.rsplit(" ", 1) for line in text.splitlines() if line and line[0] != "#")
        return {name: float(value) for name, value in lines}

    def resident_mb(self) -> float:
        """Return the memory that the process holds."""
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        return int(status.split("VmRSS:")[1].split()[0]) / 1024

    def cpu_seconds(self) -> float:
        """Return the CPU time that the process has had."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def served(bundle: Path, *arguments: object) -> Iterator[Served]:
    """Run `ttc serve` on a port of its own until the block ends."""
    command = [sys.executable, "-m", "ttc", "serve", str(bundle), "--port", "0", *map(str, arguments)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        said = ""
        while "listening on http://" not in said:
            line = process.stderr.readline()
            assert line, f"the service did not start: {said}"
            said += line
        host, port = said.split("listening on http://")[1].split(" ")[0].split(":")
        yield Served(process, host, int(port))
        process.terminate()
        assert process.wait(60) == 0, "a drain that loses nothing"
    finally:
        process.kill()
        process.wait()
        process.stderr.close()

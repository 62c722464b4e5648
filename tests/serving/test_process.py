"""The process: what it says, its signals, its exit codes. Real processes and real signals."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.command_line import start
from tests.support.service import QUESTION
from ttc.serving.server import EXIT_UNFINISHED

LONG = {"prompt": QUESTION, "mode": "ar", "ignore_eos": True, "max_tokens": 600, "stream": True}


class Process:
    """A running `ttc serve`: what it said, where it listens."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process
        self.said = ""
        while "curl" not in self.said:
            line = process.stderr.readline()
            assert line, f"ended with {process.wait()}: {self.said}"
            self.said += line
        self.url = self.said.split("listening on ")[1].split(" ")[0]

    def status(self, path: str = "/v1/health/ready") -> int:
        return httpx.get(self.url + path, timeout=10).status_code


@contextlib.contextmanager
def serving(*arguments: object) -> Iterator[Process]:
    process = start("serve", *arguments, "--port", "0")
    try:
        yield Process(process)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()


class Reader:
    """Reads a stream in a thread of its own."""

    def __init__(self, url: str, **body: Any) -> None:
        self.lines: list[str] = []
        self.begun = threading.Event()
        self._thread = threading.Thread(target=self._read, args=(url, body))
        self._thread.start()
        assert self.begun.wait(20)

    def _read(self, url: str, body: Any) -> None:
        with (
            contextlib.suppress(httpx.TransportError),  # the process may end before the answer does
            httpx.stream("POST", f"{url}/v1/completions", json=body, timeout=30) as answer,
        ):
            for line in answer.iter_lines():
                self.lines += [line] if line else []
                self.begun.set()

    def end(self) -> list[str]:
        self._thread.join(30)
        assert not self._thread.is_alive()
        return self.lines


def test_a_drain_loses_nothing(mini: Path) -> None:
    """It says how to ask. On SIGTERM ready is 503 at once, new work is refused, accepted work ends, and the
    exit code is 0.
    """
    with serving(mini) as up:
        assert up.status() == up.status("/v1/health/live") == 200
        asked = json.loads(up.said.split("-d '")[1].split("'")[0])
        assert httpx.post(f"{up.url}/v1/completions", json=asked).json()["choices"][0]["text"]
        readers = [Reader(up.url, **LONG) for _ in range(3)]
        up.process.send_signal(signal.SIGTERM)
        end = time.monotonic() + 1
        while up.status() == 200:
            assert time.monotonic() < end
        assert up.status("/v1/health/live") == 200
        refused = httpx.post(f"{up.url}/v1/completions", json={"prompt": "a"})
        assert refused.status_code == 503
        assert int(refused.headers["retry-after"]) > 0
        for reader in readers:
            lines = reader.end()
            assert lines[-1] == "data: [DONE]"
            assert '"finish_reason":"length"' in lines[-2]
        assert up.process.wait(10) == 0


def test_a_second_signal_ends_at_once(mini: Path) -> None:
    with serving(mini) as up:
        reader = Reader(up.url, **LONG)
        up.process.send_signal(signal.SIGTERM)
        while up.status() == 200:
            time.sleep(0.01)
        up.process.send_signal(signal.SIGTERM)
        assert up.process.wait(2) == 128 + signal.SIGTERM
        assert "data: [DONE]" not in reader.end()


def test_it_drains_when_nobody_reads_what_it_says(mini: Path) -> None:
    """As when the program that collected its log is gone."""
    with serving(mini) as up:
        up.process.stderr.close()
        up.process.terminate()
        assert up.process.wait(30) == 0


def test_when_the_drain_time_is_over(mini: Path) -> None:
    """What is unfinished ends with an error event, and the exit code says so."""
    with serving(mini, "--drain-seconds", "0.2") as up:
        reader = Reader(up.url, **{**LONG, "max_tokens": 4000})
        up.process.send_signal(signal.SIGTERM)
        assert up.process.wait(10) == EXIT_UNFINISHED
        lines = reader.end()
        assert lines[-2] == "event: error"
        assert json.loads(lines[-1].removeprefix("data: "))["error"]["code"] == "engine_dead"


def refused(*arguments: object, **environment: str) -> str:
    process = start("serve", *arguments, **environment)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 1, said
    return said.splitlines()[-1]


def test_what_does_not_start(mini: Path, tmp_path: Path) -> None:
    """Each with one clear line, before anything is loaded where that can be known."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        said = refused(mini, "--port", taken.getsockname()[1])
        assert "cannot listen on 127.0.0.1" in said
        assert "in use" in said
    keys = tmp_path / "keys"
    keys.write_text("a-secret-key\n")
    keys.chmod(0o644)
    assert "chmod 600" in refused(mini, "--port", 0, "--api-key-file", keys)
    damaged = Path(shutil.copytree(mini, tmp_path / "damaged.bundle"))
    with (damaged / "context.onnx").open("r+b") as file:
        file.seek(1000)
        file.write(b"\xff\xff")
    assert "context.onnx" in refused(damaged, "--port", 0)
    assert "TTC_MAX_ROWS is 'many'" in refused(mini, "--port", 0, TTC_MAX_ROWS="many")


@pytest.mark.skipif(not os.path.exists("/proc"), reason="reads /proc")
def test_it_loads_no_torch(mini: Path) -> None:
    with serving(mini) as up:
        maps = Path(f"/proc/{up.process.pid}/maps").read_text()
        assert "onnxruntime" in maps
        assert "torch" not in maps

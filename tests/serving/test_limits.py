"""Keys, and clients that send too much, too slowly, too many: a clear answer, and nothing for the others."""

import contextlib
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.service import QUESTION, Running, running, until
from ttc.errors import InputError
from ttc.serving.gates import OPEN_PATHS
from ttc.serving.service.auth import ANYBODY, Keys, read_keys
from ttc.serving.service.settings import NIM_NAMES, Settings, read_settings
from ttc.serving.wire.errors import Unauthorized

SHORT = {"prompt": QUESTION, "max_tokens": 4}


@pytest.fixture(scope="module")
def strict(mini: Path) -> Iterator[Running]:
    with running(mini, max_body_bytes=2000, client_seconds=0.5, max_connections=8) as up:
        yield up


def link(up: Running) -> socket.socket:
    return socket.create_connection(("127.0.0.1", int(up.url.rsplit(":", 1)[1])), timeout=10)


def all_of(connection: socket.socket) -> bytes:
    got = b""
    while piece := connection.recv(65536):
        got += piece
    return got


def test_large_bodies(strict: Running) -> None:
    """Whether the size is said or not; a body without an end is cut off."""
    said = strict.client.post("/v1/completions", content=b"x" * 3000)
    assert said.status_code == 413

    def endless() -> Iterator[bytes]:
        for _ in range(20):
            yield b"x" * 1000

    assert strict.client.post("/v1/completions", content=endless()).status_code == 413
    assert "more than 2000 bytes" in said.json()["error"]["message"]
    assert strict.post(**SHORT).status_code == 200


def test_slow_clients(strict: Running) -> None:
    """Who sends half a body or half a head gets a 408; who sends nothing is let go."""
    with link(strict) as half, link(strict) as head, link(strict) as silent:
        half.sendall(b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{")
        head.sendall(b"POST /v1/completions HTTP/1.1\r\nhost:")
        assert strict.post(**SHORT).status_code == 200
        assert b" 408 " in half.recv(65536)
        assert late(all_of(head))
        assert all_of(silent) == b""


def late(got: bytes) -> bool:
    head, _, body = got.partition(b"\r\n\r\n")
    assert b"content-length: %d\r\n" % len(body) in head + b"\r\n"
    error = json.loads(body)["error"]
    assert "did not come within 0.5 seconds" in error["message"]
    return head.startswith(b"HTTP/1.1 408 Request Timeout\r\n") and error["code"] == "request_timeout"


@pytest.mark.parametrize("part", ["head", "body"])
def test_a_sender_of_a_byte_at_a_time(strict: Running, part: str) -> None:
    """It is never silent for long, and yet told after the time in which all should have come. Nobody else
    waits for it.
    """
    with link(strict) as slow:
        slow.setblocking(False)
        if part == "body":
            slow.sendall(b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 999\r\n\r\n")
        began, got, others = time.monotonic(), b"", 0
        while not got:
            assert time.monotonic() - began < 10, "it may go on for ever"
            slow.send(b"G")
            assert strict.post(**SHORT).status_code == 200
            others += 1
            time.sleep(0.05)
            with contextlib.suppress(BlockingIOError):
                got = slow.recv(65536)
        assert late(got)
        assert time.monotonic() - began >= 0.4
        assert others > 1
    until(lambda: strict.service.in_flight == 0)


def test_half_a_body_and_away(strict: Running, caplog: pytest.LogCaptureFixture) -> None:
    """Nobody is there to be told, and nothing went wrong here."""
    with link(strict) as half:
        half.sendall(b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{")
        until(lambda: strict.service.in_flight == 1)
    until(lambda: strict.service.in_flight == 0)
    assert 'rejected_total{why="internal_error"} 0.0' in strict.client.get("/metrics").text
    assert not caplog.records


def test_a_header_of_a_megabyte(strict: Running) -> None:
    with link(strict) as one:
        one.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\nx-long: ")
        try:
            one.sendall(b"y" * 1_000_000)
            got = one.recv(100)
        except ConnectionError:
            got = b"HTTP/1.1 400"  # it answered and closed before all was sent
        assert got.startswith(b"HTTP/1.1 400")
    assert strict.post(**SHORT).status_code == 200


def test_many_connections(strict: Running) -> None:
    """More than there may be get a 503 at once; when they are gone, all is as before."""
    connections = strict.server.server_state.connections
    links = [link(strict) for _ in range(8 - len(connections))]
    # Those that have been silent for too long have to be replaced, where the machine is busy.
    got = b""
    while b" 503 " not in got:
        with link(strict) as one:
            got = all_of(one)
        links += [link(strict) for _ in range(8 - len(connections))]
    assert b" 503 " in got
    assert b"retry-after: 1" in got
    assert json.loads(got.split(b"\r\n\r\n")[1])["error"]["code"] == "not_ready"
    for each in links:
        each.close()
    until(lambda: len(connections) < 4)
    assert strict.post(**SHORT).status_code == 200


def test_a_slow_reader_holds_nobody_up(served: Running) -> None:
    """Its row ends, its text waits; others go on."""
    body = json.dumps({**SHORT, "stream": True, "mode": "ar", "ignore_eos": True, "max_tokens": 300}).encode()
    with link(served) as slow:
        slow.sendall(
            b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body) + body
        )
        began = time.monotonic()
        for _ in range(20):
            assert slow.recv(1)
            assert served.post(**SHORT).status_code == 200
        assert time.monotonic() - began < 20
        until(lambda: served.core.idle)
        got = b""
        while b"[DONE]" not in got:
            got += slow.recv(65536)


def test_a_clock_that_is_set_back(served: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the date of an answer goes by it, no deadline, wait or heartbeat."""
    before = time.time()
    monkeypatch.setattr(time, "time", lambda: before - 86_400)
    answer = served.post(**SHORT, deadline_ms=20_000)
    assert answer.status_code == 200
    assert answer.json()["created"] < before - 80_000
    assert served.client.get("/v1/health/ready").status_code == 200


def test_keys(mini: Path) -> None:
    """Nothing but health and the page's files is open; the owner of a key is known to the engine."""
    keys = {"ada": "a-key-of-ada", "bob": "a-key-of-bob"}
    with running(mini, keys=keys) as up:
        for path in OPEN_PATHS:
            assert up.client.get(path).status_code == 200
        described = httpx.get(f"{up.url}/openapi.json", headers={"authorization": "Bearer a-key-of-ada"})
        for path in [*described.json()["paths"], "/nothing"]:
            if path not in OPEN_PATHS:
                refused = up.client.request("GET", path)
                assert refused.status_code == 401, path
                assert refused.headers["www-authenticate"] == "Bearer"
        for wrong in ("Bearer x", "a-key-of-ada", "Basic a-key-of-ada", "Bearer a-key-of-ad\u00e9", ""):
            sent = {"authorization": wrong.encode("latin-1")}
            assert up.client.post("/v1/completions", json=SHORT, headers=sent).status_code == 401
        right = {"authorization": "Bearer a-key-of-bob"}
        assert up.client.post("/v1/completions", json=SHORT, headers=right).status_code == 200
        assert up.core.limits.owner_rows == 12


def test_owners() -> None:
    keys = Keys({"ada": "a-key-of-ada"})
    assert keys.owner("bearer a-key-of-ada") == "ada"
    with pytest.raises(Unauthorized):
        keys.owner(None)
    assert Keys(None).owner(None) == ANYBODY


def test_key_files(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.touch(0o600)

    def read(text: str) -> Any:
        file.write_text(text)
        return read_keys(file)

    assert read("# who\nada first-key\n\nsecond-key # bob\n") == {"ada": "first-key", "key2": "second-key"}
    for text, says in (
        ("", "holds no keys"),
        ("short\n", "line 1"),
        ("a b c\n", "line 1"),
        ("ada first-key\nada other-key\n", "line 2 repeats"),
        ("first-key\nfirst-key\n", "line 2 repeats"),
    ):
        with pytest.raises(InputError, match=says):
            read(text)
    for mode in (0o640, 0o604, 0o620):
        file.chmod(mode)
        with pytest.raises(InputError, match="chmod 600"):
            read_keys(file)
    with pytest.raises(InputError, match="cannot be read"):
        read_keys(tmp_path / "none")


def test_settings(tmp_path: Path) -> None:
    """An option before the environment, that before the file, that before the default."""
    file = tmp_path / "serve.toml"
    file.write_text('port = 1\nmax_rows = 2\nmode = "ar"\ndrain_seconds = 5\n')
    read = read_settings({"port": 3, "host": None}, file, {"TTC_PORT": "2", "TTC_MAX_ROWS": "4"})
    assert (read.port, read.max_rows, read.mode, read.host) == (3, 4, "ar", "127.0.0.1")
    assert read.drain_seconds == 5
    nim = {"NIM_SERVER_PORT": "9", "NIM_SERVED_MODEL_NAME": "big", "NIM_MAX_MODEL_LEN": "64"}
    assert set(nim) <= set(NIM_NAMES)
    assert read_settings({}, None, nim) == Settings(port=9, served_model_name="big", capacity=64)
    assert read_settings({}, None, {**nim, "TTC_PORT": "8"}).port == 8
    for options, environment, says in (
        ({"max_rows": 0}, {}, "max_rows is 0"),
        ({"port": 70000}, {}, "port is 70000"),
        ({"max_rows": True}, {}, "max_rows is True"),
        ({"host": ""}, {}, "host is ''"),
        ({}, {"TTC_DRAIN_SECONDS": "soon"}, "TTC_DRAIN_SECONDS is 'soon'"),
        ({"drain_seconds": float("nan")}, {}, "drain_seconds is nan"),
    ):
        with pytest.raises(InputError, match=says):
            read_settings(options, None, environment)
    for text, says in (
        ("nonsense = 1", "unknown setting 'nonsense'"),
        ("port = '1'", "port is '1'"),
        ("=", "not TOML"),
    ):
        file.write_text(text)
        with pytest.raises(InputError, match=says):
            read_settings({}, file, {})
    with pytest.raises(InputError, match="cannot be read"):
        read_settings({}, tmp_path / "none", {})

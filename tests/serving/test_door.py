"""The door before several services, without Ray: seeds, retries, honest ends, and who is asked."""

import asyncio
import contextlib
import json

import httpx
import pytest

from ttc.serving.adapters.affinity import key_of, ranked
from ttc.serving.adapters.door import Door, Replicas, with_seed
from ttc.serving.adapters.forwarding import Forward, answers
from ttc.serving.app import create_app
from ttc.serving.service.service import Phase, Service
from ttc.serving.service.settings import Settings

PATH = "/v1/completions"
JSON = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]}
STREAM = {**JSON, "headers": [(b"content-type", b"text/event-stream; charset=utf-8")]}
FULL = {**JSON, "status": 429, "headers": [(b"content-type", b"application/json"), (b"retry-after", b"7")]}


class Died(Exception):
    """A replica's process is gone."""


class Overloaded(Exception):
    """Nobody takes more."""


def piece(content, more=True):
    return {"type": "http.response.body", "body": content, "more_body": more}


class Scripted:
    """Replicas of which each attempt follows the next script: messages, or an exception to raise."""

    def __init__(self, *scripts):
        self.scripts, self.asked, self.closed = list(scripts), [], 0

    async def ask(self, key, attempt, forward):
        self.asked.append((key, attempt, forward))
        try:
            for step in self.scripts[len(self.asked) - 1]:
                if isinstance(step, asyncio.Event):
                    await step.wait()
                elif isinstance(step, Exception):
                    raise step
                else:
                    yield step
        finally:
            self.closed += 1


def door_of(replicas, **more):
    return Door(Replicas(replicas.ask, (Died,), (Overloaded,), **more), 4096)


async def through(door, body, path=PATH, headers=None):
    """Send one request; httpx gathers streams as well."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    async with httpx.AsyncClient(transport=httpx.ASGITransport(door), base_url="http://door") as client:
        return await client.post(path, content=raw, headers=headers)


def post(replicas, body, **more):
    return asyncio.run(through(door_of(replicas, **more), body))


def forward(body, headers=(), path=PATH):
    return Forward("POST", path, b"", tuple(headers), json.dumps(body).encode())


WHOLE = [JSON, piece(b'{"text": '), piece(b'"all"}', more=False)]
WRITTEN = [STREAM, piece(b"data: 1\n\n"), piece(b"data: [DONE]\n\n"), piece(b"", more=False)]


def test_an_answer_is_passed_on():
    replicas = Scripted(WHOLE)
    answer = post(replicas, {"prompt": "a"})
    assert (answer.status_code, answer.json()) == (200, {"text": "all"})
    assert len(replicas.asked) == replicas.closed == 1


@pytest.mark.parametrize("script", [[Died()], [JSON, Died()], [JSON, piece(b'{"te'), Died()]])
def test_a_whole_answer_is_asked_for_again(script):
    replicas = Scripted(script, script, WHOLE)
    answer = post(replicas, {"prompt": "a", "temperature": 0.9})
    assert answer.json() == {"text": "all"}
    assert [attempt for _, attempt, _ in replicas.asked] == [0, 1, 2]
    bodies = {one.body for _, _, one in replicas.asked}
    assert len(bodies) == 1, "the seed is fixed before the first attempt"
    assert isinstance(json.loads(bodies.pop())["seed"], int)


def test_a_stream_is_asked_for_again_before_its_first_event_only():
    assert post(Scripted([Died()], WRITTEN), {"prompt": "a", "stream": True}).text.endswith("[DONE]\n\n")
    replicas = Scripted([STREAM, piece(b"data: 1\n\n"), Died()], WRITTEN)
    answer = post(replicas, {"prompt": "a", "stream": True})
    assert answer.status_code == 200
    data, error = answer.text.strip().split("\n\n")
    assert data == "data: 1"
    assert error.startswith("event: error\ndata: ")
    assert json.loads(error.split("data: ")[1])["error"]["code"] == "not_ready"
    assert "[DONE]" not in answer.text
    assert len(replicas.asked) == 1


def test_an_answer_without_an_end_is_none():
    """As a proxy gives it whose replica died: a clean end, without the last message."""
    answer = post(Scripted([STREAM, piece(b"data: 1\n\n")]), {"prompt": "a", "stream": True})
    assert "event: error" in answer.text
    assert "[DONE]" not in answer.text
    assert post(Scripted([JSON, piece(b"{")]), {"prompt": "a"}).status_code == 503


def test_when_there_is_no_place():
    refused = [FULL, piece(b"{}", more=False)]
    replicas = Scripted(refused, WHOLE)
    assert post(replicas, {"prompt": "a"}).json() == {"text": "all"}
    assert replicas.closed == 2
    replicas = Scripted(refused, refused, WHOLE)
    answer = post(replicas, {"prompt": "a"})
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "7")
    assert len(replicas.asked) == 2
    answer = post(Scripted([Overloaded()]), {"prompt": "a"}, retry_after=lambda: 3.2)
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "4")
    answer = post(Scripted(*[[Died()]] * 3), {"prompt": "a"}, tries=3)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")


def test_large_bodies_are_refused():
    replicas = Scripted()
    assert post(replicas, {"prompt": "a" * 5000}).status_code == 413
    assert not replicas.asked


def test_who_leaves_is_let_go():
    async def leave():
        never = asyncio.Event()
        replicas = Scripted([STREAM, piece(b"data: 1\n\n"), never])
        messages = [{"type": "http.request", "body": b"{}"}, {"type": "http.disconnect"}]
        sent = []

        async def receive():
            if len(messages) == 1:
                while len(sent) < 2:
                    await asyncio.sleep(0)
            return messages.pop(0)

        async def send(message):
            sent.append(message)

        scope = {"type": "http", "method": "POST", "path": PATH, "query_string": b"", "headers": []}
        await asyncio.wait_for(door_of(replicas)(scope, receive, send), 5)
        return replicas.closed

    assert asyncio.run(leave()) == 1


@pytest.mark.parametrize(
    "body",
    [
        {"prompt": "a"},
        {"prompt": "a", "temperature": 0},
        {"prompt": "a", "temperature": 1, "seed": 5},
        {"prompt": ["a", "b"], "temperature": 1},
        [1],
    ],
)
def test_bodies_that_stay(body):
    assert with_seed(forward(body))[0] == forward(body)


def test_bodies_that_get_a_seed():
    sent = forward({"prompt": [5, 6], "temperature": 0.5, "seed": None}, [(b"content-length", b"9")])
    seeded, _ = with_seed(sent)
    assert isinstance(json.loads(seeded.body)["seed"], int)
    assert seeded.headers == ()
    broken = Forward("POST", PATH, b"", (), b"[" * 100_000)
    assert with_seed(broken) == (broken, None)


def key(body, *headers):
    return key_of(forward(body, headers), body)


def test_keys():
    long = "You are a careful assistant. " * 20
    assert key({"prompt": "short"}) == key({"prompt": [5] * 63}) == key({}) == key({"prompt": 7}) == ""
    assert key({"prompt": long + "one"}) == key({"prompt": long + "another"}) != ""
    assert key({"prompt": [[5] * 64 + [6]]}) == key({"prompt": [5] * 64 + [7]}) != ""
    turns = [{"role": "system", "content": long}, {"role": "user", "content": "hello"}]
    assert key({"messages": turns}) == key({"messages": [*turns, {"role": "user", "content": "more"}]}) != ""
    session = (b"x-session-id", b"ada")
    assert key({"prompt": long}, session) == key({"prompt": "short"}, session) == "session ada"


def test_ranks():
    loads = dict.fromkeys("abcde", 2)
    first = {n: ranked(f"key {n}", loads)[0] for n in range(200)}
    assert min(list(first.values()).count(name) for name in loads) > 20, "keys are spread"
    without = {name: load for name, load in loads.items() if name != "c"}
    moved = {n for n in first if ranked(f"key {n}", without)[0] != first[n]}
    assert moved == {n for n in first if first[n] == "c"}, "only the keys of who has gone move"
    best, second = ranked("key 1", loads)[:2]
    assert ranked("key 1", loads, attempt=1)[0] == second
    assert ranked("key 1", {**loads, best: 40})[0] == second, "who has far too much is passed over"
    assert ranked("", {"a": 3, "b": 1, "c": 2}) == ["b", "c", "a"]
    assert ranked("key", {}) == []


def test_a_real_service_behind_it(mini, monkeypatch):
    """The first replica dies after half an answer; the second is a service of its own."""
    # The door's seed: a text that is drawn anew each time may now and then be empty, which shows nothing.
    monkeypatch.setattr("ttc.serving.adapters.door.secrets.randbelow", lambda most: 7)

    async def run():
        service = Service(Settings(bundle=str(mini)))
        app = create_app(service)
        service.start()
        while service.phase is Phase.LOADING:
            await asyncio.sleep(0.01)
        tries = []

        async def ask(key, attempt, forward):
            tries.append(json.loads(forward.body).get("seed"))
            async with contextlib.aclosing(answers(app, forward)) as messages:
                async for message in messages:
                    yield message
                    if len(tries) == 1:
                        raise Died

        body = {"prompt": "Question: Sort 93, 26, 13, 88.\nAnswer:", "temperature": 1.0, "max_tokens": 40}
        try:
            whole = await through(Door(Replicas(ask, (Died,))), body)
            same = await through(Door(Replicas(ask, (Died,))), {**body, "seed": tries[0]})
            stream = await through(Door(Replicas(ask, (Died,))), {**body, "seed": tries[0], "stream": True})
            assert len(tries) == 4
            assert tries[0] == tries[1] == 7
            assert not service.in_flight
            return whole.json(), same.json(), stream.text
        finally:
            await service.close()

    whole, same, stream = asyncio.run(run())
    assert whole["choices"][0]["text"] == same["choices"][0]["text"] != ""
    events = [line.removeprefix("data: ") for line in stream.splitlines() if line.startswith("data: ")]
    assert events.pop() == "[DONE]"
    assert "".join(json.loads(e)["choices"][0]["text"] for e in events) == whole["choices"][0]["text"]


def test_an_application_that_ends_too_soon():
    async def app(scope, receive, send):
        await send(JSON)

    async def run():
        return [message async for message in answers(app, forward({}))]

    with pytest.raises(Exception, match="ended before its answer did"):
        asyncio.run(run())

"""Chats, tokens, blocks as they fill, KServe, health, metrics: every path but completions."""

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.service import QUESTION, Running, running
from ttc import __version__
from ttc.runtime.engine import Engine

TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    "{{ bos_token }}{{ m.role }}: {{ m.content | trim }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant:{% endif %}"
)

PROMISED = (
    "requests_running",
    "requests_waiting",
    "request_success_total",
    "request_rejected_total",
    "queue_time_seconds",
    "time_to_first_block_seconds",
    "inter_block_seconds",
    "e2e_request_latency_seconds",
    "prompt_tokens_total",
    "generation_tokens_total",
    "denoiser_evaluations_total",
    "denoiser_calls_total",
    "denoiser_rows_per_call",
    "tokens_per_nfe",
    "steps_per_block",
    "lossless_drafted_tokens_total",
    "lossless_accepted_tokens_total",
    "context_calls_total",
    "prefix_cache_queries_total",
    "prefix_cache_hits_total",
    "prefix_cache_bytes",
    "state_bytes",
    "corrupted_requests_total",
    "engine_heartbeat_age_seconds",
    "engine_up",
    "build_info",
)


@pytest.fixture(scope="module")
def chatty(mini: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    file = tmp_path_factory.mktemp("chat") / "template.jinja"
    file.write_text(TEMPLATE)
    with running(mini, chat_template=str(file), served_model_name="tiny") as up:
        yield up


def test_without_a_template_chats_are_refused(served: Running) -> None:
    answer = served.post("/v1/chat/completions", messages=[{"role": "user", "content": "hi"}])
    assert answer.status_code == 400
    assert "no chat template" in answer.json()["error"]["message"]


def test_a_chat(chatty: Running, talker: Engine) -> None:
    body = {"messages": [{"role": "user", "content": f" {QUESTION}"}], "max_tokens": 24, "model": "tiny"}
    answer = chatty.post("/v1/chat/completions", logprobs=True, **body).json()
    encode = talker.tokenizer.encode
    prompt = encode(f"<s>user: {QUESTION}</s>\n<s>assistant:", add_special_tokens=False).ids
    want = talker.generate(prompt, max_new_tokens=24, logprobs=True)
    (choice,) = answer["choices"]
    assert choice["message"] == {"role": "assistant", "content": want.text, "refusal": None}
    assert answer["usage"]["prompt_tokens"] == len(prompt)
    assert [one["logprob"] for one in choice["logprobs"]["content"]] == list(want.logprobs)
    chunks = chatty.events("/v1/chat/completions", **body)
    assert chunks.pop() == "[DONE]"
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert [delta.get("role") for delta in deltas] == ["assistant"] + [None] * (len(deltas) - 1)
    assert "".join(delta["content"] for delta in deltas) == want.text


def test_a_message_speaks_no_control_tokens(chatty: Running) -> None:
    """What looks like the template's own tokens is text; parts are joined."""
    parts = [{"type": "text", "text": "a</s><mask>"}, {"type": "text", "text": "\ue0000\ue000"}]
    ids = chatty.service.template.prompt([{"role": "user", "content": "".join(p["text"] for p in parts)}])
    assert [token for token in ids if token in (0, 1, 2, 3)] == [1, 2, 1]
    text = chatty.service.engine.engine.tokenizer.decode(ids, skip_special_tokens=False)
    assert text == "<s>user: a</s><mask>\ue0000\ue000</s>\n<s>assistant:"
    answer = chatty.post("/v1/chat/completions", messages=[{"role": "user", "content": parts}], max_tokens=1)
    assert answer.json()["usage"]["prompt_tokens"] == len(ids)


@pytest.mark.parametrize(
    ("messages", "says"),
    [
        ([], "valid: a list of messages"),
        ([{"role": "user"}], "content is None"),
        ([{"content": "a"}], "role and content"),
        ([{"role": "system", "content": "a"}], "no system"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "valid: text parts"),
        ([{"role": "user", "content": "a", "tool_calls": []}], "unknown field 'tool_calls'"),
    ],
)
def test_messages_that_are_refused(chatty: Running, messages: Any, says: str) -> None:
    answer = chatty.post("/v1/chat/completions", messages=messages)
    assert answer.status_code == 400, answer.text
    assert says in answer.json()["error"]["message"]


def test_tokens(served: Running, talker: Engine) -> None:
    made = served.post("/tokenize", prompt="Tom has </s> 8").json()
    assert made["count"] == len(made["tokens"]) > 4
    assert 2 not in made["tokens"]
    assert served.post("/detokenize", tokens=made["tokens"]).json() == {"prompt": "<s>Tom has </s> 8"}
    for path, body in (
        ("/tokenize", {"prompt": 1}),
        ("/detokenize", {"tokens": [10**9]}),
        ("/tokenize", {"a": 1}),
    ):
        assert served.post(path, **body).status_code == 400


def test_blocks_as_they_fill(served: Running, talker: Engine) -> None:
    events: list[tuple[str, Any]] = []
    with served.client.stream(
        "POST", "/ttc/v1/stream", json={"prompt": QUESTION, "max_tokens": 40, "threshold": 1.0}
    ) as answer:
        name = ""
        for line in answer.iter_lines():
            if line.startswith("event: "):
                name = line[7:]
            elif line.startswith("data: "):
                events.append((name, line[6:] if line == "data: [DONE]" else json.loads(line[6:])))
                name = ""
    assert events.pop() == ("", "[DONE]")
    want = talker.generate(QUESTION, max_new_tokens=40, threshold=1.0)
    assert "".join(data["text"] for name, data in events if name == "block") == want.text
    steps = [data for name, data in events if name == "step"]
    assert steps
    mask = talker.config.mask_token_id
    for step in steps:
        assert [token is None for token in step["tokens"]] == [token == mask for token in step["token_ids"]]
    name, end = events[-1]
    assert name == "end"
    assert end["finish_reason"] == want.finish_reason
    assert end["usage"]["ttc"]["nfe"] == want.stats.nfe


def test_log_probabilities_of_completions(served: Running, talker: Engine) -> None:
    """Echoed, as loglikelihood tasks ask: those of the context tower at every position of the prompt."""
    prompt = [1, 350, 29, 270, 41, 17]
    answer = served.post(prompt=[prompt], max_tokens=1, echo=True, logprobs=1, mode="ar").json()
    logprobs = answer["choices"][0]["logprobs"]
    want = talker.generate(prompt, "ar", max_new_tokens=1, logprobs=True, prompt_logprobs=True)
    scores = [score.logprob for score in want.prompt_scores]
    assert logprobs["token_logprobs"] == [None, *scores, want.logprobs[0]]
    assert len(logprobs["tokens"]) == len(logprobs["top_logprobs"]) == len(logprobs["text_offset"]) == 7
    assert logprobs["top_logprobs"][0] is None
    for score, name, top in zip(
        want.prompt_scores, logprobs["tokens"][1:], logprobs["top_logprobs"][1:], strict=False
    ):
        assert top[name] == score.logprob
        assert max(top.values()) == score.top_logprob
    none = served.post(prompt=[prompt], max_tokens=0, echo=True, logprobs=1).json()["choices"][0]
    assert none["logprobs"]["token_logprobs"] == [None, *scores]
    chunks = served.events(prompt=QUESTION, max_tokens=20, logprobs=1)[:-1]
    streamed = [p for chunk in chunks for p in chunk["choices"][0]["logprobs"]["token_logprobs"]]
    assert streamed == list(talker.generate(QUESTION, max_new_tokens=20, logprobs=True).logprobs)


def test_kserve(served: Running, talker: Engine) -> None:
    """JSON and bytes, text and ids; as Triton's clients send them."""
    assert served.client.get("/v2").json()["extensions"] == ["binary_tensor_data"]
    assert served.client.get("/v2/models/miniature-None/ready").json() == {"ready": True}
    assert served.client.get("/v2/models/other/ready").status_code == 404
    want = talker.generate(QUESTION, max_new_tokens=8)
    text = {"name": "text_input", "datatype": "BYTES", "shape": [1], "data": [QUESTION]}
    path = "/v2/models/miniature-None/infer"
    answer = served.post(path, inputs=[text], parameters={"max_tokens": 8}, id="7").json()
    assert answer["id"] == "7"
    assert answer["outputs"][0]["data"] == [want.text]
    assert answer["outputs"][1]["data"] == list(want.token_ids)

    ids = talker.tokenizer.encode(QUESTION).ids
    raw = np.array(ids, "<i4").tobytes()
    tensor = {"name": "input_ids", "datatype": "INT32", "shape": [1, len(ids)]}
    tensor["parameters"] = {"binary_data_size": len(raw)}
    head = json.dumps(
        {"inputs": [tensor], "parameters": {"binary_data_output": True, "max_tokens": 8}}
    ).encode()
    sent = {"Inference-Header-Content-Length": str(len(head))}
    got = served.client.post(path, content=head + raw, headers=sent)
    size = int(got.headers["inference-header-content-length"])
    outputs = json.loads(got.content[:size])["outputs"]
    sizes = [output["parameters"]["binary_data_size"] for output in outputs]
    behind = got.content[size:]
    (length,) = struct.unpack("<I", behind[:4])
    assert behind[4 : 4 + length].decode() == want.text
    assert np.frombuffer(behind[sizes[0] :], "<i4").tolist() == list(want.token_ids)
    for bad in (
        {"inputs": []},
        {"inputs": [{**text, "name": "x"}]},
        {"inputs": [text], "outputs": [{"name": 1}]},
    ):
        assert served.post(path, **bad).status_code == 400


def test_health_and_what_it_is(served: Running) -> None:
    get = served.client.get
    for path in ("/v1/health/live", "/v1/health/ready", "/health", "/v2/health/live", "/v2/health/ready"):
        assert get(path).status_code == 200
    assert get("/v1/version").json()["release"] == __version__
    (model,) = get("/v1/models").json()["data"]
    assert model["id"] == "miniature-None"
    assert get("/v1/metadata").json()["max_model_len"] == model["max_model_len"] == 4096
    assert served.client.head("/metrics").status_code == 200


def test_request_ids(served: Running) -> None:
    for sent, kept in (("abc-1", True), ("x" * 200, False), ("a b", False)):
        got = served.client.get("/v1/version", headers={"x-request-id": sent}).headers["x-request-id"]
        assert (got == sent) is kept


def test_metrics_move(served: Running) -> None:
    """What a request did is on /metrics; every name that is promised is there."""
    before = figures(served)
    served.events(prompt=QUESTION, max_tokens=160, ignore_eos=True)
    served.post(prompt=QUESTION, mode="lossless", max_tokens=20)
    served.post(promt=1)
    after = figures(served)

    def moved(name: str) -> float:
        return after[name] - before.get(name, 0.0)

    assert (
        moved('ttc_request_success_total{reason="length"}') + moved('ttc_request_success_total{reason="eos"}')
        == 2
    )
    assert moved('ttc_request_rejected_total{why="invalid_value"}') == 1
    assert moved("ttc_time_to_first_block_seconds_count") == 1
    # A client that reads slowly gets some of the ten blocks as one, but not all of them.
    assert 1 <= moved("ttc_inter_block_seconds_count") <= 9
    assert moved("ttc_queue_time_seconds_count") == moved("ttc_e2e_request_latency_seconds_count") == 2
    assert moved('ttc_denoiser_evaluations_total{mode="diffusion"}') > 0
    assert moved("ttc_denoiser_calls_total") == moved("ttc_denoiser_rows_per_call_count") > 0
    assert moved('ttc_context_calls_total{width="16"}') > 0
    assert moved("ttc_lossless_drafted_tokens_total") >= moved("ttc_lossless_accepted_tokens_total") > 0
    assert moved("ttc_prefix_cache_queries_total") == 2
    assert after["ttc_engine_up"] == 1
    assert after["ttc_requests_running"] == after["ttc_requests_waiting"] == after["ttc_state_bytes"] == 0
    assert not [name for name in PROMISED if not any(key.startswith(f"ttc_{name}") for key in after)]


def figures(served: Running) -> dict[str, float]:
    lines = served.client.get("/metrics").text.splitlines()
    return {key: float(value) for key, value in (line.rsplit(" ", 1) for line in lines if line[0] != "#")}

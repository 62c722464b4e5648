"""POST /v1/completions, whole and streamed."""

import pytest

from tests.support.service import QUESTION, Running
from ttc.runtime.engine import Engine


@pytest.mark.parametrize("mode", ["diffusion", "ar", "lossless"])
def test_the_text_is_the_engines(served: Running, talker: Engine, mode: str) -> None:
    want = talker.generate(QUESTION, mode, max_new_tokens=64)
    answer = served.post(prompt=QUESTION, mode=mode, max_tokens=64).json()
    (choice,) = answer["choices"]
    assert choice["text"] == want.text
    assert choice["finish_reason"] == "stop"
    assert answer["usage"]["completion_tokens"] == len(want.token_ids)
    assert answer["usage"]["prompt_tokens"] == want.stats.prompt_tokens
    if mode == "diffusion":
        assert answer["usage"]["ttc"]["nfe"] == want.stats.nfe
    chunks = served.events(prompt=QUESTION, mode=mode, max_tokens=64)
    assert chunks.pop() == "[DONE]"
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == want.text
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks][-1] == "stop"


def test_chunks_are_blocks(served: Running, talker: Engine) -> None:
    """Whole ones, in order; those that come before the last was sent share a chunk."""
    want = talker.generate(QUESTION, max_new_tokens=64)
    chunks = served.events(
        prompt=QUESTION, max_tokens=64, return_token_ids=True, stream_options={"include_usage": True}
    )
    assert chunks.pop() == "[DONE]"
    assert chunks.pop()["usage"]["ttc"]["blocks"] == len(want.stats.nfe_per_block) >= len(chunks)
    told = [chunk["choices"][0]["token_ids"] for chunk in chunks]
    assert [token for tokens in told for token in tokens] == list(want.token_ids)
    assert all(tokens and len(tokens) % 16 == 0 for tokens in told[:-1])


def test_several_prompts_and_texts(served: Running, talker: Engine) -> None:
    """Choice i·n + j is text j of prompt i; the prompt of n texts counts once."""
    prompts = ["Question: One", "Question: Two"]
    options = {"temperature": 1.0, "seed": 5}
    answer = served.post(prompt=prompts, n=2, max_tokens=8, **options).json()
    want = [
        talker.generate(prompt, max_new_tokens=8, choice=i, **options) for prompt in prompts for i in (0, 1)
    ]
    assert [choice["text"] for choice in answer["choices"]] == [each.text for each in want]
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3]
    assert answer["usage"]["prompt_tokens"] == want[0].stats.prompt_tokens + want[2].stats.prompt_tokens
    ids = served.post(prompt=[[5, 6, 7], [8]], max_tokens=4, return_token_ids=True).json()
    for prompt, choice in zip([[5, 6, 7], [8]], ids["choices"], strict=True):
        assert tuple(choice["token_ids"]) == talker.generate(prompt, max_new_tokens=4).token_ids


def test_what_users_write_is_text(served: Running, talker: Engine) -> None:
    """Control tokens in a prompt are the characters they are written in."""
    answer = served.post(prompt="</s><mask>", max_tokens=1).json()
    ids = talker.read("</s><mask>", None, {"split_special_tokens": True}, None).rows[0].request.prompt
    assert answer["usage"]["prompt_tokens"] == len(ids) > 4
    assert not {2, 3} & set(ids)

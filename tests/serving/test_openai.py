"""The openai package as a client: whole answers, streams, options, leaving, errors."""

from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from tests.support.service import QUESTION, Running, running, until
from ttc.runtime.engine import Engine


@pytest.fixture(scope="module")
def up(mini: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    template = tmp_path_factory.mktemp("chat") / "template.jinja"
    template.write_text("{{ bos_token }}{{ messages[-1].content }}")
    keys = {"ada": "a-key-of-ada"}
    with running(mini, keys=keys, served_model_name="mini", chat_template=str(template)) as service:
        yield service


@pytest.fixture(scope="module")
def client(up: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{up.url}/v1", api_key="a-key-of-ada", max_retries=0) as made:
        yield made


def test_whole_answers(client: openai.OpenAI, talker: Engine) -> None:
    want = talker.generate(QUESTION, max_new_tokens=32)
    answer = client.completions.create(model="mini", prompt=QUESTION, max_tokens=32)
    assert answer.choices[0].text == want.text
    assert answer.usage.completion_tokens == len(want.token_ids)
    chat = client.chat.completions.create(
        model="mini", messages=[{"role": "user", "content": QUESTION}], max_completion_tokens=32
    )
    assert chat.choices[0].message.content == want.text
    assert [model.id for model in client.models.list()] == ["mini"]


def test_streams(client: openai.OpenAI, talker: Engine) -> None:
    want = talker.generate(QUESTION, max_new_tokens=64)
    pieces = list(
        client.completions.create(
            model="mini",
            prompt=QUESTION,
            max_tokens=64,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert "".join(piece.choices[0].text for piece in pieces[:-1]) == want.text
    assert pieces[-1].usage.completion_tokens == len(want.token_ids)
    chat = client.chat.completions.create(
        model="mini", messages=[{"role": "user", "content": QUESTION}], max_tokens=64, stream=True
    )
    assert "".join(piece.choices[0].delta.content for piece in chat) == want.text


def test_options(client: openai.OpenAI, talker: Engine) -> None:
    options = {"temperature": 1.0, "seed": 3}
    want = [talker.generate(QUESTION, max_new_tokens=16, choice=i, logprobs=True, **options) for i in (0, 1)]
    answer = client.completions.create(
        model="mini",
        prompt=QUESTION,
        max_tokens=16,
        n=2,
        logprobs=1,
        extra_body={"mode": "diffusion"},
        **options,
    )
    assert [choice.text for choice in answer.choices] == [each.text for each in want]
    for choice, each in zip(answer.choices, want, strict=True):
        assert choice.logprobs.token_logprobs == list(each.logprobs)


def test_leaving(client: openai.OpenAI, up: Running) -> None:
    stream = client.completions.create(
        model="mini",
        prompt=QUESTION,
        max_tokens=3000,
        stream=True,
        extra_body={"mode": "ar", "ignore_eos": True},
    )
    next(iter(stream))
    assert up.core.running == 1
    stream.close()
    until(lambda: up.core.idle, 2)


def test_errors(client: openai.OpenAI, up: Running) -> None:
    """Each as the exception that its users expect."""
    with pytest.raises(openai.BadRequestError, match="valid") as refused:
        client.completions.create(model="mini", prompt=QUESTION, temperature=-1)
    assert refused.value.param == "temperature"
    with pytest.raises(openai.NotFoundError, match="not served here"):
        client.completions.create(model="other", prompt=QUESTION)
    with (
        openai.OpenAI(base_url=f"{up.url}/v1", api_key="wrong", max_retries=0) as stranger,
        pytest.raises(openai.AuthenticationError),
    ):
        stranger.models.list()

"""A sample of random requests at 16 clients: the service answers what the engine gives for each alone.

`benchmarks/serving.py` asks a thousand.
"""

import random
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from benchmarks.core import random_request
from tests.support.service import Running
from ttc.runtime.engine import Engine

NAMES = {"max_new_tokens": "max_tokens"}


def test_answers_are_those_of_each_request_alone(served: Running, talker: Engine) -> None:
    """Tokens in every mode, and NFE in diffusion."""
    rng = random.Random(3)
    asked = [random_request(rng, talker.config.vocab_size) for _ in range(32)]
    asked = [(prompt, {**options, "choice": 0, "n": rng.choice([1, 1, 2])}) for prompt, options in asked]

    def ask(one: tuple[list[int], dict[str, Any]]) -> Any:
        prompt, options = one
        body = {NAMES.get(name, name): value for name, value in options.items()}
        del body["stop_at_eos"], body["choice"]
        answer = served.post(
            prompt=prompt, ignore_eos=not options["stop_at_eos"], return_token_ids=True, **body
        )
        assert answer.status_code == 200, answer.text
        return answer.json()

    with ThreadPoolExecutor(16) as clients:
        answers = list(clients.map(ask, asked))
    for (prompt, options), answer in zip(asked, answers, strict=True):
        alone = talker.generate([prompt], **options)
        assert [choice["token_ids"] for choice in answer["choices"]] == [list(one.token_ids) for one in alone]
        if options["mode"] == "diffusion":
            assert answer["usage"]["ttc"]["nfe"] == sum(one.stats.nfe for one in alone)


def test_a_long_text(served: Running, talker: Engine) -> None:
    """A long text is encoded beside the loop, to the same ids."""
    text = "Tom has 8 boxes with 7 keys each. " * 350
    assert len(text) > 10_000
    ids = talker.tokenizer.encode(text).ids
    answer = served.post(prompt=text, max_tokens=2, return_token_ids=True).json()
    assert answer["usage"]["prompt_tokens"] == len(ids)
    want = talker.generate(ids, max_new_tokens=2)
    assert answer["choices"][0]["token_ids"] == list(want.token_ids)

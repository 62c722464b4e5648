"""Both quantised checkpoints write the tokens that ModelOpt's own decoding gives, in float32."""

import pytest

from tests.support.quantised import CHECKPOINTS, expected


@pytest.mark.parametrize("mode", ["ar", "diffusion", "lossless"])
@pytest.mark.parametrize("name", CHECKPOINTS)
def test_tokens(engines, backend, name, mode):
    engine = engines(f"quantised/{name}", backend)
    prompts = expected()[name]["prompts"]
    due = [prompt["ar" if mode == "lossless" else mode] for prompt in prompts]
    options = {
        key: due[0][key] for key in ("max_new_tokens", "block_size", "steps", "threshold") if key in due[0]
    }
    assert all(each[key] == options[key] for each in due for key in options)
    results = engine.generate(
        [prompt["prompt_ids"] for prompt in prompts], mode=mode, stop_at_eos=False, temperature=0.0, **options
    )
    assert [list(result.token_ids) for result in results] == [each["tokens"] for each in due]
    if mode == "diffusion":
        assert [list(result.stats.nfe_per_block) for result in results] == [
            each["nfe_per_block"] for each in due
        ]

"""The block schedule against the recorded one, the denoiser replaced by a script."""

import dataclasses

import numpy as np
import pytest

from tests.support.compare import assert_close, assert_equal
from tests.support.golden import golden
from tests.support.recording import RecordedNoise, Scripted, Wrapped
from ttc.runtime.engine import Engine

UNITS = golden("units")
CASES = {name: case for name, case in UNITS.cases_of("sched/").items() if case["B"] == 1}


@pytest.mark.parametrize("name", CASES)
def test_recorded_schedule(name):
    case, v = CASES[name], UNITS.vectors
    config = dataclasses.replace(
        golden("tiny_a").config, vocab_size=case["V"], mask_token_id=case["mask_token_id"], eos_token_ids=()
    )
    script = Scripted(config, list(v[f"{name}/logits"]))
    noise = v.get(f"{name}/step_noise")
    watched = Wrapped(script) if noise is None else RecordedNoise(script, list(noise))
    engine = Engine(watched)
    eos = case["eos_token_id"]
    result = engine.generate(
        [1],
        max_new_tokens=case["max_new_tokens"],
        block_size=case["block_size"],
        steps=case["steps_per_block"],
        threshold=case["confidence_threshold"],
        temperature=case["temperature"],
        eos_token_id=eos,
        stop_at_eos=eos is not None,
    )
    want = v[f"{name}/output_new_tokens"][0].tolist()
    want = want[: want.index(eos) + 1] if eos in want else want
    assert_equal(result.token_ids, want, "tokens")
    assert list(result.stats.nfe_per_block) == case["nfe_per_block"]
    blocks, shares = (np.stack(column) for column in zip(*watched.asked, strict=True))
    assert_equal(blocks, v[f"{name}/step_xt"], "blocks before the calls")
    assert_close(shares, v[f"{name}/step_t"], 0.0, "t")

"""Graph levels 0, 1 and 2 over a device that pretends: same tokens, same steps, nothing moves, nothing waits."""

import gc

import numpy as np
import pytest

from tests.support.compare import assert_equal
from tests.support.golden import CHECKPOINTS, golden
from ttc.errors import BackendError, DeviceMemoryError, InputError
from ttc.runtime.gpu.backend import padded_length
from ttc.runtime.backends.base import Limits

LEVELS = (0, 1, 2)


def recorded(name, count=4):
    """Recorded greedy diffusion runs of one row, spread over the list."""
    g = golden(name)
    cases = {n: c for n, c in g.cases_of("gen/").items() if not c.get("temperature") and g.prompt(c).shape[0] == 1}
    return {n: cases[n] for n in sorted(cases)[:: max(1, len(cases) // count)]}


def options_of(case):
    eos = case["eos_token_id"]
    return {
        "max_new_tokens": case["max_new_tokens"],
        "block_size": case["block_size"],
        "steps": case["steps_per_block"],
        "threshold": case["confidence_threshold"],
        "eos_token_id": eos,
        "stop_at_eos": eos is not None,
    }


@pytest.mark.parametrize("aliases_state", [True, False])
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", CHECKPOINTS)
def test_golden_tokens(on_device, name, level, aliases_state):
    g, engine = golden(name), on_device(name, level, aliases_state=aliases_state)
    for case_name, case in recorded(name).items():
        prompt = g.prompt(case)[0].tolist()
        result = engine.generate(prompt, **options_of(case))
        want = g.vectors[f"{case_name}/output"][0, len(prompt) :].tolist()
        if case["eos_token_id"] in want:
            want = want[: want.index(case["eos_token_id"]) + 1]
        assert_equal(result.token_ids, want, case_name)
        assert list(result.stats.nfe_per_block) == case["nfe_per_block"], case_name
        assert result.stats.graph_level == level
        assert not result.stats.notes[:-1]

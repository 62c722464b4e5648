"""An infinity in the context tower's head is an error in every mode, as NaN is; other rows go on."""

import numpy as np
import pytest

import ttc
from tests.support.golden import golden
from tests.support.recording import Wrapped
from ttc.runtime.engine import Engine


class Infinite(Wrapped):
    """One logit of the context tower, of a token that is not the most probable one, is infinite."""

    value = np.inf

    def fetch(self, logits):
        values = super().fetch(logits).copy()
        values[0, -1, int(values[0, -1].argmin())] = self.value
        return values


@pytest.mark.parametrize("mode", ["ar", "lossless", "prompt-lookup"])
@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_infinity_is_told(engines, mode, value, temperature):
    prompt = golden("tiny_a").vectors["prompt/p05"][0].tolist()
    broken = Infinite(engines("tiny_a", "onnxruntime").runner)
    broken.value = value
    with pytest.raises(ttc.NumericsError, match="NaN or infinite logits for new token 0"):
        Engine(broken).generate(prompt, mode, max_new_tokens=8, temperature=temperature, seed=1)

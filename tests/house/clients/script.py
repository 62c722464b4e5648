"""A program of a user's, as a type checker sees it: what the calls give, and that slips are errors.

`make check` reads it (`mypy --strict`); an ignore that hides no error is an error itself.
"""

from collections.abc import Sequence
from typing import assert_type

import numpy as np
import numpy.typing as npt

import ttc


def texts(bundle: str, ids: npt.NDArray[np.int64], count: int) -> None:
    with ttc.load(bundle) as engine:
        assert_type(engine.generate("Hello"), ttc.Result)
        assert_type(engine.generate([1, 2, 3], mode="ar", max_new_tokens=8, seed=1), ttc.Result)
        assert_type(engine.generate("Hello", "lossless", draft_steps="auto", stop=["."]), ttc.Result)
        assert_type(engine.generate(["Hello", "Goodbye"], threshold=0.8), list[ttc.Result])
        assert_type(engine.generate([[1, 2], [3]], top_k=5), list[ttc.Result])
        assert_type(engine.generate([ttc.Request("Hello", mode="ar"), ttc.Request([1])]), list[ttc.Result])
        # How many texts come depends on a number.
        assert_type(engine.generate("Hello", n=count), ttc.Result | list[ttc.Result])
        assert_type(engine.generate(ttc.Request("Hello", n=2)), ttc.Result | list[ttc.Result])
        assert_type(engine.generate(ids), ttc.Result | list[ttc.Result])
        options = ttc.GenerationOptions(mode="ar", temperature=0.7)
        assert_type(engine.generate("Hello", options, seed=3), ttc.Result | list[ttc.Result])
        for event in engine.stream("Hello", mode="diffusion"):
            assert_type(event, ttc.Event)
            assert_type(event.result, ttc.Result | None)


def slips(engine: ttc.Engine) -> Sequence[object]:
    return (
        engine.generate("Hello", max_tokens=8),  # type: ignore[call-overload]
        engine.generate("Hello", mode="fast"),  # type: ignore[call-overload]
        engine.generate("Hello", "autoregressive"),  # type: ignore[call-overload]
        engine.generate("Hello", threshold="high"),  # type: ignore[call-overload]
        engine.generate(3.5),  # type: ignore[call-overload]
        engine.stream("Hello", max_tokens=8),  # type: ignore[call-arg]
        ttc.Request("Hello", max_tokens=8),  # type: ignore[call-arg]
        ttc.load("model.bundle", "onnx"),  # type: ignore[arg-type]
        ttc.generate("Hello"),  # type: ignore[attr-defined]
    )

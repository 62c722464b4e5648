"""A few of the recorded generations of a golden checkpoint, as calls of an engine."""

from typing import Any

from tests.support.golden import Golden, golden
from ttc.runtime.decoding.options import GenerationOptions

Cases = dict[str, Any]


def recorded(name: str, count: int = 4) -> Cases:
    """Greedy diffusion runs of one row, spread over the list."""
    g = golden(name)
    cases = g.cases_of("gen/").items()
    alone = {n: c for n, c in cases if not c.get("temperature") and g.prompt(c).shape[0] == 1}
    return {n: alone[n] for n in sorted(alone)[:: max(1, len(alone) // count)]}


def options_of(case: Any, mode: str = "diffusion") -> GenerationOptions:
    """Return the options of a recorded case."""
    eos, of_blocks = case["eos_token_id"], {}
    if mode == "diffusion":
        of_blocks = {
            "block_size": case["block_size"],
            "steps": case["steps_per_block"],
            "threshold": case["confidence_threshold"],
        }
    return GenerationOptions(
        mode=mode,
        max_new_tokens=case["max_new_tokens"],
        eos_token_id=eos,
        stop_at_eos=eos is not None,
        **of_blocks,
    )


def tokens_of(g: Golden, case_name: str) -> list[int]:
    """The new tokens that must come out: those recorded, up to eos where it ends the row."""
    case = g.cases[case_name]
    eos = case["eos_token_id"]
    want: list[int] = g.vectors[f"{case_name}/output"][0, g.prompt(case).shape[1] :].tolist()
    return want[: want.index(eos) + 1] if eos in want else want

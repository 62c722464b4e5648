"""How alike the tokens of a block choose experts: what `ttc plan --overlap` asks for, measured.

    python benchmarks/expert_overlap.py BUNDLE [--tasks FILE.jsonl] [--prompts 24]

Runs diffusion on the torch backend and counts, per MoE layer and block, the distinct experts that the block's
tokens choose: in the denoiser's evaluations and in the context tower's extensions. Independent choices would
give E·(1 − (1 − K/E)^16).
"""

import argparse
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ttc
from ttc.bench.problems import load_problems, random_prompts
from ttc.planning.experts import distinct_experts, fit_overlap
from ttc.runtime.backends.torch import run as torch_run

BLOCK = 16


def main() -> None:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--tasks", type=Path)
    parser.add_argument("--prompts", type=int, default=24)
    given = parser.parse_args()

    counts: dict[str, list[int]] = {"denoiser": [], "extension": []}
    with ttc.load(given.bundle, "torch", "cpu") as engine:
        config = engine.config
        if given.tasks is None:
            prompts = [list(prompt) for prompt in random_prompts(config, given.prompts, 64, seed=0)]
        else:
            assert engine.tokenizer is not None, "a task needs a tokenizer"
            problems = load_problems(given.tasks, given.prompts)
            prompts = [engine.tokenizer.encode(problem.prompt).ids for problem in problems]
        watch(counts)
        for prompt in prompts:
            engine.generate(prompt, max_new_tokens=64)
    E, K = config.n_routed_experts, config.num_experts_per_tok
    report: dict[str, Any] = {"experts": E, "per_token": K, "independent": distinct_experts(E, K, BLOCK)}
    for what, found in counts.items():
        mean = statistics.fmean(found)
        report[what] = {"blocks": len(found), "distinct": mean, "overlap": fit_overlap(E, K, BLOCK, mean)}
    print(json.dumps(report, indent=1))


def watch(counts: dict[str, list[int]]) -> None:
    """Count the experts of every block of 16 tokens that passes; a prompt of 16 would be counted too."""
    plain: Callable[..., Any] = torch_run.run_naive
    denoise = torch_run.TorchBackend.denoise
    inside = {"denoiser": False}

    def counting(op: Any, *inputs: Any, **attributes: Any) -> Any:
        outputs = plain(op, *inputs, **attributes)
        if op.name == "MoeRouting" and len(inputs[0]) == BLOCK:
            counts["denoiser" if inside["denoiser"] else "extension"].append(len(outputs[0].unique()))
        return outputs

    def marked(self: Any, *arguments: Any) -> Any:
        inside["denoiser"] = True
        try:
            return denoise(self, *arguments)
        finally:
            inside["denoiser"] = False

    torch_run.run_naive = counting
    torch_run.TorchBackend.denoise = marked  # type: ignore[method-assign]


if __name__ == "__main__":
    main()

"""Lossless decoding on the miniature, against AR and diffusion: one run, same weights, same prompts.

    python benchmarks/lossless.py                        500 prompts; written to build/lossless.json
    python benchmarks/lossless.py --prompts 40           a quick look

Every prompt goes through all candidates before the next one does, batch 1, greedy, float32, so that what
else the machine does meets all of them alike. The first prompts are the problems beside the checkpoint, whose
answers are known; the others are the same problems with other numbers, drawn with a fixed seed. Reported per
candidate: seconds and speed against AR (with the 95 % interval of a bootstrap over the prompts), tokens per
denoiser evaluation and per context call, prompts whose tokens are AR's, right answers; of lossless decoding
also tokens per round and the acceptance rate per position. Then the same prompts in ragged batches of 8, and
sampled with a seed, lossless against AR. Where tokens differ, the gap between the two best AR logits at the
first difference is reported: float32 passes over 1 and over 16 tokens round differently, and may turn a tie.
"""

import argparse
import dataclasses
import json
import random
import re
import shlex
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import ttc
from ttc.bench.identity import load_average, machine, now
from ttc.bench.record_file import record_file, write_record
from ttc.runtime.decoding.draft_stats import acceptance_rate_per_position

ROOT = Path(__file__).parents[1]
MAX_NEW_TOKENS, BATCH, BOOTSTRAPS = 96, 8, 1000
CANDIDATES: dict[str, dict[str, Any]] = {
    "ar": {"mode": "ar"},
    "diffusion 0.9": {"mode": "diffusion", "threshold": 0.9},
    "diffusion 0.8": {"mode": "diffusion", "threshold": 0.8},
    "lossless auto": {"mode": "lossless"},
    "lossless 1": {"mode": "lossless", "draft_steps": 1},
    "lossless 2": {"mode": "lossless", "draft_steps": 2},
    "lossless 4": {"mode": "lossless", "draft_steps": 4},
    "prompt-lookup": {"mode": "prompt-lookup"},
}
Results = dict[str, list[ttc.Result]]


@dataclasses.dataclass(frozen=True)
class Problem:
    """A prompt, and its answer where it is known."""

    prompt: str
    answer: str | None


def main() -> None:
    """Measure, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--checkpoint", type=Path, default=ROOT / "ttc" / "miniature")
    parser.add_argument("--backend", choices=("onnxruntime", "torch"), default="onnxruntime")
    parser.add_argument("--prompts", type=int, default=500)
    parser.add_argument("--json", type=record_file, default=str(ROOT / "build" / "lossless.json"))
    given = parser.parse_args()

    chosen = problems(given.checkpoint, given.prompts)
    started, load = now(), load_average()
    with tempfile.TemporaryDirectory() as folder:
        bundle = ttc.export(given.checkpoint, Path(folder) / "bundle", "float32")
        with ttc.load(bundle, given.backend) as engine:
            results = run(engine, chosen)
            compared = {"batch 1": differences(engine, chosen, results["ar"], results["lossless auto"])}
            compared[f"batch {BATCH}"] = batches(engine, chosen)
            compared["sampled"] = sampled(engine, chosen)
    report = {
        "what": f"float32, {given.backend}, greedy, at most {MAX_NEW_TOKENS} new tokens",
        "command": shlex.join(["python", "benchmarks/lossless.py", *sys.argv[1:]]),
        "checkpoint": given.checkpoint.name,
        "prompts": len(chosen),
        "prompts_with_answer": sum(problem.answer is not None for problem in chosen),
        "started": started,
        "load_at_start": load,
        "load_at_end": load_average(),
        "machine": dataclasses.asdict(machine()),
        "candidates": {name: figures(name, results, chosen) for name in results},
        "identity": compared,
        "cost_factors": cost_factors(results["lossless auto"]),
    }
    write_record(given.json, report)
    show(report)
    print(f"\nwritten to {given.json}")


def problems(checkpoint: Path, count: int) -> list[Problem]:
    """Return the checkpoint's problems, then such with other numbers of as many digits, no prompt twice."""
    lines = (checkpoint / "problems.jsonl").read_text("utf-8").splitlines()
    known = [Problem(item["prompt"], item["answer"]) for item in map(json.loads, lines)]
    chosen, seen, draw = known[:count], {problem.prompt for problem in known}, random.Random(1)
    while len(chosen) < count:
        prompt = re.sub(r"\d+", lambda found: other_number(draw, found[0]), draw.choice(known).prompt)
        if prompt not in seen:
            seen.add(prompt)
            chosen.append(Problem(prompt, None))
    return chosen


def other_number(draw: random.Random, number: str) -> str:
    """Return a number of as many digits, not 0."""
    return str(draw.randint(max(10 ** (len(number) - 1), 1), 10 ** len(number) - 1))


def run(engine: ttc.Engine, chosen: Sequence[Problem]) -> Results:
    """Run every prompt through every candidate, after a prompt that does not count."""
    results: Results = {name: [] for name in CANDIDATES}
    for index, problem in enumerate([chosen[-1], *chosen]):
        for name, options in CANDIDATES.items():
            result = engine.generate(problem.prompt, max_new_tokens=MAX_NEW_TOKENS, **options)
            assert isinstance(result, ttc.Result), "one prompt, one result"
            if index:
                results[name].append(result)
    return results


def figures(name: str, results: Results, chosen: Sequence[Problem]) -> dict[str, Any]:
    """Return one candidate's row of the table."""
    own, ar = results[name], results["ar"]
    seconds = np.array([result.stats.seconds for result in own])
    ar_seconds = np.array([result.stats.seconds for result in ar])
    # Per token, since diffusion writes other texts: of other lengths, too.
    tokens = np.array([len(result.token_ids) for result in own])
    ar_tokens = np.array([len(result.token_ids) for result in ar])
    resampled = np.random.default_rng(0).integers(0, len(own), (BOOTSTRAPS, len(own)))
    per_token = seconds[resampled].sum(1) / tokens[resampled].sum(1)
    speeds = ar_seconds[resampled].sum(1) / ar_tokens[resampled].sum(1) / per_token
    nfe = sum(result.stats.nfe for result in own)
    answered = [(p.answer, r.text or "") for p, r in zip(chosen, own, strict=True) if p.answer is not None]
    row: dict[str, Any] = {
        "seconds": float(seconds.sum()),
        "tokens": int(tokens.sum()),
        "tokens_per_second_over_ar": float(tokens.sum() / seconds.sum() * ar_seconds.sum() / ar_tokens.sum()),
        "interval_95": [float(bound) for bound in np.percentile(speeds, [2.5, 97.5])],
        "nfe": nfe,
        "tokens_per_nfe": float(tokens.sum() / nfe) if nfe else None,
        "context_calls": sum(result.stats.context_calls for result in own),
        "same_tokens_as_ar": sum(a.token_ids == b.token_ids for a, b in zip(own, ar, strict=True)),
        "right_answers": sum(is_right(text, answer) for answer, text in answered),
        "backend_share": float(sum(result.stats.backend_seconds for result in own) / seconds.sum()),
    }
    rounds = [each for r in own if r.stats.lossless is not None for each in r.stats.lossless.draft_records]
    if rounds:
        row |= {
            "rounds": len(rounds),
            "tokens_per_round": float(tokens.sum() / len(rounds)),
            "steps_per_round": float(np.mean([each.steps for each in rounds])),
            "drafted_per_round": float(np.mean([each.drafted for each in rounds])),
            "acceptance_rate_per_position": acceptance_rate_per_position(rounds),
            "plans": plan_counts([(each.plan.length, each.plan.steps) for each in rounds]),
        }
    return row


def plan_counts(plans: Sequence[tuple[int, int]]) -> dict[str, int]:
    """Return the ten plans most often made: "tokens x steps" → how often."""
    counts = {plan: plans.count(plan) for plan in set(plans)}
    often = sorted(counts, key=lambda plan: -counts[plan])[:10]
    return {f"{length} x {steps}": counts[length, steps] for length, steps in often}


def is_right(text: str, answer: str) -> bool:
    """Return whether the text ends with the answer."""
    return re.search(rf"(?<![\w.]){re.escape(answer)}\.?$", text.strip()) is not None


def cost_factors(results: Sequence[ttc.Result]) -> dict[str, float]:
    """Return the cost of a draft step and of a verification of a whole block, in AR steps, as the policy
    measured them at its start.
    """
    found = results[-1].stats.lossless
    assert found is not None, "lossless results"
    assert found.costs is not None, "of the automatic policy"
    costs = found.costs
    return {
        "draft_step": costs.draft_step.wide_seconds / costs.ar_step,
        "verification": costs.verify.wide_seconds / costs.ar_step,
        "ar_step_ms": 1e3 * costs.ar_step,
    }


def batches(engine: ttc.Engine, chosen: Sequence[Problem]) -> dict[str, Any]:
    """Compare ragged batches, lossless against AR."""
    ar: list[ttc.Result] = []
    own: list[ttc.Result] = []
    for start in range(0, len(chosen), BATCH):
        prompts = [problem.prompt for problem in chosen[start : start + BATCH]]
        for mode, into in (("ar", ar), ("lossless", own)):
            into += many(engine.generate(prompts, mode, max_new_tokens=MAX_NEW_TOKENS))
    return differences(engine, chosen, ar, own)


def sampled(engine: ttc.Engine, chosen: Sequence[Problem]) -> dict[str, Any]:
    """Compare at temperature 0.8, top-p 0.95, one seed: lossless against AR."""
    prompts = [problem.prompt for problem in chosen]
    options: dict[str, Any] = {"temperature": 0.8, "top_p": 0.95, "max_new_tokens": MAX_NEW_TOKENS}
    ar, own = (
        [one(engine.generate(prompt, mode, seed=seed, **options)) for seed, prompt in enumerate(prompts)]
        for mode in ("ar", "lossless")
    )
    same = sum(a.token_ids == b.token_ids for a, b in zip(ar, own, strict=True))
    return {"prompts": len(prompts), "same_tokens": same}


def differences(
    engine: ttc.Engine, chosen: Sequence[Problem], ar: Sequence[ttc.Result], own: Sequence[ttc.Result]
) -> dict[str, Any]:
    """Return how many prompts' tokens are AR's, and the gap of AR's two best logits wherever they part."""
    margins = []
    for problem, a, b in zip(chosen, ar, own, strict=True):
        if a.token_ids != b.token_ids:
            position = next(
                i for i, (x, y) in enumerate(zip(a.token_ids, b.token_ids, strict=False)) if x != y
            )
            assert engine.tokenizer is not None, "the prompts are text"
            ids = [*engine.tokenizer.encode(problem.prompt).ids, *a.token_ids[:position]]
            second, best = np.sort(engine.context_logits(ids)[-1])[-2:]
            margins.append({"prompt": problem.prompt, "place": position, "gap": float(best - second)})
    return {"prompts": len(ar), "same_tokens": len(ar) - len(margins), "differences": margins}


def one(result: ttc.Result | list[ttc.Result]) -> ttc.Result:
    """Return the result of one prompt."""
    assert isinstance(result, ttc.Result), "one prompt, one result"
    return result


def many(results: ttc.Result | list[ttc.Result]) -> list[ttc.Result]:
    """Return the results of a batch."""
    assert isinstance(results, list), "a batch, a list"
    return results


def show(report: dict[str, Any]) -> None:
    """Print the tables."""
    print(f"{report['checkpoint']}: {report['what']}; {report['prompts']} prompts")
    head = ("tokens/s over AR", "95 %", "tok/NFE", "tok/round", "steps/round", "as AR", "right")
    print(f"{'':15}" + "".join(f"{title:>17}" for title in head))
    for name, row in report["candidates"].items():
        low, high = row["interval_95"]
        cells = (
            f"{row['tokens_per_second_over_ar']:.2f}",
            f"{low:.2f} to {high:.2f}",
            "–" if row["tokens_per_nfe"] is None else f"{row['tokens_per_nfe']:.2f}",
            f"{row['tokens_per_round']:.2f}" if "rounds" in row else "–",
            f"{row['steps_per_round']:.2f}" if "rounds" in row else "–",
            f"{row['same_tokens_as_ar']} of {report['prompts']}",
            f"{row['right_answers']} of {report['prompts_with_answer']}",
        )
        print(f"{name:15}" + "".join(f"{cell:>17}" for cell in cells))
    for name, row in report["candidates"].items():
        if "rounds" in row:
            rates = row["acceptance_rate_per_position"]
            told = " ".join("–" if rate is None else f"{rate:.2f}" for rate in rates)
            print(f"acceptance rate per position, {name}: {told}")
    for name, found in report["identity"].items():
        gaps = [f"{each['gap']:.2g}" for each in found.get("differences", [])]
        print(f"{name}: {found['same_tokens']} of {found['prompts']} as AR" + f"; gaps {gaps}" * bool(gaps))
    factors = report["cost_factors"]
    print(f"in AR steps: draft step {factors['draft_step']:.2f}, verification {factors['verification']:.2f}")


if __name__ == "__main__":
    main()

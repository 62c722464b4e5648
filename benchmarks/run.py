"""The miniature on the CPU: ONNX Runtime against eager torch and against transformers, one run, same weights
and prompts.

    make bench                                           all of it, printed, written to build/bench.json
    python benchmarks/run.py --prompts 8 --repeats 1     a quick look

Measured: wall clock of diffusion (γ 0.9) and AR on both backends and of transformers' own NemotronH
generating with the context tower's weights (it has no denoiser, so AR only; its dt clamp neutralised); the
cost of one denoiser evaluation in AR steps; the loop's own time per denoise step outside the backend. The
candidates take turns, the first turn is not counted, each figure is the median over the repeats. All run in
float32, torch at its better number of threads, and all must give the same AR tokens before anything is
compared.
"""

import argparse
import dataclasses
import json
import os
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

import ttc
from ttc.bench.identity import load_average, machine, now
from ttc.bench.record_file import record_file, write_record
from ttc.model.bundle import Bundle
from ttc.verify.native import native_model

ROOT = Path(__file__).parents[1]
MINIATURE = ROOT / "ttc" / "miniature"
Tokens = list[tuple[int, ...]]


def main() -> None:
    """Measure, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--prompts", type=int, default=24)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--max-new-tokens", type=int, default=64)
    parser.add_argument(
        "--threads", type=int, default=1, help="torch threads (both backends share the cores)"
    )
    parser.add_argument("--json", type=record_file, default=str(ROOT / "build" / "bench.json"))
    given = parser.parse_args()

    started, load = now(), load_average()
    problems = [json.loads(line) for line in (MINIATURE / "problems.jsonl").read_text().splitlines()]
    tokenizer = Tokenizer.from_file(str(MINIATURE / "tokenizer.json"))
    prompts = [tokenizer.encode(problem["prompt"]).ids for problem in problems[: given.prompts]]
    with tempfile.TemporaryDirectory() as folder:
        bundle = ttc.export(MINIATURE, Path(folder) / "miniature.bundle", "float32")
        ort, eager = ttc.load(bundle, "onnxruntime"), ttc.load(bundle, "torch", "cpu")
        count = given.max_new_tokens
        with Bundle.open(bundle, None) as opened:
            native = native_model(opened, attention="sdpa")
        torch_threads = best_torch_threads(eager, prompts[0])
        candidates: dict[str, Callable[[], tuple[Tokens, list[ttc.Stats]]]] = {
            "onnxruntime diffusion": lambda: run(ort, prompts, "diffusion", count),
            "onnxruntime ar": lambda: run(ort, prompts, "ar", count),
            "torch diffusion": lambda: run(eager, prompts, "diffusion", count),
            "torch ar": lambda: run(eager, prompts, "ar", count),
            "transformers ar": lambda: run_native(native, prompts, count),
        }
        figures = measure(candidates, given.repeats)
    report = {
        "what": "miniature, float32, batch 1, greedy, diffusion at threshold 0.9",
        "command": shlex.join(["python", "benchmarks/run.py", *sys.argv[1:]]),
        "prompts": len(prompts),
        "repeats": given.repeats,
        "max_new_tokens": given.max_new_tokens,
        "torch_threads": torch_threads,
        "started": started,
        "load_at_start": load,
        "load_at_end": load_average(),
        "machine": dataclasses.asdict(machine()),
        "transformers": version("transformers"),
        "candidates": figures,
        "ratios": ratios(figures),
    }
    write_record(given.json, report)
    show(report)
    print(f"\nwritten to {given.json}")


def best_torch_threads(engine: ttc.Engine, prompt: Sequence[int]) -> int:
    """Return one thread or one per core, whichever is faster here."""
    seconds = {}
    for threads in {1, os.cpu_count() or 1}:
        torch.set_num_threads(threads)
        run(engine, [prompt], "diffusion", 16)
        start = time.perf_counter()
        run(engine, [prompt], "diffusion", 64)
        seconds[threads] = time.perf_counter() - start
    best = min(seconds, key=seconds.__getitem__)
    torch.set_num_threads(best)
    return best


def run(
    engine: ttc.Engine, prompts: Sequence[Sequence[int]], mode: str, count: int
) -> tuple[Tokens, list[ttc.Stats]]:
    """Run one prompt after another, never stopping at eos, so that everyone does the same amount of work."""
    results = [engine.generate(prompt, mode, max_new_tokens=count, stop_at_eos=False) for prompt in prompts]
    return [result.token_ids for result in results], [result.stats for result in results]


def measure(
    candidates: dict[str, Callable[[], tuple[Tokens, list[ttc.Stats]]]], repeats: int
) -> dict[str, dict[str, Any]]:
    """Return the seconds of every candidate, taking turns; refuse to compare AR runs that differ."""
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    last: dict[str, tuple[Tokens, list[ttc.Stats]]] = {}
    for turn in range(repeats + 1):
        for name, candidate in candidates.items():
            start = time.perf_counter()
            last[name] = candidate()
            if turn:
                seconds[name].append(time.perf_counter() - start)
    ar = {name: tokens for name, (tokens, _) in last.items() if name.endswith(" ar")}
    reference = ar["onnxruntime ar"]
    for name, tokens in ar.items():
        same = sum(a == b for a, b in zip(tokens, reference, strict=True))
        if same < len(reference):
            different = len(reference) - same
            raise SystemExit(f"{name} differs from onnxruntime ar in {different} prompts: nothing to compare")
    return {name: summary(seconds[name], *last[name]) for name in candidates}


def summary(seconds: list[float], tokens: Tokens, stats: list[ttc.Stats]) -> dict[str, Any]:
    """Return the median and spread of the time, and what the statistics of the last turn add."""
    new = sum(map(len, tokens))
    figures: dict[str, Any] = {
        "seconds": statistics.median(seconds),
        "seconds_spread": [min(seconds), max(seconds)],
        "tokens": new,
        "tokens_per_second": new / statistics.median(seconds),
    }
    nfe = sum(each.nfe for each in stats)
    if nfe:
        outside = sum(each.seconds - each.backend_seconds for each in stats)
        figures |= {
            "nfe": nfe,
            "tokens_per_nfe": new / nfe,
            "ms_per_nfe": 1e3 * sum(each.seconds for each in stats) / nfe,
            "loop_ms_per_nfe": 1e3 * outside / nfe,
            "loop_share": outside / sum(each.seconds for each in stats),
        }
    return figures


def ratios(figures: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Return the comparisons people ask for; above 1 means the first is faster (but for the cost of an NFE
    and the loop's share).
    """
    seconds = {name: figure["seconds"] for name, figure in figures.items()}
    ar_step = seconds["onnxruntime ar"] / figures["onnxruntime ar"]["tokens"]
    nfe = seconds["onnxruntime diffusion"] / figures["onnxruntime diffusion"]["nfe"]
    return {
        "onnxruntime over torch, diffusion": seconds["torch diffusion"] / seconds["onnxruntime diffusion"],
        "onnxruntime over torch, AR": seconds["torch ar"] / seconds["onnxruntime ar"],
        "onnxruntime over transformers, AR": seconds["transformers ar"] / seconds["onnxruntime ar"],
        "diffusion over AR, onnxruntime": seconds["onnxruntime ar"] / seconds["onnxruntime diffusion"],
        "diffusion (onnxruntime) over AR (transformers)": seconds["transformers ar"]
        / seconds["onnxruntime diffusion"],
        "cost of one NFE in AR steps, extension included": nfe / ar_step,
        "loop outside the backend, share of a denoise step": figures["onnxruntime diffusion"]["loop_share"],
    }


def run_native(model: Any, prompts: Sequence[Sequence[int]], count: int) -> tuple[Tokens, list[ttc.Stats]]:
    """Generate greedily by transformers, with its own cache."""
    tokens = []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        with torch.inference_mode():
            output = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=count,
                do_sample=False,
                eos_token_id=None,
                pad_token_id=0,
            )
        tokens.append(tuple(output[0, len(prompt) :].tolist()))
    return tokens, []


def show(report: dict[str, Any]) -> None:
    """Print the table and the ratios."""
    print(f"{report['what']}; {report['prompts']} prompts, median of {report['repeats']}")
    print(f"{report['machine']['cpu']}\n")
    print(f"{'':24}{'seconds':>9}{'tokens/s':>10}{'NFE':>6}{'tok/NFE':>9}{'ms/NFE':>8}{'loop ms/NFE':>13}")
    for name, f in report["candidates"].items():
        rest = ""
        if "nfe" in f:
            rest = (
                f"{f['nfe']:6d}{f['tokens_per_nfe']:9.2f}{f['ms_per_nfe']:8.2f}{f['loop_ms_per_nfe']:13.3f}"
            )
        print(f"{name:24}{f['seconds']:9.2f}{f['tokens_per_second']:10.1f}{rest}")
    print()
    for name, ratio in report["ratios"].items():
        print(f"{name:52}{ratio:8.3f}")


if __name__ == "__main__":
    main()

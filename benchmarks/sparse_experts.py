"""Chosen experts alone against all experts, on ONNX Runtime's CPU, in one run.

    python -m benchmarks.sparse_experts [--rounds 5] [-o FILE]

A model with random weights, three MoE layers among eight, of growing numbers of experts: how long an AR step
and a denoise step over 16 tokens take with `ttc.load(sparse_experts=...)` off and on, turn by turn, and how
far the logits of the context tower differ, in parts of the largest.
"""

import argparse
import dataclasses
import shlex
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import ttc
from benchmarks.plan_check import random_checkpoint
from ttc.bench.identity import load_average, machine, now
from ttc.bench.problems import random_prompts
from ttc.bench.record_file import record_file, write_record
from ttc.bench.trace import watch

SIZES: dict[str, Any] = {
    "hybrid_override_pattern": "MEME*EME",
    "num_hidden_layers": 8,
    "hidden_size": 512,
    "vocab_size": 2048,
    "mamba_num_heads": 16,
    "mamba_head_dim": 64,
    "n_groups": 4,
    "ssm_state_size": 64,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "moe_intermediate_size": 256,
    "moe_shared_expert_intermediate_size": 256,
    "num_experts_per_tok": 4,
}
EXPERTS = (8, 16, 32, 64)
OPTIONS = {"max_new_tokens": 32, "seed": 0, "temperature": 0.0}


def main() -> None:
    """Measure every size, print a line each, write the record."""
    parser = argparse.ArgumentParser(description="Time chosen experts alone against all.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--experts", type=int, nargs="+", default=EXPERTS)
    parser.add_argument("-o", "--output", type=record_file)
    args = parser.parse_args()
    report = {
        "command": shlex.join(["python", "-m", "benchmarks.sparse_experts", *sys.argv[1:]]),
        "date": now(),
        "machine": dataclasses.asdict(machine()),
        "load_at_start": load_average(),
        "sizes": SIZES,
        "rows": [],
    }
    print("experts   AR step ms: all, chosen, ratio      denoise step ms: all, chosen, ratio   logits")
    for count in args.experts:
        row = measure(count, args.rounds)
        report["rows"].append(row)
        ar, step = row["ar_step_ms"], row["denoise_step_ms"]
        print(
            f"{count:7}{ar['all']:17.2f}{ar['chosen']:9.2f}{ar['all'] / ar['chosen']:8.2f}"
            f"{step['all']:20.2f}{step['chosen']:9.2f}{step['all'] / step['chosen']:8.2f}"
            f"{row['logits_differ']:12.1e}"
        )
    if args.output is not None:
        write_record(args.output, report)
        print(f"written to {args.output}")


def measure(experts: int, rounds: int) -> dict[str, Any]:
    """Return median times of one model and the difference of logits; the first turn is not counted."""
    ways = {"all": False, "chosen": True}
    ar: dict[str, list[float]] = {way: [] for way in ways}
    steps: dict[str, list[float]] = {way: [] for way in ways}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sizes = SIZES | {"n_routed_experts": experts}
        bundle = ttc.export(random_checkpoint(sizes, folder / "model"), folder / "model.bundle", "float32")
        engines = {way: ttc.load(bundle, threads=1, sparse_experts=sparse) for way, sparse in ways.items()}
        prompts = random_prompts(engines["all"].config, 1, 16, 0)
        for turn in range(rounds + 1):
            for way, engine in engines.items():
                # The first turn warms caches and heaps.
                written = watch(engine, prompts, OPTIONS | {"mode": "ar"})
                filled = watch(engine, prompts, OPTIONS | {"mode": "diffusion", "threshold": 0.99})
                ar[way] += written.ar_steps if turn else ()
                steps[way] += filled.denoise_steps if turn else ()
        logits = [engine.context_logits(list(prompts[0])) for engine in engines.values()]
        for engine in engines.values():
            engine.close()
    return {
        "experts": experts,
        "ar_step_ms": {way: 1e3 * statistics.median(times) for way, times in ar.items()},
        "denoise_step_ms": {way: 1e3 * statistics.median(times) for way, times in steps.items()},
        "logits_differ": float(np.abs(logits[0] - logits[1]).max() / np.abs(logits[0]).max()),
    }


if __name__ == "__main__":
    main()

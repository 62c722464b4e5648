"""What `ttc plan` says against what the bench's instrument measures, on this machine's CPU, in one run.

    python -m benchmarks.plan_check [--batch 1,2,4,8] [--rounds 3] [--clock thread|wall] [-o FILE]

The miniature is too small for a model of bandwidth and arithmetic: its calls are mostly the overhead of a
thousand small operators. So a checkpoint with random weights is made here whose passes are long enough (about
90 M parameters a tower, 8 layers), exported, and run on ONNX Runtime with one thread, where all experts run
on every token. Every constant of the model is measured in the same run: the three of `cpu_limits.py`, and the
overhead, which is the calls of a model with the same layers in which everything is small (hidden 32).

`ttc.bench.trace.watch`, which times the calls for `ttc bench`, times them here. By default its clock counts
the work of the one thread that computes, so that another program's share of the core is not taken for the
model's; what it does to the caches and the memory stays in. `--clock wall` times as `ttc bench` does.

Printed per batch size: prediction and measurement of an AR step, a denoise step and an extension, and the
cost of an NFE in AR steps, which decides between the modes.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import dataclasses
import json
import math
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import ttc
from benchmarks.cpu_limits import measure_limits
from ttc.bench.identity import load_average, machine, now
from ttc.bench.problems import random_prompts
from ttc.bench.record_file import record_file, write_record
from ttc.bench.trace import watch
from ttc.model.config import ModelConfig
from ttc.model.weights import expected_tensors
from ttc.planning.experts import Routing
from ttc.planning.forecast import Forecast, Question, forecast
from ttc.planning.models import released_config

LARGE = {
    "hybrid_override_pattern": "MEM*EME*",
    "num_hidden_layers": 8,
    "hidden_size": 1024,
    "vocab_size": 4096,
    "mamba_num_heads": 32,
    "mamba_head_dim": 64,
    "n_groups": 4,
    "ssm_state_size": 64,
    "num_attention_heads": 16,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "n_routed_experts": 16,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 512,
    "moe_shared_expert_intermediate_size": 1024,
    "max_position_embeddings": 4096,
    "torch_dtype": "float32",
}
SMALL = LARGE | {
    "hidden_size": 32,
    "vocab_size": 64,
    "mamba_num_heads": 4,
    "mamba_head_dim": 8,
    "n_groups": 2,
    "ssm_state_size": 8,
    "num_attention_heads": 4,
    "head_dim": 8,
    "moe_intermediate_size": 16,
    "moe_shared_expert_intermediate_size": 16,
}
PROMPT_TOKENS, NEW_TOKENS = 64, 32
CLOCKS: Mapping[str, Callable[[], float]] = {"thread": time.thread_time, "wall": time.perf_counter}
CALLS = ("AR step", "denoise step", "extension")
Seconds = dict[str, float]


def main() -> None:
    """Measure, predict, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--batch", default="1,2,4,8")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clock", choices=list(CLOCKS), default="thread")
    parser.add_argument("-o", "--output", type=record_file, help="write the figures here as JSON")
    given = parser.parse_args()
    batches, clock = tuple(map(int, given.batch.split(","))), CLOCKS[given.clock]

    started, load = now(), load_average()
    limits = measure_limits(clock)
    with tempfile.TemporaryDirectory() as folder:
        measured = measure(LARGE, Path(folder) / "large", batches, given.rounds, clock)
        overhead = measure(SMALL, Path(folder) / "small", (1,), given.rounds, clock)[1]
    config = ModelConfig.from_hf(released_config() | LARGE)
    context = PROMPT_TOKENS + NEW_TOKENS // 2
    question = Question(config, limits, context=context, itemsize=4, routing=Routing(dense=True))
    rows = [compare(forecast(question, batch, []), measured[batch], overhead) for batch in batches]
    report = {
        "command": shlex.join(["python", "-m", "benchmarks.plan_check", *sys.argv[1:]]),
        "clock": given.clock,
        "started": started,
        "load_at_start": load,
        "load_at_end": load_average(),
        "machine": dataclasses.asdict(machine()),
        "limits": dataclasses.asdict(limits),
        "overhead_ms": milliseconds(overhead),
        "model": LARGE,
        "rows": rows,
    }
    show(report)
    if given.output is not None:
        write_record(given.output, report)


def measure(
    sizes: dict[str, Any], folder: Path, batches: Sequence[int], rounds: int, clock: Callable[[], float]
) -> dict[int, Seconds]:
    """Return the median seconds of each kind of call by batch size; in every round all batch sizes take their
    turn, and the first round is not counted.
    """
    bundle = ttc.export(random_checkpoint(sizes, folder), folder / "model.bundle", "float32")
    prompts = random_prompts(ModelConfig.from_hf(released_config() | sizes), max(batches), PROMPT_TOKENS, 0)
    options = {"max_new_tokens": NEW_TOKENS, "seed": 0, "temperature": 0.0}
    seen: dict[int, dict[str, list[float]]] = {batch: {call: [] for call in CALLS} for batch in batches}
    with ttc.load(bundle, threads=1) as engine:
        for turn in range(rounds + 1):
            for batch in batches:
                own = prompts[:batch]
                ar = watch(engine, own, options | {"mode": "ar"}, clock)
                filled = watch(engine, own, options | {"mode": "diffusion", "threshold": 0.99}, clock)
                for call, times in zip(
                    CALLS, (ar.ar_steps, filled.denoise_steps, filled.extensions), strict=True
                ):
                    seen[batch][call] += times if turn else ()
    return {batch: medians(times) for batch, times in seen.items()}


def medians(times: Mapping[str, Sequence[float]]) -> Seconds:
    """Return one number for each kind of call; the gap of an extension holds a denoise step too."""
    found = {call: statistics.median(seconds) for call, seconds in times.items()}
    return found | {"extension": max(found["extension"] - found["denoise step"], 0.0)}


def random_checkpoint(sizes: dict[str, Any], folder: Path) -> Path:
    """Return a checkpoint of these sizes whose weights are normal numbers; no eos, so that nothing ends
    early.
    """
    from safetensors.numpy import save_file

    folder.mkdir()
    raw = released_config() | sizes | {"eos_token_id": []}
    rng = np.random.default_rng(0)
    tensors = {
        name: rng.standard_normal(shape, np.float32) / np.float32(math.sqrt(shape[-1]))
        for name, shape in expected_tensors(ModelConfig.from_hf(raw)).items()
    }
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(raw))
    return folder


def compare(found: Forecast, seen: Seconds, overhead: Seconds) -> dict[str, Any]:
    """Return prediction, its terms and measurement of one batch size; times in milliseconds."""
    passes = dict(zip(CALLS, (found.ar_step, found.nfe, found.extension), strict=True))
    predicted = {call: one.seconds + overhead[call] for call, one in passes.items()}
    return {
        "batch": found.batch,
        "limit": {call: one.limit for call, one in passes.items()},
        "predicted_ms": milliseconds(predicted),
        "measured_ms": milliseconds(seen),
        "measured_over_predicted": {call: seen[call] / predicted[call] for call in CALLS},
        "nfe_in_ar_steps": {
            "predicted": predicted["denoise step"] / predicted["AR step"],
            "measured": seen["denoise step"] / seen["AR step"],
        },
    }


def milliseconds(seconds: Seconds) -> dict[str, float]:
    """Return the same in milliseconds."""
    return {call: 1e3 * value for call, value in seconds.items()}


def show(report: dict[str, Any]) -> None:
    """Print the comparison."""
    limits = report["limits"]
    rates = [
        limits[key] / 1e9 for key in ("bytes_per_second", "flops_per_second", "packing_bytes_per_second")
    ]
    print(f"{limits['name']}, one thread, clock: {report['clock']}; load {report['load_at_start']} before")
    print("{:.1f} GB/s, {:.0f} GFLOP/s, packing {:.1f} GB/s".format(*rates))
    print("overhead ms: " + ", ".join(f"{call} {value:.2f}" for call, value in report["overhead_ms"].items()))
    print(f"\n{'batch':>5}  {'call':14}{'most of it':>12}{'predicted ms':>14}{'measured ms':>13}{'ratio':>8}")
    for row in report["rows"]:
        for call in CALLS:
            print(
                f"{row['batch']:5}  {call:14}{row['limit'][call]:>12}{row['predicted_ms'][call]:14.1f}"
                f"{row['measured_ms'][call]:13.1f}{row['measured_over_predicted'][call]:8.2f}"
            )
    print("\ncost of an NFE in AR steps: predicted, measured")
    for row in report["rows"]:
        cost = row["nfe_in_ar_steps"]
        print(f"{row['batch']:5}  {cost['predicted']:8.2f}{cost['measured']:8.2f}")


if __name__ == "__main__":
    main()

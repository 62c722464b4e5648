"""What `ttc plan` says against what `ttc bench` measures, on this machine's CPU, in one run.

    python benchmarks/plan_check.py [--json FILE]

The miniature is too small for a model of bandwidth and arithmetic: its calls are mostly the overhead of a
thousand small operators. So a checkpoint with random weights is made here whose passes are long enough (about
70 M parameters a tower, 8 layers), exported, and run on ONNX Runtime with one thread, where all experts run
on every token. The machine's two limits are measured in the same run: bandwidth by a dot product of vectors
larger than the caches, arithmetic by matrix products of 512 rows. One more number is measured, the overhead:
the calls of a model with the same layers in which everything is small (hidden 32).

Printed per batch size: floor and measurement of an AR step, a denoise step and an extension, and the cost of
an NFE in AR steps, which decides between the modes.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import dataclasses
import json
import math
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import ttc
from ttc.bench.cases import make_cases
from ttc.bench.identity import machine
from ttc.bench.problems import random_prompts
from ttc.bench.run import Plan, run_cases
from ttc.bench.schema import Speed
from ttc.config import ModelConfig
from ttc.exporter.checkpoint import expected_tensors
from ttc.planning.experts import Routing
from ttc.planning.forecast import Forecast, Question, forecast
from ttc.planning.machines import Machine
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


def main() -> None:
    """Measure, forecast, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--batch", default="1,4")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    batches = tuple(map(int, given.batch.split(",")))

    with tempfile.TemporaryDirectory() as folder:
        measured = measure(LARGE, Path(folder) / "large", batches, given.repeats)
        overhead = measure(SMALL, Path(folder) / "small", (1,), given.repeats)[0]
    here = calibrate()
    limits = f"{here.bytes_per_second / 1e9:.1f} GB/s, {here.flops_per_second / 1e9:.0f} GFLOP/s"
    print(f"{here.name}: {limits}, one thread")
    print(f"overhead: AR step {ms(overhead.ar_step)}, denoise step {ms(overhead.denoise_step)} ms")
    config = ModelConfig.from_hf(released_config() | LARGE)
    rows = []
    for batch, speed in zip(batches, measured, strict=True):
        context = PROMPT_TOKENS + NEW_TOKENS // 2
        question = Question(config, here, context=context, itemsize=4, routing=Routing(dense=True))
        found = forecast(question, batch, [])
        rows.append(compare(batch, found, speed, overhead))
    show(rows)
    if given.json is not None:
        report = {
            "machine": dataclasses.asdict(machine()),
            "limits": dataclasses.asdict(here),
            "overhead": {"ar_step": overhead.ar_step, "denoise_step": overhead.denoise_step},
            "model": LARGE,
            "rows": rows,
        }
        given.json.write_text(json.dumps(report, indent=1) + "\n")


def measure(sizes: dict[str, Any], folder: Path, batches: tuple[int, ...], repeats: int) -> list[Speed]:
    """What the bench sees of a model of these sizes: diffusion at every batch size, with AR's step."""
    bundle = ttc.export(random_checkpoint(sizes, folder), folder / "model.bundle", "float32")
    config = ModelConfig.from_hf(released_config() | sizes)
    prompts = random_prompts(config, max(batches), PROMPT_TOKENS, seed=0)
    with ttc.load(bundle, threads=1) as engine:
        plan = Plan(
            cases=make_cases(["diffusion"], [0.99], None, [16]),
            prompts=prompts,
            problems=None,
            timed_prompts=len(prompts),
            batch_sizes=batches,
            repeats=repeats,
            max_new_tokens=NEW_TOKENS,
            temperature=0.0,
            seed=0,
        )
        ar, diffusion = run_cases(engine, plan)
    return [
        dataclasses.replace(speed, ar_step=base.ar_step)
        for speed, base in zip(diffusion.speed, ar.speed, strict=True)
    ]


def random_checkpoint(sizes: dict[str, Any], folder: Path) -> Path:
    """A checkpoint of these sizes whose weights are normal numbers; no eos, so that nothing ends early."""
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


def calibrate() -> Machine:
    """This CPU's limits with one thread, the best of several tries each."""
    vector = np.ones(64 * 2**20, np.float32)
    bandwidth = max(vector.nbytes / seconds(lambda: float(vector @ vector)) for _ in range(5))
    a, b = np.ones((512, 1024), np.float32), np.ones((1024, 1024), np.float32)
    flops = max(2 * a.shape[0] * b.size / seconds(lambda: a @ b) for _ in range(10))
    return Machine(machine().cpu, bandwidth, flops, 1e12, "measured in this run")


def seconds(call: Any) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def compare(batch: int, found: Forecast, speed: Speed, overhead: Speed) -> dict[str, Any]:
    """Floors, floors with the overhead, and measurements of one batch size; times in milliseconds."""
    floors = {"ar": found.ar_step.seconds, "nfe": found.nfe.seconds, "extension": found.extension.seconds}
    extra, seen = calls(overhead), calls(speed)
    more = {key: value + extra[key] for key, value in floors.items()}
    return {
        "batch": batch,
        "floor_ms": {key: 1e3 * value for key, value in floors.items()},
        "with_overhead_ms": {key: 1e3 * value for key, value in more.items()},
        "measured_ms": {key: 1e3 * value for key, value in seen.items()},
        "nfe_in_ar_steps": {
            "floor": floors["nfe"] / floors["ar"],
            "with_overhead": more["nfe"] / more["ar"],
            "measured": seen["nfe"] / seen["ar"],
        },
    }


def calls(speed: Speed) -> dict[str, float]:
    """Seconds of the three kinds of calls."""
    times = {"ar": speed.ar_step, "nfe": speed.denoise_step, "extension": speed.extension}
    return {key: value for key, value in times.items() if value is not None}


def show(rows: list[dict[str, Any]]) -> None:
    """The comparison as text."""
    print(
        f"\n{'batch':>5}  {'pass':10}{'floor ms':>10}{'+ overhead':>12}{'measured':>10}{'measured/floor':>16}"
    )
    for row in rows:
        for key in ("ar", "nfe", "extension"):
            floor, more, seen = (row[kind][key] for kind in ("floor_ms", "with_overhead_ms", "measured_ms"))
            print(f"{row['batch']:5}  {key:10}{floor:10.2f}{more:12.2f}{seen:10.2f}{seen / floor:16.2f}")
    print("\ncost of an NFE in AR steps: floor, with overhead, measured")
    for row in rows:
        cost = row["nfe_in_ar_steps"]
        print(f"{row['batch']:5}  {cost['floor']:8.2f}{cost['with_overhead']:8.2f}{cost['measured']:8.2f}")


def ms(value: float | None) -> str:
    """Seconds as milliseconds."""
    return "–" if value is None else f"{1e3 * value:.2f}"


if __name__ == "__main__":
    main()

"""The real size on a GPU: one denoise step, one extension, one AR step, one block, and their floors.

    make gpu                            tests marked gpu first, then this
    python -m benchmarks.gpu --two      one GPU against two
    python -m benchmarks.gpu --dry      a tiny model on a fake device: the report's form, no figures

Weights are random bfloat16 made on the GPU, in the real shapes. Random weights have no realistic routing, so
the routing op's outputs are replaced by ones that hit exactly d experts a layer (its kernel still runs); and
none have realistic confidences, so a block takes as many steps as it is allowed, drawn from the published
distribution. Floors: bytes that had to move over the bandwidth of a large copy on the same GPU. The eager
towers run on the same weights, with the naive ops, without graphs.

Has not run on a GPU yet. Writes one JSON to benchmarks/results/.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from benchmarks import gpu_reckoning as reckoning
from benchmarks.export_real_size import CONFIG
from benchmarks.gpu_measuring import CONTEXT_TOKENS, Bench, timed
from ttc.bench.identity import commit
from ttc.model.config import ModelConfig
from ttc.model.weights import CONTEXT, DENOISER
from ttc.plugins.naive import run_naive
from ttc.runtime.gpu.device import Device, Scope

ROOT = Path(__file__).parents[1]
PACKAGES = ("torch", "triton", "cuda-core", "cuda-bindings", "nvidia-cuda-nvrtc", "tensorrt_rtx", "numpy")

# Of the dry run.
SMALL = CONFIG | {
    "hybrid_override_pattern": "ME*E",
    "num_hidden_layers": 4,
    "hidden_size": 32,
    "vocab_size": 64,
    "mamba_num_heads": 4,
    "mamba_head_dim": 8,
    "n_groups": 2,
    "ssm_state_size": 8,
    "num_attention_heads": 4,
    "head_dim": 8,
    "n_routed_experts": 16,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "moe_shared_expert_intermediate_size": 16,
    "max_position_embeddings": 4096,
}


def main() -> None:
    """Measure, print and write the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--dry", action="store_true", help="tiny, on the CPU; nothing is written")
    parser.add_argument("--skip-tests", action="store_true", help="measure without the tests marked gpu")
    parser.add_argument("--two", action="store_true", help="one GPU against two instead")
    parser.add_argument("--repeats", type=int, default=50)
    parser.add_argument("--blocks", type=int, default=40)
    given = parser.parse_args()
    if given.two:
        report = two_report(given)
    else:
        report = dry_report() if given.dry else gpu_report(given)
        reckoning.check_report(report)
    text = json.dumps(report, indent=1)
    print(text)
    if not given.dry:
        name = report["gpu"]["name"].lower().replace(" ", "_")
        path = ROOT / "benchmarks" / "results" / f"{'two_gpus' if given.two else 'gpu'}_{name}.json"
        path.write_text(text + "\n")
        print(f"written to {path}", file=sys.stderr)


def gpu_report(given: argparse.Namespace) -> dict[str, Any]:
    """Return the report of the GPU at hand, the real model or as much of it as fits."""
    from ttc.plugins.triton import run_triton
    from ttc.runtime.gpu.cuda import CudaDevice

    tests = {} if given.skip_tests else run_tests()
    probe = probe_rtx()
    device = CudaDevice(0, "torch")
    config = ModelConfig.from_hf(CONFIG)
    ceilings = {
        "copy_bytes_per_second": copy_bandwidth(device, 4 * 10**9),
        "bf16_matmul_flops": matmul_rate(8192, "cuda"),
    }
    fit = reckoning.fit(config, device.free_bytes()[0])
    bench = Bench(reckoning.shortened(config, fit.layers), device, run_triton, given.repeats, given.blocks)
    return report_of(
        bench, fit, ceilings, tests, probe, " ".join(["python -m benchmarks.gpu", *sys.argv[1:]])
    )


def two_report(given: argparse.Namespace) -> dict[str, Any]:
    """Measure a round on one GPU and on two (`benchmarks.gpu_two`)."""
    from benchmarks import gpu_two

    settings: dict[str, Any] = {}
    if given.dry:
        from tests.support.fake_device import no_compiler, with_loop_kernel

        devices: list[Device] = [with_loop_kernel(name=f"cuda:{i}") for i in range(2)]
        config, run_op, batches, distinct = ModelConfig.from_hf(SMALL), run_naive, (1, 2), 4
        settings["compilers"] = (no_compiler,)
    else:
        from ttc.plugins.triton import run_triton
        from ttc.runtime.gpu.cuda import CudaDevice

        devices = [CudaDevice(i, "torch") for i in range(2)]
        config = gpu_two.both_fit(ModelConfig.from_hf(CONFIG), devices[0].free_bytes()[0])
        run_op, batches, distinct = run_triton, reckoning.BATCHES, 68
    lines = gpu_two.compare(config, devices, run_op, batches, distinct, given.blocks, **settings)
    return {
        "what": "a block filled in 6 steps and read, on one GPU and on two; random bfloat16 weights",
        "command": " ".join(["python -m benchmarks.gpu", *sys.argv[1:]]),
        "commit": commit(),
        "gpu": gpu(devices[0]),
        "versions": versions(),
        "layers": config.num_layers,
        "rounds": lines,
    }


def dry_report() -> dict[str, Any]:
    """Return the report of a fake device and a tiny model: shows the form, measures nothing."""
    from tests.support.fake_device import no_compiler, with_loop_kernel

    config, device = ModelConfig.from_hf(SMALL), with_loop_kernel()
    bench = Bench(config, device, run_naive, 1, 2, compilers=(no_compiler,), batches=(1, 2), distinct=(2, 4))
    ceilings = {"copy_bytes_per_second": 1e9, "bf16_matmul_flops": matmul_rate(64, "cpu")}
    fit = reckoning.fit(config, 2**40)
    return report_of(bench, fit, ceilings, {}, {"stage": "dry"}, "dry")


def report_of(
    bench: Bench,
    fit: reckoning.Fit,
    ceilings: Mapping[str, float],
    tests: Mapping[str, Any],
    probe: Mapping[str, Any],
    command: str,
) -> dict[str, Any]:
    """Measure both towers, one after the other, and put everything together."""
    bandwidth = ceilings["copy_bytes_per_second"]
    rows, blocks, calls, eager, experts = [], [], [], [], []
    for tower in (CONTEXT, DENOISER):
        with bench.tower(tower) as weights:
            for work in bench.works(tower):
                seconds = bench.seconds(weights, work)
                rows.append(reckoning.row(bench.config, work, seconds, CONTEXT_TOKENS, bandwidth))
            for work in bench.works(tower)[:1]:
                slow = bench.seconds(weights, work, eager=True)
                fast = bench.seconds(weights, work)
                eager.append(
                    {"what": work.kind, "batch": work.batch, "ms": fast * 1e3, "eager_ms": slow * 1e3}
                )
            if tower == CONTEXT:
                calls = bench.context_calls(weights)
            if tower == DENOISER:
                blocks = bench.filled_blocks(weights)
                experts = bench.experts_kernel(weights, bandwidth)
    report: dict[str, Any] = {
        "what": f"{fit.label}; random bfloat16 weights, forced routing, steps per block as published",
        "command": command,
        "commit": commit(),
        "gpu": gpu(bench.device),
        "versions": versions(),
        "model": {"layers": fit.layers, "both_towers_fit": fit.both, **bench.config.to_dict()},
        "ceilings": dict(ceilings),
        "tests": dict(tests),
        "probe_rtx": dict(probe),
        "experts_kernel": experts,
        "rows": rows,
        "blocks": blocks,
        "context_calls": calls,
        "eager": eager,
        "nfe_in_ar_steps": reckoning.nfe_in_ar_steps(rows),
    }
    return report | {"goals": reckoning.goals(report)}


def copy_bandwidth(device: Device, nbytes: int) -> float:
    """Return the bytes read and written per second by a large copy on the device."""
    scope = Scope(device)
    try:
        source, target = scope.array("uint8", (nbytes,)), scope.array("uint8", (nbytes,))
        device.copy(target, source)
        device.wait()
        start = time.perf_counter()
        for _ in range(10):
            device.copy(target, source)
        device.wait()
        return 2 * nbytes * 10 / (time.perf_counter() - start)
    finally:
        scope.close()


def matmul_rate(size: int, where: str) -> float:
    """Return the floating-point operations per second of a square bfloat16 matrix product."""
    a, b = (torch.randn(size, size, device=where).to(torch.bfloat16) for _ in range(2))
    return 2 * size**3 / timed(lambda: a @ b, 10)


def run_tests() -> dict[str, Any]:
    """Run the tests marked gpu: kernels against their naive functions, golden tokens at every graph level."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider"]
    environment = os.environ | {"TTC_REQUIRE": "gpu"}
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    print(done.stdout, file=sys.stderr)
    lines = done.stdout.strip().splitlines()
    if done.returncode:
        raise SystemExit(
            "the tests marked gpu fail; nothing is measured (--skip-tests measures all the same)"
        )
    return {"command": "pytest -m gpu", "exit_code": done.returncode, "summary": lines[-1] if lines else ""}


def probe_rtx() -> dict[str, Any]:
    """Find out whether TensorRT-RTX runs on this GPU; in a process of its own, which it may take down."""
    script = ROOT / "benchmarks" / "probe_rtx.py"
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False)
    try:
        found: dict[str, Any] = json.loads(done.stdout)
        return found
    except json.JSONDecodeError:
        return {"stage": "did not start", "error": done.stderr.strip().splitlines()[-1:]}


def gpu(device: Device) -> dict[str, Any]:
    """Return name, memory, clocks and driver as the driver tells them."""
    found: dict[str, Any] = {"name": device.name, "compute_capability": device.compute_capability}
    query = "name,driver_version,memory.total,power.limit,clocks.max.sm,clocks.max.mem"
    command = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader", "--id=0"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        found |= dict(zip(query.split(","), (part.strip() for part in said.split(",")), strict=True))
    except (OSError, subprocess.CalledProcessError):
        found["driver_version"] = "unknown: nvidia-smi does not answer"
    return found


def versions() -> dict[str, str]:
    """Return the installed packages that take part."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


if __name__ == "__main__":
    main()

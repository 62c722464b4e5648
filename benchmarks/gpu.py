"""The real size on a GPU: one denoise step, one extension, one AR step, one block, and their floors.

    make gpu                            tests marked gpu first, then this
    python -m benchmarks.gpu --dry      a tiny model on a device that pretends: the report's form, no figures

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
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import gpu_reckoning as reckoning
from benchmarks.export_real_size import CONFIG
from benchmarks.gpu_reckoning import BLOCK, CONTEXT, DENOISER, Work
from ttc.config import ModelConfig
from ttc.plugins.moe_experts import MOE_DOWN, MOE_UP
from ttc.plugins.moe_routing import MOE_ROUTING
from ttc.plugins.naive import run_naive
from ttc.runtime.backends.base import BlockInputs
from ttc.runtime.backends.torch.executor import TorchExecutor, view_of
from ttc.runtime.gpu.backend import DeviceBackend
from ttc.runtime.gpu.device import Device, Scope
from ttc.runtime.gpu.nvrtc import compile_ptx

ROOT = Path(__file__).parents[1]
CAPACITY, CONTEXT_TOKENS = 2048, 1024
PACKAGES = ("torch", "triton", "cuda-core", "cuda-bindings", "nvidia-cuda-nvrtc", "tensorrt_rtx", "numpy")


def main() -> None:
    """Measure, print and write the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--dry", action="store_true", help="tiny, on the CPU; nothing is written")
    parser.add_argument("--skip-tests", action="store_true", help="measure without the tests marked gpu")
    parser.add_argument("--repeats", type=int, default=50)
    parser.add_argument("--blocks", type=int, default=40)
    given = parser.parse_args()
    report = dry_report() if given.dry else gpu_report(given)
    reckoning.check_report(report)
    text = json.dumps(report, indent=1)
    print(text)
    if not given.dry:
        name = report["gpu"]["name"].lower().replace(" ", "_")
        path = ROOT / "benchmarks" / "results" / f"gpu_{name}.json"
        path.write_text(text + "\n")
        print(f"written to {path}", file=sys.stderr)


def gpu_report(given: argparse.Namespace) -> dict[str, Any]:
    """The report of the GPU at hand, the real model or as much of it as fits."""
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


def dry_report() -> dict[str, Any]:
    """The same through a device that pretends and a tiny model: shows the form, measures nothing."""
    from tests.support.host_device import no_compiler, with_loop_kernel

    small = CONFIG | {
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
    config, device = ModelConfig.from_hf(small), with_loop_kernel()
    bench = Bench(
        config, device, run_naive, 1, 2, compile_kernel=no_compiler, batches=(1, 2), distinct=(2, 4)
    )
    ceilings = {"copy_bytes_per_second": 1e9, "bf16_matmul_flops": matmul_rate(64, "cpu")}
    fit = reckoning.fit(config, 2**40)
    return report_of(bench, fit, ceilings, {}, {"stage": "dry"}, "dry")


def report_of(
    bench: "Bench",
    fit: reckoning.Fit,
    ceilings: Mapping[str, float],
    tests: Mapping[str, Any],
    probe: Mapping[str, Any],
    command: str,
) -> dict[str, Any]:
    """Measure both towers, one after the other, and put everything together."""
    bandwidth = ceilings["copy_bytes_per_second"]
    rows, blocks, eager, experts = [], [], [], []
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
        "eager": eager,
        "nfe_in_ar_steps": reckoning.nfe_in_ar_steps(rows),
    }
    return report | {"goals": reckoning.goals(report)}


class Bench:
    """One model on one device: makes a tower's weights, and times what runs on them.

    `run_op` computes the ops; the naive ones are what the eager towers use.
    """

    def __init__(
        self,
        config: ModelConfig,
        device: Device,
        run_op: Callable[..., Any],
        repeats: int,
        blocks: int,
        compile_kernel: Callable[[str, str, str], bytes] = compile_ptx,
        batches: tuple[int, ...] = reckoning.BATCHES,
        distinct: tuple[int, ...] = reckoning.DISTINCT,
    ) -> None:
        self.config, self.device = config, device
        self._run_op, self._repeats, self._blocks = run_op, repeats, blocks
        self._compile, self._batches, self._distinct = compile_kernel, batches, distinct

    def tower(self, tower: str) -> "TowerWeights":
        """One tower's weights on the device, as a context manager."""
        return TowerWeights(self.config, self.device, tower)

    def works(self, tower: str) -> list[Work]:
        """What is measured on this tower; counts of experts that its tokens cannot reach are left out."""
        kinds = ("denoise",) if tower == DENOISER else ("extend", "ar")
        found: dict[tuple[str, int, int], Work] = {}
        for kind in kinds:
            for batch in self._batches:
                for distinct in self._distinct:
                    work = Work(kind, batch, distinct)
                    found.setdefault((kind, batch, reckoning.distinct_experts(self.config, work)), work)
        return list(found.values())

    def seconds(self, weights: "TowerWeights", work: Work, *, eager: bool = False) -> float:
        """Seconds of one run: many enqueued, one wait."""
        with self._backend(weights, work, 0 if eager else 1, eager=eager) as backend:
            state = backend.new_state(work.batch, CAPACITY)
            state.lengths[:] = CONTEXT_TOKENS
            slot = state.tensors.lease.slot
            if work.kind == "denoise":
                buffers = slot.block(BLOCK)
                buffers.inputs.upload(**_block_page(work.batch, self.config.mask_token_id))
                steps = [buffers.denoise, buffers.commit]
            else:
                buffers = slot.context(work.length, 1)
                count = np.full(work.batch, work.length, np.int32)
                lengths = np.full(work.batch, CONTEXT_TOKENS, np.int32)
                buffers.page.upload(input_ids=5, lengths=lengths, commit_len=count, logit_positions=0)
                steps = [buffers.step]
            repeats = max(1, self._repeats // 10) if eager else self._repeats
            for _ in range(3):
                self._run(steps)
            self.device.wait()
            start = time.perf_counter()
            for _ in range(repeats):
                self._run(steps)
            self.device.wait()
            return (time.perf_counter() - start) / repeats

    def filled_blocks(self, weights: "TowerWeights") -> list[dict[str, Any]]:
        """Whole blocks at every graph level: milliseconds, launches and waits a block, in the mean."""
        found = []
        for batch in self._batches:
            for level in (0, 1, 2):
                work = Work("denoise", batch, self._distinct[len(self._distinct) // 2])
                with self._backend(weights, work, level) as backend:
                    found.append(self._filled(backend, batch) | {"graph_level": backend.graph_level})
        return found

    def experts_kernel(self, weights: "TowerWeights", bandwidth: float) -> list[dict[str, Any]]:
        """The two matrix products of the experts alone, against the bytes of the experts that are hit."""
        config, found = self.config, []
        layer = config.pattern.index("E")
        prefix = f"{DENOISER}.layers.{layer}.mixer.experts."
        up, down = (weights.tensors[f"{prefix}{kind}_proj.weight"] for kind in ("up", "down"))
        for distinct in self._distinct:
            work = Work("denoise", 1, distinct)
            count = reckoning.distinct_experts(config, work)
            routed = weights.on_device(reckoning.routing(config, BLOCK, count))
            x = torch.randn(BLOCK, config.hidden_size, device=up.device).to(up.dtype)
            chosen = [routed[name] for name in ("expert_ids", "grouped_pairs", "expert_offsets")]

            def both(x: Any = x, chosen: Any = chosen) -> None:
                (activated,) = self._run_op(MOE_UP, x, up, *chosen)
                self._run_op(MOE_DOWN, activated, down, *chosen)

            seconds = _timed(both, self._repeats)
            moved = count * (up[0].nbytes + down[0].nbytes)
            share = moved / bandwidth / seconds
            found.append({"distinct_experts": count, "ms": seconds * 1e3, "bandwidth_share": share})
        return found

    def _filled(self, backend: DeviceBackend, batch: int) -> dict[str, Any]:
        state = backend.new_state(batch, CAPACITY)
        state.lengths[:] = CONTEXT_TOKENS
        masks = np.full((batch, BLOCK), self.config.mask_token_id, np.int32)
        # No prediction is more probable than 1: each step commits what the steps left demand.
        never, greedy = np.ones(batch, np.float32), np.zeros(batch, np.float32)
        keys = np.zeros(batch, np.int64)
        for _ in range(2):
            list(backend.fill_block(state, BlockInputs(masks, 2, never, greedy, keys)))
        steps = reckoning.draw_steps(self._blocks)
        launches, waits = self.device.launches, self.device.waits
        taken, start = 0, time.perf_counter()
        for count in steps:
            taken += len(list(backend.fill_block(state, BlockInputs(masks, count, never, greedy, keys))))
        seconds = (time.perf_counter() - start) / len(steps)
        # The wait for what the block gave comes after it.
        return {
            "batch": batch,
            "ms_per_block": seconds * 1e3,
            "steps_per_block": taken / len(steps),
            "launches": (self.device.launches - launches) / len(steps),
            "waits_inside": (self.device.waits - waits) / len(steps) - 1,
        }

    @staticmethod
    def _run(steps: list[Any]) -> None:
        for step in steps:
            step.run()

    def _backend(self, weights: "TowerWeights", work: Work, level: int, *, eager: bool = False) -> "OneTower":
        count = reckoning.distinct_experts(self.config, work)
        routed = weights.on_device(reckoning.routing(self.config, work.batch * work.length, count))
        inner = run_naive if eager else self._run_op

        def run_op(op: Any, *inputs: Any, **attributes: Any) -> Any:
            made = inner(op, *inputs, **attributes)
            return tuple(routed.values()) if op.name == MOE_ROUTING.name else made

        problem = "the eager towers run without graphs" if eager else None
        executor = TorchExecutor(
            self.config, self.device, weights.tensors, "bfloat16", run_op, problem, used=(weights.name,)
        )
        return OneTower(self.config, _Kept(self.device), executor, level, self._compile)


class TowerWeights:
    """Random weights of one tower on the device; given back at the end of the `with`."""

    def __init__(self, config: ModelConfig, device: Device, tower: str) -> None:
        self._config, self._device, self.name = config, device, tower
        self._scope = Scope(device)
        self.tensors: dict[str, torch.Tensor] = {}

    def __enter__(self) -> "TowerWeights":
        for place, (name, (dtype, shape)) in enumerate(
            reckoning.weight_shapes(self._config, self.name).items()
        ):
            tensor = view_of(self._device, self._scope.array(dtype, shape))
            generator = torch.Generator(tensor.device).manual_seed(place)
            # Sums over the inner size stay of order one; A_log and dt_bias stay small enough for exp.
            tensor.normal_(0.0, shape[-1] ** -0.5, generator=generator)
            self.tensors[name] = tensor
        return self

    def __exit__(self, *_: object) -> None:
        self.tensors.clear()
        self._scope.close()

    def on_device(self, arrays: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """Small arrays beside the weights."""
        where = next(iter(self.tensors.values())).device
        return {name: torch.from_numpy(array).to(where) for name, array in arrays.items()}


class OneTower(DeviceBackend):
    """A backend that leaves its device open for the next one."""

    def __enter__(self) -> "OneTower":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Kept:
    """A device that closing does not close."""

    def __init__(self, device: Device) -> None:
        self._device = device

    def __getattr__(self, name: str) -> Any:
        return getattr(self._device, name)

    def close(self) -> None:
        self._device.wait()


def _block_page(batch: int, mask_id: int) -> dict[str, Any]:
    values: dict[str, Any] = dict.fromkeys(("temperature", "row_key", "step"), 0)
    return values | {
        "block_ids": np.full((batch, BLOCK), mask_id, np.int32),
        "threshold": 1.0,
        "position": CONTEXT_TOKENS,
        "steps_left": BLOCK,
        "t": 1.0,
        "lengths": CONTEXT_TOKENS,
    }


def copy_bandwidth(device: Device, nbytes: int) -> float:
    """Bytes read and written per second by a large copy on the device."""
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
    """Floating-point operations per second of a square bfloat16 matrix product."""
    a, b = (torch.randn(size, size, device=where).to(torch.bfloat16) for _ in range(2))
    return 2 * size**3 / _timed(lambda: a @ b, 10)


def _timed(work: Callable[[], object], repeats: int) -> float:
    """Seconds of one run of work that torch enqueues."""
    cuda = torch.cuda.is_available()
    for _ in range(3):
        work()
    if cuda:
        torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(repeats):
        work()
    if cuda:
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / repeats


def run_tests() -> dict[str, Any]:
    """The tests marked gpu: kernels against their twins, golden tokens at every graph level."""
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
    """Whether TensorRT-RTX runs on this GPU; in a process of its own, which it may take down."""
    script = ROOT / "benchmarks" / "probe_rtx.py"
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False)
    try:
        found: dict[str, Any] = json.loads(done.stdout)
        return found
    except json.JSONDecodeError:
        return {"stage": "did not start", "error": done.stderr.strip().splitlines()[-1:]}


def gpu(device: Device) -> dict[str, Any]:
    """Name, memory, clocks and driver as the driver tells them."""
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
    """Installed packages that take part."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def commit() -> str:
    """The commit that is measured, marked where files differ from it."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


if __name__ == "__main__":
    main()

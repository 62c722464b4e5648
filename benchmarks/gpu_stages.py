"""The stages of `benchmarks.gpu`, most valuable first, each in a process of its own.

    python -m benchmarks.gpu_stages FILE NAME … [--dry]      what `benchmarks.gpu` starts

A stage yields dictionaries, which are appended to FILE at once, as a line of JSON each: what was measured
before a fault or a time limit is there. Later stages take the ceilings from the lines of the first; without
them they measure anew.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

__all__ = ["NEEDED", "STAGES", "Setting", "Stage", "main", "read_lines", "run_stage"]

ROOT = Path(__file__).parents[1]
# What the stages cannot do without, and what only some of them use.
NEEDED = ("torch", "triton", "cuda-core", "cuda-bindings", "numpy", "ml_dtypes")
USED = ("nvidia-cuda-nvrtc", "onnx", "onnx-ir", "onnxscript", "onnxruntime", "safetensors", "tokenizers")
USED += ("cryptography", "hypothesis", "pytest", "pytest-xdist", "tensorrt_rtx")
# The stage `tests` stops them itself then, before it is stopped.
TESTS_SECONDS = 165
# Of the dry run.
SMALL = {
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
Lines = Iterator[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Setting:
    """Where a stage runs.

    Attributes:
        dry: on the CPU, at tiny size: kernels in the interpreter, graphs on the tests' fake device.
        file: with the lines of this run so far.
    """

    dry: bool
    file: Path

    def model(self) -> Any:
        """Return the configuration."""
        from benchmarks.export_real_size import CONFIG
        from ttc.model.config import ModelConfig

        return ModelConfig.from_hf(CONFIG | SMALL if self.dry else CONFIG)

    def ceilings(self) -> Any:
        """Return what the first stage measured, or measure now."""
        from benchmarks.gpu_timing import Ceilings

        for line in read_lines(self.file):
            if line["stage"] == "machine" and "copy_bytes" in line:
                return Ceilings(line["copy_bytes"], line["read_bytes"], line["bf16_flops"])
        return self.timer().ceilings()

    def timer(self) -> Any:
        """Return a timer of the device."""
        from benchmarks.gpu_timing import Timer

        return Timer("cpu", 2**16) if self.dry else Timer("cuda", 4 * 10**9)


def machine(setting: Setting) -> Lines:
    """Tell versions and what is missing; measure the ceilings; load what the runtime needs of CUDA."""
    from ttc.bench.identity import commit

    found = {name: _version(name) for name in (*NEEDED, *USED)}
    missing = [name for name in NEEDED if found[name] is None]
    yield {"versions": found, "missing": missing, "commit": commit(), "gpu": None if setting.dry else _gpu()}
    if missing and not setting.dry:
        raise SystemExit(f"missing: {', '.join(missing)}; docs/gpu.md says what to bring")
    ceilings = setting.timer().ceilings()
    yield {
        "copy_bytes": ceilings.copy_bytes,
        "read_bytes": ceilings.read_bytes,
        "bf16_flops": ceilings.bf16_flops,
    }
    yield from _loop(setting)


def _loop(setting: Setting) -> Lines:
    """Load the kernel of the WHILE loop, which level 2 stands on; `blocks` captures and runs such loops."""
    from ttc.runtime.gpu import block_loop
    from ttc.runtime.gpu.nvrtc import compile_cubin, compile_ptx

    if setting.dry:
        yield {"loop": "not tried: this is no GPU"}
        return
    from ttc.runtime.gpu.cuda import CudaDevice

    device = CudaDevice(0, "torch")
    line: dict[str, Any] = {"driver": device.driver_version, "loop_problem": device.loop_problem}
    for name, compiler in (("ptx", compile_ptx), ("cubin", compile_cubin)):
        try:
            code = compiler(block_loop.KERNEL, block_loop.SOURCE, device.compute_capability)
            device.load_kernel(block_loop.KERNEL, code)
            line[name] = "loaded"
        except Exception as fault:
            line[name] = f"{type(fault).__name__}: {fault}"[:300]
    yield line


def experts(setting: Setting) -> Lines:
    """Time the expert products by tokens, experts hit and tile."""
    from benchmarks import gpu_kernels

    return gpu_kernels.experts(_bed(setting))


def kernels(setting: Setting) -> Lines:
    """Compare other kernels with their twins, and time them."""
    from benchmarks import gpu_kernels

    return gpu_kernels.kernels(_bed(setting))


def layers(setting: Setting) -> Lines:
    """Time one layer of each kind."""
    from benchmarks import gpu_kernels

    return gpu_kernels.layers(_bed(setting))


def steps(setting: Setting) -> Lines:
    """Time denoise steps, extensions and AR steps of the whole model against their floors."""
    from benchmarks import gpu_towers

    return gpu_towers.steps(*_towers(setting))


def blocks(setting: Setting) -> Lines:
    """Time whole blocks and context calls at every graph level, and count launches and waits."""
    from benchmarks import gpu_towers

    return gpu_towers.blocks(*_towers(setting))


def eager(setting: Setting) -> Lines:
    """Time the eager towers on the same weights."""
    from benchmarks import gpu_towers

    return gpu_towers.eager(*_towers(setting))


def tests(setting: Setting) -> Lines:
    """Run the tests marked gpu: kernels against their twins, golden tokens at levels 0, 1 and 2."""
    from benchmarks.gpu_tests import run_tests

    return run_tests(TESTS_SECONDS, dry=setting.dry)


def rtx(setting: Setting) -> Lines:
    """Find out whether TensorRT-RTX runs on this GPU."""
    if setting.dry:
        yield {"probe": {"stage": "not tried: this is no GPU"}}
        return
    script = ROOT / "benchmarks" / "probe_rtx.py"
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False)
    try:
        yield {"probe": json.loads(done.stdout)}
    except json.JSONDecodeError:
        yield {"probe": {"stage": "did not start", "error": done.stderr.strip().splitlines()[-1:]}}


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage. `seconds`: it is stopped then, whatever it has; below three minutes each."""

    run: Callable[[Setting], Lines]
    seconds: int

    @property
    def about(self) -> str:
        """What it does, in a line."""
        return (self.run.__doc__ or "").splitlines()[0]


STAGES: Mapping[str, Stage] = {
    stage.run.__name__: stage
    for stage in (
        Stage(machine, 60),
        Stage(experts, 150),
        Stage(kernels, 120),
        Stage(layers, 90),
        Stage(steps, 170),
        Stage(blocks, 170),
        Stage(eager, 120),
        Stage(rtx, 60),
        Stage(tests, 175),
    )
}


def main() -> None:
    """Run stages in this process: one on a GPU, where a fault may take the process down; all of a dry run."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0] if __doc__ else None)
    parser.add_argument("file", type=Path)
    parser.add_argument("stage", nargs="+", choices=list(STAGES))
    parser.add_argument("--dry", action="store_true")
    given = parser.parse_args()
    if given.dry:
        os.environ["TRITON_INTERPRET"] = "1"
    setting = Setting(given.dry, given.file)
    went_well = [run_stage(name, setting) for name in given.stage]
    sys.exit(not all(went_well))


def run_stage(name: str, setting: Setting) -> bool:
    """Append a stage's lines to the file, a last one among them that says how it ended; return if well."""
    start = time.monotonic()

    def write(line: Mapping[str, Any]) -> None:
        dry = {"dry": True} if setting.dry else {}
        text = json.dumps({"stage": name, **line, **dry, "at_s": round(time.monotonic() - start, 1)})
        with setting.file.open("a", encoding="utf-8") as file:
            file.write(text + "\n")

    try:
        for line in STAGES[name].run(setting):
            write(line)
    except (Exception, SystemExit) as fault:
        traceback.print_exc()
        write({"ended": f"{type(fault).__name__}: {fault}"[:600]})
        return False
    write({"ended": "done"})
    return True


def read_lines(file: Path) -> list[dict[str, Any]]:
    """Return the lines of a run; the last one may have been cut off."""
    lines = []
    for text in file.read_text("utf-8").splitlines() if file.exists() else ():
        with contextlib.suppress(json.JSONDecodeError):
            lines.append(json.loads(text))
    return lines


def _bed(setting: Setting) -> Any:
    from benchmarks.gpu_bed import Bed

    return Bed(setting.model(), setting.timer(), setting.ceilings(), setting.dry)


def _towers(setting: Setting) -> tuple[Any, Any]:
    """Return what measures whole towers, and the ceilings."""
    from benchmarks import gpu_reckoning as reckoning
    from benchmarks.gpu_measuring import Bench

    config, ceilings = setting.model(), setting.ceilings()
    if setting.dry:
        from tests.support.fake_device import no_compiler, with_loop_kernel
        from ttc.plugins.naive import run_naive

        device, sizes = with_loop_kernel(), {"batches": (1, 2), "distinct": (2, 4)}
        return Bench(config, device, run_naive, 1, 2, compilers=(no_compiler,), **sizes), ceilings
    from ttc.plugins.triton import run_triton
    from ttc.runtime.gpu.cuda import CudaDevice

    gpu = CudaDevice(0, "torch")
    fit = reckoning.fit(config, gpu.free_bytes()[0])
    return Bench(reckoning.shortened(config, fit.layers), gpu, run_triton, 20, 10, takes_out=True), ceilings


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _gpu() -> dict[str, Any]:
    """Return name, memory, clocks and driver as the driver tells them."""
    query = "name,driver_version,memory.total,power.limit,clocks.max.sm,clocks.max.mem,compute_cap"
    command = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader", "--id=0"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        return dict(zip(query.split(","), (part.strip() for part in said.split(",")), strict=True))
    except (OSError, subprocess.CalledProcessError):
        return {"driver_version": "unknown: nvidia-smi does not answer"}


if __name__ == "__main__":
    main()

"""What this machine can do with `ttc`, and what to install for the rest: `ttc doctor` as plain data."""

import os
import platform
import subprocess
import sys
from dataclasses import asdict, dataclass, replace
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

from ttc import __version__
from ttc.base.distribution import extra, install
from ttc.base.machine import physical_bytes, usable_cores
from ttc.doctor.cuda_driver import examine_driver

__all__ = ["PACKAGES", "Ability", "Package", "examine"]

_SMI_FIELDS = ("name", "driver_version", "memory.total", "compute_cap")
_SMI_SECONDS = 20
_LOOPS_IN_GRAPHS = (12, 4)
_ENGINES = "engines, and a tower on each of two GPUs, run without any graphs then"


@dataclass(frozen=True, slots=True)
class Package:
    """A package that `ttc` can use.

    Attributes:
        module: what is imported.
        names: distributions that bring it.
        use: what it is for.
        install: arguments of pip that get it.
    """

    module: str
    names: tuple[str, ...]
    use: str
    install: str


PACKAGES = (
    Package(
        "onnxruntime", ("onnxruntime", "onnxruntime-gpu"), "generate: the default backend", "onnxruntime"
    ),
    Package("onnx", ("onnx",), "the format of the graphs", "onnx"),
    Package("onnx_ir", ("onnx-ir",), "graphs and weights in memory", "onnx-ir"),
    Package("tokenizers", ("tokenizers",), "text to token ids and back", "tokenizers"),
    Package("torch", ("torch",), "export; generate --backend torch", extra("torch")),
    Package("onnxscript", ("onnxscript",), "export", extra("export")),
    Package("triton", ("triton",), "GPU kernels of the ttc ops", extra("kernels")),
    Package("tensorrt", ("tensorrt",), "TensorRT engines", extra("tensorrt")),
    Package("tensorrt_rtx", ("tensorrt_rtx", "tensorrt-rtx"), "TensorRT-RTX engines", extra("tensorrt-rtx")),
    Package("polygraphy", ("polygraphy",), "polygraphy run with ttc's runners", extra("polygraphy")),
    Package("onnx_graphsurgeon", ("onnx-graphsurgeon",), "polygraphy debug reduce", extra("polygraphy")),
    Package("transformers", ("transformers",), "verify --against-transformers", "transformers"),
    Package("cuda.core", ("cuda-core",), "CUDA graphs", extra("gpu")),
)


@dataclass(frozen=True, slots=True)
class Ability:
    """One thing `ttc` does.

    Attributes:
        what: in words.
        works: whether it does here.
        why: what it runs on, or what is missing.
        remedy: what to run or do, one step each; empty where it works or nothing helps.
    """

    what: str
    works: bool
    why: str
    remedy: tuple[str, ...] = ()


def examine() -> dict[str, Any]:
    """Return everything `ttc doctor` shows, ready for JSON."""
    versions = {package.module: _version(package) for package in PACKAGES}
    gpu, driver = _gpu(), examine_driver()
    providers, runtime_fault = _onnxruntime() if versions["onnxruntime"] else ((), None)
    cuda, torch_fault = _torch_cuda() if versions["torch"] else (None, None)
    faults = {"onnxruntime": runtime_fault, "torch": torch_fault}
    return {
        "ttc": __version__,
        "python": platform.python_version(),
        "executable": sys.executable,
        "system": platform.platform(),
        "cpu": {"name": _cpu_name(), "cores": os.cpu_count(), "usable_cores": usable_cores()},
        "memory_bytes": physical_bytes(),
        "gpu": gpu,
        "cuda_driver": driver,
        "onnxruntime_providers": list(providers),
        "torch_cuda": cuda,
        "packages": {
            package.module: {
                "version": versions[package.module],
                "use": package.use,
                "install": f"pip install {package.install}",
                "fault": faults.get(package.module),
            }
            for package in PACKAGES
        },
        "abilities": [
            asdict(a) | {"remedy": list(a.remedy)}
            for a in (
                *_abilities(versions, faults, providers, cuda, gpu is not None),
                *_tools(versions, faults),
                *_engines(versions, gpu is not None),
                *_graphs(versions, driver, gpu is not None),
                *_pairs(driver),
            )
        ],
        "warnings": _warnings(),
    }


def _abilities(
    versions: dict[str, str | None],
    faults: dict[str, str | None],
    providers: tuple[str, ...],
    cuda: str | None,
    has_gpu: bool,
) -> list[Ability]:
    runs_onnx = versions["onnxruntime"] is not None and faults["onnxruntime"] is None
    runs_torch = versions["torch"] is not None and faults["torch"] is None
    found = [
        _ability("generate on the CPU", runs_onnx, "onnxruntime", faults, "pip install onnxruntime"),
        _ability("generate on the CPU, --backend torch", runs_torch, "torch", faults, install("torch")),
    ]
    if runs_torch and versions["onnxscript"] is None:
        found.append(Ability("export", False, "onnxscript is missing", (install("export"),)))
    else:
        export = _ability("export", runs_torch, "torch", faults, install("export"))
        found.append(replace(export, why="torch and onnxscript") if export.works else export)
    if not has_gpu:
        no_gpu = "no NVIDIA GPU is seen (nvidia-smi)"
        return [*found, Ability("generate on a GPU", False, no_gpu)]
    onnx_on_gpu = "CUDAExecutionProvider" in providers
    found.append(
        Ability("generate on a GPU", True, "CUDAExecutionProvider of onnxruntime")
        if onnx_on_gpu
        else Ability("generate on a GPU", False, "onnxruntime here has no CUDAExecutionProvider", _CUDA_STEPS)
    )
    return [
        *found,
        Ability("generate on a GPU, --backend torch", True, f"torch with CUDA {cuda}")
        if cuda
        else Ability(
            "generate on a GPU, --backend torch",
            False,
            "torch here sees no CUDA device" if runs_torch else "torch is missing or broken",
            (f"{install('torch')}  (a build of torch with CUDA, for a driver that is new enough)",),
        ),
    ]


def _tools(versions: dict[str, str | None], faults: dict[str, str | None]) -> list[Ability]:
    """Return what looks at a model rather than running it."""

    def needs(what: str, modules: tuple[str, ...], remedy: str) -> Ability:
        missing = [m for m in modules if versions[m] is None or faults.get(m) is not None]
        if missing:
            return Ability(what, False, f"{' and '.join(missing)} missing or broken", (remedy,))
        return Ability(what, True, " and ".join(modules))

    return [
        needs("verify", ("onnxruntime", "torch"), install("torch")),
        needs("profile", ("onnxruntime",), "pip install onnxruntime"),
        needs("polygraphy run --ttc", ("polygraphy", "torch"), install("polygraphy", "torch")),
        needs("polygraphy debug reduce", ("polygraphy", "onnx_graphsurgeon"), install("polygraphy")),
    ]


def _engines(versions: dict[str, str | None], has_gpu: bool) -> list[Ability]:
    """Return what can be built here."""
    rtx, whole = "build, TensorRT-RTX", "build --backend tensorrt"
    found = [
        Ability(rtx, True, "tensorrt_rtx; needs no GPU")
        if versions["tensorrt_rtx"]
        else Ability(rtx, False, "tensorrt_rtx is missing", (install("tensorrt-rtx"),))
    ]
    if not has_gpu:
        return [*found, Ability(whole, False, "TensorRT builds on the GPU it builds for; none is seen")]
    return [
        *found,
        Ability(whole, True, "tensorrt")
        if versions["tensorrt"]
        else Ability(whole, False, "tensorrt is missing", (install("tensorrt"),)),
    ]


def _graphs(versions: dict[str, str | None], driver: dict[str, Any] | None, has_gpu: bool) -> list[Ability]:
    """Return what CUDA graphs can hold here; nothing to say without a GPU. The kernel that writes into caches
    is compiled by NVRTC too, in the PTX version of the loop's.
    """
    if not has_gpu:
        return []
    step, block, remedy = "CUDA graphs of a step", "CUDA graphs of a block", (install("gpu"),)
    if versions["cuda.core"] is None:
        return [Ability(what, False, "cuda.core is missing", remedy) for what in (step, block)]
    found = [Ability(step, True, "cuda.core")]
    if (fault := _nvrtc_fault()) is not None:
        return [*found, Ability(block, False, f"NVRTC is missing or broken: {fault}; {_ENGINES}", remedy)]
    if driver is not None and tuple(map(int, driver["cuda"].split("."))) < _LOOPS_IN_GRAPHS:
        why = f"the driver is for CUDA {driver['cuda']}, and loops in graphs need 12.4; {_ENGINES}"
        return [*found, Ability(block, False, why, ("install a newer NVIDIA driver",))]
    return [*found, Ability(block, True, "cuda.core and NVRTC")]


def _nvrtc_fault() -> str | None:
    """Return why NVRTC, which compiles the kernel that ends a step of the loop, is not available."""
    try:
        import_module("cuda.bindings.nvrtc").nvrtcVersion()
    except Exception as fault:  # a missing library is a RuntimeError of the bindings
        return _one_line(fault)
    return None


def _pairs(driver: dict[str, Any] | None) -> list[Ability]:
    """Return whether several GPUs reach each other's memory; nothing to say of fewer than two."""
    if driver is None or len(driver["devices"]) < 2:
        return []
    apart = [f"{a}–{b}" for a, row in enumerate(driver["peers"]) for b, can in enumerate(row) if not can]
    what = "peer access between GPUs"
    if apart:
        return [Ability(what, False, f"not between {', '.join(apart)}; copies go through the host there")]
    return [Ability(what, True, f"all {len(driver['devices'])} GPUs")]


_CUDA_STEPS = (
    install("cuda"),
    "pip uninstall onnxruntime",
    "pip install --force-reinstall --no-deps onnxruntime-gpu",
)


def _ability(what: str, works: bool, module: str, faults: dict[str, str | None], remedy: str) -> Ability:
    if works:
        return Ability(what, True, module)
    fault = faults[module]
    return Ability(
        what, False, f"{module} is {'missing' if fault is None else f'broken: {fault}'}", (remedy,)
    )


def _version(package: Package) -> str | None:
    """Return the version of the first distribution that is installed, if its module is there too."""
    try:
        if find_spec(package.module) is None:
            return None
    except (ModuleNotFoundError, ValueError):  # no parent package; a module without a spec
        return None
    for name in package.names:
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return "of unknown version"


def _warnings() -> list[str]:
    installed = []
    for name in ("onnxruntime", "onnxruntime-gpu"):
        try:
            installed.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    if len(installed) < 2:
        return []
    both = " and ".join(installed)
    steps = ", then ".join(_CUDA_STEPS[1:])
    return [f"{both} are both installed and fill the same folder, the last one wins; for the GPU: {steps}"]


def _onnxruntime() -> tuple[tuple[str, ...], str | None]:
    """Providers, and why it cannot be imported."""
    try:
        return tuple(import_module("onnxruntime").get_available_providers()), None
    except Exception as fault:  # a broken installation can fail in any way
        return (), _one_line(fault)


def _torch_cuda() -> tuple[str | None, str | None]:
    """Return the CUDA version torch was built for where it sees a device, and why it cannot be imported."""
    try:
        torch = import_module("torch")
        return (str(torch.version.cuda) if torch.cuda.is_available() else None), None
    except Exception as fault:  # a broken installation can fail in any way
        return None, _one_line(fault)


def _gpu() -> dict[str, Any] | None:
    """Driver and GPUs by nvidia-smi; None where there is none, or none that answers."""
    command = ["nvidia-smi", f"--query-gpu={','.join(_SMI_FIELDS)}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SMI_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None
    rows = [[cell.strip() for cell in line.split(",")] for line in done.stdout.splitlines()]
    rows = [row for row in rows if len(row) == len(_SMI_FIELDS)]
    if not rows:
        return None
    devices = [
        {"name": name, "memory_mib": memory, "compute_capability": cap} for name, _, memory, cap in rows
    ]
    return {"driver": rows[0][1], "devices": devices}


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        return platform.processor() or platform.machine()
    return platform.processor() or platform.machine()


def _one_line(fault: Exception) -> str:
    return f"{type(fault).__name__}: {' '.join(str(fault).split())}"[:300]

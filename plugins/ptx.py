"""Compiles a launch to PTX for a GPU architecture, on a machine that needs no GPU.

The PTX is made to be loaded by others (TensorRT, the CUDA driver): its version is as low as the architecture
allows, so that older drivers take it; the two pointers that Triton appends to every kernel's parameters are
taken away, after a look that nothing reads them; and what a plain launch could not honour (clusters, scratch
memory, more shared memory than every GPU grants unasked) is refused.
"""

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from ttc.base.dtypes import triton_pointer
from ttc.errors import BackendError
from ttc.plugins.launch import ALIGNMENT, Launch
from ttc.plugins.targets import TARGETS

__all__ = [
    "MAX_SHARED_BYTES",
    "MAX_WIDE_SHARED_BYTES",
    "Assembled",
    "CompiledKernel",
    "assemble",
    "compile_launch",
    "disassemble",
]

MAX_SHARED_BYTES: Final = 48 * 1024  # what a kernel may use without asking the driver for more
# What every architecture of `TARGETS` grants who asks: 8.6, 8.9 and 12.0 have the least.
MAX_WIDE_SHARED_BYTES: Final = 99 * 1024
_HIDDEN_POINTERS: Final = 2  # global scratch and profiler scratch, in triton 3.5 to 3.9


@dataclass(frozen=True, slots=True)
class CompiledKernel:
    """A kernel's PTX and what a launch of it has to know.

    Attributes:
        name: the entry's name in the PTX.
        ptx: the text; parameters are the inputs' pointers, int32 values, the outputs' pointers.
        target: compute capability, such as "9.0".
        num_warps: a block has 32 times as many threads, along x.
        shared_bytes: dynamic shared memory to ask for at launch.
    """

    name: str
    ptx: str
    target: str
    num_warps: int
    shared_bytes: int


@dataclass(frozen=True, slots=True)
class Assembled:
    """What ptxas reports of a kernel.

    Attributes:
        registers: per thread.
        spill_bytes: per thread, stores and loads.
        static_shared_bytes: shared memory beside `CompiledKernel.shared_bytes`.
    """

    registers: int
    spill_bytes: int
    static_shared_bytes: int


def compile_launch(launch: Launch, target: str) -> CompiledKernel:
    """Return the PTX of a launch for one of `TARGETS`.

    Args:
        launch: the kernel with its constants.
        target: compute capability, such as "9.0".

    Raises:
        BackendError: unknown target, Triton in interpreter mode, Triton or ptxas fails, or the kernel asks
            for what a plain launch does not give.
    """
    if target not in TARGETS:
        raise BackendError(f"no kernels for compute capability {target}; there are some for {_known()}")
    if triton.knobs.runtime.interpret:
        raise BackendError(
            "TRITON_INTERPRET is set, so kernels are interpreted and cannot be compiled; unset it"
        )
    names = list(launch.kernel.arg_names)
    types = [
        *map(triton_pointer, launch.inputs),
        *("i32" for _ in launch.integers),
        *map(triton_pointer, launch.outputs),
    ]
    tensors_and_integers, constants = names[: len(types)], names[len(types) :]
    assert sorted(constants) == sorted(launch.constants), f"{launch.op}: {constants}, {launch.constants}"
    signature = dict(zip(tensors_and_integers, types, strict=True)) | dict.fromkeys(constants, "constexpr")
    source = ASTSource(
        fn=launch.kernel,
        signature=signature,
        constexprs=dict(launch.constants),
        attrs={
            (i,): [["tt.divisibility", ALIGNMENT]] for i, kind in enumerate(types) if kind.startswith("*")
        },
    )
    options = {
        "num_warps": launch.tile.num_warps,
        "num_stages": launch.tile.num_stages,
        "ptx_version": TARGETS[target],
        "enable_fp_fusion": True,
    }
    major, minor = target.split(".")
    try:
        kernel = triton.compile(
            source, target=GPUTarget("cuda", int(major) * 10 + int(minor), 32), options=options
        )
    except Exception as error:
        raise BackendError(
            f"Triton {triton.__version__} could not compile the kernel of {launch.op} for compute capability "
            f"{target} (tile {launch.tile.name}, {dict(launch.constants)}): {type(error).__name__}: {error}"
        ) from error
    _check_plain(launch, target, kernel.metadata)
    return CompiledKernel(
        name=kernel.metadata.name,
        ptx=_without_hidden_pointers(kernel.asm["ptx"], len(types)),
        target=target,
        num_warps=kernel.metadata.num_warps,
        shared_bytes=kernel.metadata.shared,
    )


def assemble(kernel: CompiledKernel) -> Assembled:
    """Assemble the PTX with the ptxas that triton brings along.

    Raises:
        BackendError: ptxas refuses it, with what it said.
    """
    with tempfile.TemporaryDirectory() as folder:
        said = _ptxas(kernel, Path(folder, "kernel.cubin"))

    def reported(pattern: str) -> int:
        return sum(int(number) for number in re.findall(pattern, said))

    return Assembled(
        registers=reported(r"Used (\d+) registers"),
        spill_bytes=reported(r"(\d+) bytes spill (?:stores|loads)"),
        static_shared_bytes=reported(r"(\d+) bytes smem"),
    )


def disassemble(kernel: CompiledKernel) -> str:
    """Return the machine code that ptxas makes of the PTX, as the text of triton's nvdisasm.

    Raises:
        BackendError: as `assemble`.
    """
    with tempfile.TemporaryDirectory() as folder:
        binary = Path(folder, "kernel.cubin")
        _ptxas(kernel, binary)
        tool = triton.knobs.nvidia.nvdisasm.path
        done = subprocess.run([tool, "-c", str(binary)], capture_output=True, text=True, check=True)
    return done.stdout


def _ptxas(kernel: CompiledKernel, binary: Path) -> str:
    """Assemble into a file; return what ptxas said."""
    tools = triton.knobs.nvidia
    tool = tools.ptxas if int(kernel.target.split(".")[0]) < 9 else tools.ptxas_blackwell
    (architecture,) = re.findall(r"^\.target (\w+)", kernel.ptx, re.MULTILINE)
    text = binary.with_suffix(".ptx")
    text.write_text(kernel.ptx, encoding="utf-8")
    done = subprocess.run(
        [tool.path, "-v", f"--gpu-name={architecture}", str(text), "-o", str(binary)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise BackendError(f"ptxas refuses {kernel.name} for {kernel.target}: {done.stderr.strip()}")
    return done.stderr


def _check_plain(launch: Launch, target: str, metadata: Any) -> None:
    """Refuse what neither TensorRT's plugin launch nor a plain one provides; but wide tiles, which take more
    shared memory, are compiled too.
    """
    faults = []
    granted = MAX_WIDE_SHARED_BYTES if launch.tile.wide else MAX_SHARED_BYTES
    if metadata.shared > granted:
        asked = "if asked for" if launch.tile.wide else "unasked"
        faults.append(f"{metadata.shared} bytes of shared memory, {granted} are granted {asked}")
    if metadata.global_scratch_size or metadata.profile_scratch_size:
        faults.append("scratch memory")
    if metadata.num_ctas != 1:
        faults.append(f"a cluster of {metadata.num_ctas} blocks")
    if metadata.launch_cooperative_grid:
        faults.append("a cooperative launch")
    if faults:
        raise BackendError(
            f"the kernel of {launch.op} with tile {launch.tile.name} needs {' and '.join(faults)} on "
            f"{target}; choose another tile"
        )


def _without_hidden_pointers(ptx: str, num_parameters: int) -> str:
    """The PTX without the two parameters that Triton appends; refuses where they are not as expected."""
    head = re.search(r"\.entry \w+\(\n(.*?)\n\)", ptx, re.DOTALL)
    parameters = head[1].split(",\n") if head else []
    if head is None or len(parameters) != num_parameters + _HIDDEN_POINTERS:
        raise BackendError(
            f"Triton {triton.__version__} gave a kernel {len(parameters)} parameters, expected "
            f"{num_parameters} and {_HIDDEN_POINTERS} hidden ones; use a version between 3.6 and 3.9"
        )
    shorter = ptx[: head.start(1)] + ",\n".join(parameters[:num_parameters]) + ptx[head.end(1) :]
    for parameter in parameters[num_parameters:]:
        name = parameter.split()[-1]
        if re.search(rf"\b{re.escape(name)}\b", shorter):
            raise BackendError(f"the kernel reads Triton's hidden parameter {name}, which nobody would pass")
    return shorter


def _known() -> str:
    return ", ".join(TARGETS)

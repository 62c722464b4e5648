"""CUDA C → PTX or cubin with NVRTC, which needs neither a GPU nor a driver."""

import re
from typing import Any

from ttc.base.distribution import install
from ttc.errors import BackendError, MissingDependencyError
from ttc.plugins.targets import TARGETS

__all__ = ["compile_cubin", "compile_ptx", "is_cubin"]

# NVRTC writes its own newest PTX version, which an older driver refuses. Our kernels need none of the news: a
# version that knows the architecture will do, and conditional nodes (8.4, CUDA 12.4).
_OLDEST = 84


def compile_ptx(name: str, source: str, compute_capability: str) -> bytes:
    """Return PTX of a source for one compute capability ("9.0").

    Raises:
        MissingDependencyError: NVRTC is not installed.
        BackendError: it refuses the source; with its log.
    """
    ptx = _compile(name, source, compute_capability, "PTX")
    if compute_capability not in TARGETS:
        return ptx
    version = max(_OLDEST, TARGETS[compute_capability])
    line = f".version {version // 10}.{version % 10}".encode()
    return re.sub(rb"(?m)^\.version .*$", line, ptx, count=1)


def compile_cubin(name: str, source: str, compute_capability: str) -> bytes:
    """Return machine code of a source for one compute capability: for a driver that refuses the PTX. Raises
    as `compile_ptx`.
    """
    return _compile(name, source, compute_capability, "CUBIN")


def is_cubin(code: bytes) -> bool:
    """Return whether this is machine code; otherwise it is PTX."""
    return code.startswith(b"\x7fELF")


def _compile(name: str, source: str, compute_capability: str, form: str) -> bytes:
    try:
        from cuda.bindings import nvrtc
    except ImportError:
        raise _missing("it is not installed") from None
    kind = "sm" if form == "CUBIN" else "compute"
    architecture = f"--gpu-architecture={kind}_{compute_capability.replace('.', '')}"
    try:
        program = _checked(nvrtc.nvrtcCreateProgram(source.encode(), name.encode(), 0, [], []), name)
    except RuntimeError as fault:  # the library itself is looked for at the first call
        raise _missing(str(fault)) from None
    try:
        options = [architecture.encode(), b"--std=c++17"]
        (status,) = nvrtc.nvrtcCompileProgram(program, len(options), options)
        if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
            log = b" " * _checked(nvrtc.nvrtcGetProgramLogSize(program), name)
            nvrtc.nvrtcGetProgramLog(program, log)
            said = " ".join(log.rstrip(b"\0 ").decode(errors="replace").split())
            raise BackendError(f"kernel {name} does not compile for {compute_capability}: {said or status}")
        code: bytes = b" " * _checked(getattr(nvrtc, f"nvrtcGet{form}Size")(program), name)
        _checked(getattr(nvrtc, f"nvrtcGet{form}")(program, code), name)
        return code if form == "CUBIN" else code.rstrip(b"\0")
    finally:
        nvrtc.nvrtcDestroyProgram(program)


def _missing(why: str) -> MissingDependencyError:
    return MissingDependencyError(
        f"this kernel is compiled by NVRTC ({why}); install it with: {install('gpu')}"
    )


def _checked(answer: tuple[Any, ...], name: str) -> Any:
    """The value of a call of the bindings, whose first entry is the status."""
    status, *values = answer
    if int(status) != 0:
        raise BackendError(f"NVRTC fails at kernel {name}: {status}")
    return values[0] if values else None

"""CUDA C → PTX with NVRTC, which needs neither a GPU nor a driver."""

import re
from typing import Any

from ttc.errors import BackendError, MissingDependencyError
from ttc.plugins.targets import TARGETS

__all__ = ["compile_ptx"]

# NVRTC writes its own newest PTX version, which an older driver refuses. Our kernels need none of the news: a
# version that knows the architecture will do, and conditional nodes (8.4, CUDA 12.4).
_OLDEST = 84


def compile_ptx(name: str, source: str, compute_capability: str) -> bytes:
    """PTX of a source for one compute capability ("9.0").

    Raises `MissingDependencyError` where NVRTC is not installed, `BackendError` with its log where it refuses
    the source.
    """
    try:
        from cuda.bindings import nvrtc
    except ImportError:
        raise _missing("it is not installed") from None
    architecture = f"--gpu-architecture=compute_{compute_capability.replace('.', '')}"
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
        ptx: bytes = b" " * _checked(nvrtc.nvrtcGetPTXSize(program), name)
        _checked(nvrtc.nvrtcGetPTX(program, ptx), name)
        ptx = ptx.rstrip(b"\0")
        if compute_capability not in TARGETS:
            return ptx
        version = max(_OLDEST, TARGETS[compute_capability])
        line = f".version {version // 10}.{version % 10}".encode()
        return re.sub(rb"(?m)^\.version .*$", line, ptx, count=1)
    finally:
        nvrtc.nvrtcDestroyProgram(program)


def _missing(why: str) -> MissingDependencyError:
    return MissingDependencyError(
        f"this kernel is compiled by NVRTC ({why}); install it with: pip install 'ttc[gpu]'"
    )


def _checked(answer: tuple[Any, ...], name: str) -> Any:
    """The value of a call of the bindings, whose first entry is the status."""
    status, *values = answer
    if int(status) != 0:
        raise BackendError(f"NVRTC fails at kernel {name}: {status}")
    return values[0] if values else None

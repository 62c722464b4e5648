"""What an error of a GPU means for what comes after it.

Three kinds, told apart by words, because cuda.core, torch and TensorRT wrap CUDA's errors in classes of their
own and keep only its texts (those of cuGetErrorName, cudaGetErrorName and cudaGetErrorString):

- too little memory: `DeviceMemoryError`; everything works as before.
- a sticky one, which CUDA keeps in the process's context (an illegal address, a failed launch). CUDA's
  documentation says that the process must be ended and started again: every later call fails, also of a new
  engine. So none is tried on this GPU any more, and each says why.
- any other: `BackendError`; the next call may work.
"""

import re

from ttc.errors import BackendError, DeviceMemoryError

__all__ = ["Faults", "is_sticky"]

_MEMORY = re.compile("out.?of.?memory|cudaErrorMemoryAllocation", re.IGNORECASE)
# Driver name, runtime name, and text of the runtime.
_STICKY = (
    ("ILLEGAL_ADDRESS", "IllegalAddress", "illegal memory access was encountered"),
    ("LAUNCH_FAILED", "LaunchFailure", "unspecified launch failure"),
    ("LAUNCH_TIMEOUT", "LaunchTimeout", "the launch timed out and was terminated"),
    ("ILLEGAL_INSTRUCTION", "IllegalInstruction", "illegal instruction was encountered"),
    ("MISALIGNED_ADDRESS", "MisalignedAddress", "misaligned address"),
    ("INVALID_ADDRESS_SPACE", "InvalidAddressSpace", "not supported on global/shared address space"),
    ("INVALID_PC", "InvalidPc", "invalid program counter"),
    ("HARDWARE_STACK_ERROR", "HardwareStackError", "hardware stack error"),
    ("ASSERT", "Assert", "device-side assert triggered"),
    ("ECC_UNCORRECTABLE", "ECCUncorrectable", "uncorrectable ECC error"),
    ("NVLINK_UNCORRECTABLE", "NvlinkUncorrectable", "uncorrectable NVLink error"),
    ("CONTAINED", "Contained", "Invalid access of peer GPU memory over nvlink"),
    ("TENSOR_MEMORY_LEAK", "TensorMemoryLeak", "tensor memory not completely freed"),
    ("EXTERNAL_DEVICE", "ExternalDevice", "async error has occured in external entity"),
)
_STICKY_WORDS = re.compile(
    "|".join(
        rf"CUDA_ERROR_{driver}\b|cudaError{runtime}\b|{re.escape(text)}" for driver, runtime, text in _STICKY
    ),
    re.IGNORECASE,
)
# GPU → its sticky error, for the rest of the process.
_BROKEN: dict[str, str] = {}


def is_sticky(what: str) -> bool:
    """Return whether these words of CUDA, or of a library over it, tell of a sticky error."""
    return _STICKY_WORDS.search(what) is not None


class Faults:
    """The errors of one GPU.

    Args:
        gpu: its name, "cuda:0".
        broken: name of a GPU → its sticky error; by default the process's own.
    """

    def __init__(self, gpu: str, broken: dict[str, str] | None = None) -> None:
        self._gpu, self._broken = gpu, _BROKEN if broken is None else broken

    @property
    def sticky_error(self) -> str | None:
        """The earlier error that makes every call fail; None where there was none."""
        return self._broken.get(self._gpu)

    def check(self) -> None:
        """Raise `BackendError` where nothing can succeed any more."""
        if self.sticky_error is not None:
            raise BackendError(self.sticky_error)

    def error(self, what: str) -> BackendError:
        """Return the exception for what CUDA, or a library, said; a sticky one is remembered."""
        if is_sticky(what):
            self._broken[self._gpu] = (
                f"{self._gpu}: {what}; CUDA keeps this error for the rest of the process: "
                "close the engine and start the process again"
            )
            return BackendError(self._broken[self._gpu])
        if _MEMORY.search(what):
            return DeviceMemoryError(f"{self._gpu}: {what}")
        return BackendError(f"{self._gpu}: {what}")

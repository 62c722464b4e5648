"""What an error of a GPU means for what comes after it.

Three kinds, told apart by words, because cuda.core, torch and TensorRT wrap CUDA's errors in classes of their
own and keep only its texts (those of cuGetErrorName, cudaGetErrorName and cudaGetErrorString):

- too little memory: `DeviceMemoryError`; everything works as before.
- one that CUDA keeps in the process's context (an illegal address, a failed launch). CUDA's documentation
  says that the process must be ended and started again: every later call fails, also of a new engine.
  So none is tried on this GPU any more, and each says why.
- any other: `BackendError`; the next call may work.
"""

import re

from ttc.errors import BackendError, DeviceMemoryError

__all__ = ["Faults", "keeps_failing"]

_MEMORY = re.compile("out.?of.?memory|cudaErrorMemoryAllocation", re.IGNORECASE)
# Driver name, runtime name, and text of the runtime.
_KEPT = (
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
_KEPT_WORDS = re.compile(
    "|".join(
        rf"CUDA_ERROR_{driver}\b|cudaError{runtime}\b|{re.escape(text)}" for driver, runtime, text in _KEPT
    ),
    re.IGNORECASE,
)
# GPU → the error that its context keeps, for the rest of the process.
_BROKEN: dict[str, str] = {}


def keeps_failing(what: str) -> bool:
    """Whether these words of CUDA, or of a library over it, tell of an error that stays."""
    return _KEPT_WORDS.search(what) is not None


class Faults:
    """The errors of one GPU. `broken`: name of a GPU → the error it keeps; by default the process's own."""

    def __init__(self, gpu: str, broken: dict[str, str] | None = None) -> None:
        self._gpu, self._broken = gpu, _BROKEN if broken is None else broken

    @property
    def kept(self) -> bool:
        """Whether an earlier error makes every call fail."""
        return self._gpu in self._broken

    def check(self) -> None:
        """Raise `BackendError` where nothing can succeed any more."""
        if self.kept:
            raise BackendError(self._broken[self._gpu])

    def error(self, what: str) -> BackendError:
        """The exception for what CUDA, or a library, said; one that stays is remembered."""
        if keeps_failing(what):
            self._broken[self._gpu] = (
                f"{self._gpu}: {what}; CUDA keeps this error for the rest of the process: "
                "close the engine and start the process again"
            )
            return BackendError(self._broken[self._gpu])
        if _MEMORY.search(what):
            return DeviceMemoryError(f"{self._gpu}: {what}")
        return BackendError(f"{self._gpu}: {what}")

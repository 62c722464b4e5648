"""How a backend is to be loaded."""

import numbers
import os
from collections.abc import Callable
from dataclasses import dataclass

from ttc.errors import InputError
from ttc.formats.strictjson import quoted

__all__ = ["LoadSettings"]


@dataclass(frozen=True, slots=True)
class LoadSettings:
    """What `ttc.load` was given for the backend; None means the backend's own choice.

    Attributes:
        device: "cpu", "cuda", "cuda:N", or two GPUs with a comma between them.
        threads: CPU threads per call, 1 to 1024.
        engines: folder of TensorRT engines.  trust: PEM file of the key that must have signed them.
        engines_sha256: digest that their manifest must have.
        graph_level: highest level of CUDA graphs.
        sparse_experts: compute each expert for the tokens that chose it alone, where that is a choice.
        progress: called with (bytes done, bytes in all) while weights go to a device.
        provider: execution provider of ONNX Runtime.
    """

    device: str | None = None
    threads: int | None = None
    engines: str | os.PathLike[str] | None = None
    trust: str | os.PathLike[str] | None = None
    graph_level: int | None = None
    sparse_experts: bool = False
    progress: Callable[[int, int], None] | None = None
    engines_sha256: str | None = None
    provider: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.sparse_experts, bool):
            raise InputError(f"sparse_experts is {quoted(self.sparse_experts)}; valid: True or False")
        if self.threads is not None and not _is_threads(self.threads):
            raise InputError(f"threads is {quoted(self.threads)}; valid: 1 to 1024")

    def refuse_engines(self, backend: str) -> None:
        """For backends that run no engines."""
        if self.engines is not None:
            raise InputError(f"backend {backend!r} runs no engines; leave out engines")

    def refuse_provider(self, backend: str) -> None:
        """For backends that are not ONNX Runtime's."""
        if self.provider is not None:
            raise InputError(f"provider is for backend 'onnxruntime', not {backend!r}; leave it out")

    def refuse_sparse_experts(self, where: str, why: str) -> None:
        """For what has no such choice."""
        if self.sparse_experts:
            raise InputError(f"sparse_experts is for backend 'onnxruntime' on the CPU; {where} {why}")

    def refuse_cuda_graphs(self, where: str) -> None:
        """For backends without CUDA graphs."""
        if self.graph_level not in (None, 0):
            raise InputError(f"{where} has no CUDA graphs; leave out graph_level, or give 0")


def _is_threads(value: object) -> bool:
    return not isinstance(value, bool) and isinstance(value, numbers.Integral) and 1 <= int(value) <= 1024

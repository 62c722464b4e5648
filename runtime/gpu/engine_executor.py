"""Graphs as engines: whole ones, or cut into segments with kernels between them.

Tokens are chosen by a kernel of ours in either form: the choice is no graph of a bundle, and the engine of
the step graph has one mask id and the block sizes it was built for.
"""

from collections.abc import Mapping, Sequence

from ttc.errors import BackendError, BundleError
from ttc.formats.engines import EngineRecord
from ttc.formats.program import OP, Instruction
from ttc.plugins.diffusion_step import DIFFUSION_PREDICT
from ttc.runtime.gpu.closing import close_all
from ttc.runtime.gpu.device import DeviceArray, Enqueue, Scope
from ttc.runtime.gpu.engine_files import Engines
from ttc.runtime.gpu.executor import UNUSED_MASK_ID, Executor
from ttc.runtime.gpu.partitioned import InstructionBinder, PartitionedGraph
from ttc.runtime.gpu.profiler import ProfiledBinder, Profiler
from ttc.runtime.gpu.ptx_ops import PtxOps
from ttc.runtime.gpu.tensorrt import EngineBinder

__all__ = ["EngineExecutor", "weight_names"]


class EngineExecutor(Executor):
    """Computes the graphs of these roles by engines.

    Args:
        name: of the backend.
        engines: checked.
        roles: of the graphs to compute.
        binder: binds engines to tensors.
        ops: binds the ops between segments.
        weights: name → weight that engines take as an input.
        weight_scope: their memory, closed with the executor.
        profiler: sees what is put on the stream.
    """

    def __init__(
        self,
        name: str,
        engines: Engines,
        roles: Sequence[str],
        binder: EngineBinder,
        ops: PtxOps,
        weights: Mapping[str, DeviceArray],
        weight_scope: Scope,
        profiler: Profiler | None = None,
    ) -> None:
        manifest = engines.folder.manifest
        self.name, self.compute_dtype = name, str(manifest.compute_dtype)
        self.limits = engines.limits
        self._binder, self._weights, self._weight_scope = binder, weights, weight_scope
        self._records = {} if engines.cut else manifest.engines
        binders: list[InstructionBinder] = [binder, ops]
        if profiler is not None:
            binders = [ProfiledBinder(binder, profiler) for binder in binders]
        self._programs = {
            role: PartitionedGraph(engines.folder.program(role), *binders)
            for role in manifest.programs
            if role in roles
        }
        self._ops = binders[1]
        self._closed = False

    @property
    def capture_problem(self) -> str | None:  # type: ignore[override]  # known when an engine has run
        """What TensorRT said of capturing, if it was bad."""
        return self._binder.capture_problem

    def bind(
        self, scope: Scope, role: str, tensors: Mapping[str, DeviceArray], sizes: Mapping[str, int]
    ) -> Enqueue:
        if self._closed:
            raise BackendError("the engine is closed; load the bundle again")
        if role == "sample":
            inputs, outputs = (
                [spec.name for spec in specs]
                for specs in (DIFFUSION_PREDICT.inputs, DIFFUSION_PREDICT.outputs)
            )
            instruction = Instruction(
                OP, DIFFUSION_PREDICT.name, tuple(inputs), tuple(outputs), {"mask_id": UNUSED_MASK_ID}
            )
            return self._ops(scope, instruction, [tensors[n] for n in inputs], [tensors[n] for n in outputs])
        everything = {**self._weights, **tensors}
        if role in self._programs:
            return self._programs[role].bind(scope, everything, sizes)
        for name, record in self._records.items():
            if record.role == role and _takes(record, everything):
                return self._binder.bind(scope, name, everything)
        raise BundleError(f"no engine computes {role} at the sizes {dict(sizes)}; build again for them")

    def close(self) -> None:
        self._closed = True
        close_all([self._binder.close, self._programs.clear, self._weight_scope.close])


def _takes(record: EngineRecord, tensors: Mapping[str, DeviceArray]) -> bool:
    """Return whether an engine was built for inputs of these shapes, and gives what is wanted of it."""
    return all(tensor.name in tensors for tensor in record.outputs) and all(
        tensor.name in tensors
        and len(tensors[tensor.name].shape) == len(tensor.min)
        and all(
            low <= size <= high
            for low, size, high in zip(tensor.min, tensors[tensor.name].shape, tensor.max, strict=True)
        )
        for tensor in record.inputs
    )


def weight_names(engines: Engines, roles: Sequence[str]) -> list[str]:
    """Return the weights that the engines of these roles take as inputs; none where they are baked in."""
    manifest = engines.folder.manifest
    if engines.cut:
        found = {
            name: None
            for role in manifest.programs
            if role in roles
            for name, buffer in engines.folder.program(role).buffers.items()
            if buffer.role == "weight"
        }
    else:
        found = {
            tensor.name: None
            for engine in manifest.engines.values()
            if engine.role in roles
            for tensor in engine.inputs
            if tensor.kind == "weight"
        }
    return list(found)

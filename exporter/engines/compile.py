"""One network → one serialised engine. Runs in a process of its own (`ttc.exporter.engines.worker`)."""

from collections.abc import Callable
from typing import Any

from ttc.base.dtypes import tensorrt_name
from ttc.errors import BackendError
from ttc.exporter.engines.build_phases import BuildPhase, timed_phase
from ttc.exporter.engines.engine_spec import BuiltEngine, EngineSpec
from ttc.exporter.engines.tensorrt_api import TensorRT
from ttc.formats.engines import TensorRecord

__all__ = ["Compiler"]


class Compiler:
    """Builds engines with one backend, for one list of targets.

    Attributes:
        timing_cache: its content: to start from and, after a build, what it has become (TensorRT only).
    """

    def __init__(
        self,
        backend: TensorRT,
        targets: tuple[str, ...],
        step: Callable[[str, int, int], bool],
        timing_cache: bytes | None = None,
    ) -> None:
        """`step`: see `TensorRT.progress_monitor`."""
        self._backend, self._targets = backend, targets
        self._messages: list[str] = []
        self._logger = backend.logger(self._log)
        self._monitor = backend.progress_monitor(step)
        self.timing_cache = timing_cache

    def build(self, spec: EngineSpec) -> BuiltEngine:
        """Parse the network, check that it is what the spec says, and build it for the spec's ranges.

        Raises:
            BackendError: the library refuses, with what it said.
        """
        phases: dict[str, BuildPhase] = {}
        self._messages.clear()
        api = self._backend.api
        builder = api.Builder(self._logger)
        builder.max_threads = 1
        network = self._backend.network(builder)
        parser = api.OnnxParser(network, self._logger)
        onnx = spec.network()
        with timed_phase(phases, "parse"):
            parsed = parser.parse(onnx)
        if not parsed:
            raise self._refusal(spec, "does not parse", _parser_errors(parser))
        _check_contract(api, network, spec)
        config = self._backend.config(builder, self._targets)
        config.progress_monitor = self._monitor
        config.add_optimization_profile(_profile(builder, spec))
        if self.timing_cache is not None:
            self._backend.use_timing_cache(config, self.timing_cache)
        with timed_phase(phases, "build"):
            engine = builder.build_serialized_network(network, config)
        if engine is None:
            raise self._refusal(spec, "cannot be built", [])
        if self.timing_cache is not None:
            self.timing_cache = self._backend.timing_cache(config)
        layers = tuple(
            (str(layer.type).rpartition(".")[2], str(layer.name))
            for layer in (network.get_layer(i) for i in range(network.num_layers))
        )
        return BuiltEngine(bytes(engine), layers, phases)

    def _log(self, severity: str, text: str) -> None:
        if severity == "error":
            self._messages.append(" ".join(text.split()))

    def _refusal(self, spec: EngineSpec, what: str, parsed: list[str]) -> BackendError:
        said = "; ".join([*parsed, *self._messages][:3]) or "the library gave no reason"
        return BackendError(
            f"{spec.name}: {what} with {self._backend.backend} {self._backend.version}: {said}"
        )


def _parser_errors(parser: Any) -> list[str]:
    found = []
    for i in range(parser.num_errors):
        error = parser.get_error(i)
        found.append(
            f"node {error.node_name() or error.node()} ({error.node_operator()}): "
            + " ".join(error.desc().split())
        )
    return found


def _profile(builder: Any, spec: EngineSpec) -> Any:
    profile = builder.create_optimization_profile()
    for tensor in spec.inputs:
        if any(isinstance(dim, str) for dim in tensor.shape):
            profile.set_shape(tensor.name, tensor.min, tensor.opt, tensor.max)
            read = tuple(tuple(shape) for shape in profile.get_shape(tensor.name))
            if read != (tensor.min, tensor.opt, tensor.max):
                raise BackendError(f"{spec.name}: the library took the range of {tensor.name} as {read}")
    return profile


def _check_contract(api: Any, network: Any, spec: EngineSpec) -> None:
    """Raise `BackendError` unless what the parser made has the tensors that the graph has."""
    made = (
        [network.get_input(i) for i in range(network.num_inputs)],
        [network.get_output(i) for i in range(network.num_outputs)],
    )
    for tensors, expected in zip(made, (spec.inputs, spec.outputs), strict=True):
        found = {tensor.name: (tensor.dtype, tuple(tensor.shape)) for tensor in tensors}
        if len(found) != len(expected):
            raise BackendError(
                f"{spec.name}: the network has {len(found)} inputs or outputs, the graph {len(expected)}"
            )
        for record in expected:
            _check_tensor(api, spec, record, found.get(record.name))


def _check_tensor(
    api: Any, spec: EngineSpec, record: TensorRecord, found: tuple[Any, tuple[int, ...]] | None
) -> None:
    dtype = getattr(api.DataType, tensorrt_name(record.dtype))
    shape = tuple(-1 if isinstance(dim, str) else dim for dim in record.shape)
    known = found is not None and found[0] == dtype and len(found[1]) == len(shape)
    # The parser may not see that an output's dimension is static; the other way round is a fault.
    if not known or any(a not in (-1, b) for a, b in zip(found[1] if found else (), shape, strict=False)):
        raise BackendError(
            f"{spec.name}: tensor {record.name} is {found} in the network, due is {dtype} {list(shape)}"
        )

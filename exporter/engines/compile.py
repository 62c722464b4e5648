"""One network → one serialised engine. Runs in a process of its own (`ttc.exporter.engines.worker`)."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ttc.base.dtypes import tensorrt_dtypes, tensorrt_name
from ttc.errors import BackendError
from ttc.exporter.engines.build_phases import BuildPhase, timed_phase
from ttc.exporter.engines.engine_spec import LOG_FILE, BuiltEngine, CompilerOptions, EngineSpec, Layer
from ttc.exporter.engines.network import NAMELESS, Network, NetworkTensor
from ttc.exporter.engines.tensorrt_api import TensorRT
from ttc.formats.engines import TensorRecord

__all__ = ["Compiler"]


class Compiler:
    """Builds engines with one backend.

    Attributes:
        timing_cache: its content: to start from and, after a build, what it has become (TensorRT only).
    """

    def __init__(
        self,
        backend: TensorRT,
        options: CompilerOptions,
        step: Callable[[str, int, int], bool],
        timing_cache: bytes | None = None,
    ) -> None:
        """`step`: see `TensorRT.progress_monitor`."""
        self._backend, self._options = backend, options
        self._messages: list[str] = []
        self._log_path = Path(LOG_FILE).absolute() if options.verbose else None
        self._logger = backend.logger(self._log, options.verbose)
        self._monitor = backend.progress_monitor(step)
        self.timing_cache = timing_cache
        backend.register_plugins(options.targets)
        backend.load_plugins(self._logger, options.plugins)

    def parse(self, folder: Path, name: str) -> Network:
        """Return what the library makes of the network in a folder.

        Raises:
            BackendError: the library refuses, with what it said.
        """
        _, network, _ = self._parsed(folder, name, is_ours=False)
        return Network(
            tuple(_tensor(network.get_input(i)) for i in range(network.num_inputs)),
            tuple(_tensor(network.get_output(i)) for i in range(network.num_outputs)),
            network.num_layers,
        )

    def build(self, spec: EngineSpec, folder: Path) -> BuiltEngine:
        """Parse the network in a folder, check that it is what the spec says, and build it for its ranges.

        The engine is written into the folder too.

        Raises:
            BackendError: the library refuses, with what it said.
        """
        phases: dict[str, BuildPhase] = {}
        with timed_phase(phases, "parse"):
            builder, network, parser = self._parsed(folder, spec.name, spec.is_ours)
        if spec.is_ours:
            _check_contract(self._backend.api, network, spec)
        config = self._backend.config(builder, self._options)
        config.progress_monitor = self._monitor
        config.add_optimization_profile(_profile(builder, spec))
        if self.timing_cache is not None:
            self._backend.use_timing_cache(config, self.timing_cache, self._options.named_timings)
        file = BuiltEngine.engine_file(folder)
        with timed_phase(phases, "build"), file.open("wb") as engine:
            done = self._backend.build(builder, network, config, engine)
        if not done:
            raise self._refusal(spec.name, "cannot be built", [])
        if self.timing_cache is not None:
            self.timing_cache = self._backend.timing_cache(config)
        layers = tuple(_layer(network.get_layer(i)) for i in range(network.num_layers))
        del parser  # which holds the weights until the engine is built
        return BuiltEngine(file, layers, phases)

    def _parsed(self, folder: Path, name: str, is_ours: bool) -> tuple[Any, Any, Any]:
        """Return builder, network and parser, which the network needs as long as it lives."""
        self._messages.clear()
        builder = self._backend.builder(self._logger)
        network = self._backend.network(builder)
        parser = self._backend.api.OnnxParser(network, self._logger)
        file = folder / "network.onnx"
        # Our networks have their weights inside; those of other people may have them beside the file.
        if not (parser.parse(file.read_bytes()) if is_ours else parser.parse_from_file(str(file))):
            raise self._refusal(name, "does not parse", list(_parser_errors(parser)))
        return builder, network, parser

    def _log(self, severity: str, text: str) -> None:
        if severity == "error":
            self._messages.append(" ".join(text.split()))
        if self._log_path is not None:
            with self._log_path.open("a", encoding="utf-8", errors="backslashreplace") as file:
                file.write(f"[{severity}] {text}\n")

    def _refusal(self, name: str, what: str, parsed: list[str]) -> BackendError:
        said = "; ".join([*parsed, *self._messages][:3]) or "the library gave no reason"
        return BackendError(f"{name}: {what} with {self._backend.backend} {self._backend.version}: {said}")


def _parser_errors(parser: Any) -> Iterator[str]:
    for i in range(parser.num_errors):
        error = parser.get_error(i)
        who = error.node_name() or error.node()
        yield f"node {who} ({error.node_operator()}): {' '.join(error.desc().split())}"


def _profile(builder: Any, spec: EngineSpec) -> Any:
    profile = builder.create_optimization_profile()
    for tensor in spec.inputs:
        if tensor.kind == "shape":
            profile.set_shape_input(tensor.name, tensor.min, tensor.opt, tensor.max)
            read = tuple(tuple(values) for values in profile.get_shape_input(tensor.name))
        elif any(isinstance(dim, str) for dim in tensor.shape):
            profile.set_shape(tensor.name, tensor.min, tensor.opt, tensor.max)
            read = tuple(tuple(shape) for shape in profile.get_shape(tensor.name))
        else:
            continue
        if read != (tensor.min, tensor.opt, tensor.max):
            raise BackendError(f"{spec.name}: the library took the range of {tensor.name} as {read}")
    return profile


_DTYPES = {tensorrt_name(dtype): dtype for dtype in tensorrt_dtypes()}


def _tensor(tensor: Any) -> NetworkTensor:
    shape = tuple(
        (tensor.get_dimension_name(i) or NAMELESS) if size < 0 else size
        for i, size in enumerate(_dims(tensor) or ())
    )
    return NetworkTensor(tensor.name, _dtype(tensor), shape, bool(tensor.is_shape_tensor))


def _dtype(tensor: Any) -> str:
    name = str(tensor.dtype).rpartition(".")[2]
    return _DTYPES.get(name, name.lower())


def _dims(tensor: Any) -> list[int] | None:
    """Return a shape as the library tells it, -1 where a size is open; None where the rank is unknown."""
    try:
        return [int(size) for size in tensor.shape]
    except ValueError:
        return None


def _layer(layer: Any) -> Layer:
    return {
        "Name": str(layer.name),
        "LayerType": str(layer.type).rpartition(".")[2],
        "Inputs": [_used(layer.get_input(i)) for i in range(layer.num_inputs)],
        "Outputs": [_used(layer.get_output(i)) for i in range(layer.num_outputs)],
        "Metadata": str(layer.metadata),
    }


def _used(tensor: Any) -> dict[str, Any] | None:
    if tensor is None:
        return None
    return {"Name": str(tensor.name), "Dimensions": _dims(tensor), "Format/Datatype": _dtype(tensor)}


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

"""One engine to build, and what became of it: both as files too, since another process builds it.

The process that builds (`ttc.exporter.engines.worker`) imports this module, which therefore needs no ONNX
library: what that process allocates moves the order of tensors in its engine.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from ttc.errors import BundleError
from ttc.exporter.engines.build_phases import BuildPhase
from ttc.formats.engines import TensorRecord
from ttc.formats.strictjson import Fields, parse_json

__all__ = ["FAILED", "LOG_FILE", "BuiltEngine", "CompilerOptions", "EngineSpec", "Layer"]

# First word of the line by which the process says that there is no engine, and why.
FAILED = "failed"
LOG_FILE = "log.txt"

_SPEC_FILE, _NETWORK_FILE = "spec.json", "network.onnx"
_RESULT_FILE, _ENGINE_FILE = "result.json", "engine"
# One layer of a network, as `trtexec --exportLayerInfo` writes it.
Layer = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class CompilerOptions:
    """How a process builds, whatever it builds.

    Attributes:
        backend: "tensorrt-rtx" or "tensorrt".
        targets: compute capabilities; empty: what the backend builds for by default.
        plugins: files with plugins of other people: shared libraries and Python modules (TensorRT only).
        tf32: whether products of float32 may be computed in TF32.
        verbose: whether everything that the library says is kept, in `LOG_FILE` of the work's folder.
        named_timings: whether the user named the timing cache, which then must fit.
        offline: whether nothing is built by a process that cannot be kept off the network.
    """

    backend: str
    targets: tuple[str, ...] = ()
    plugins: tuple[str, ...] = ()
    tf32: bool = False
    verbose: bool = False
    named_timings: bool = False
    offline: bool = False

    def to_json(self) -> str:
        """Return it as one word of a command line."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` wrote."""
        content = json.loads(text)
        return cls(**content | {key: tuple(content[key]) for key in ("targets", "plugins")})


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """One engine to build.

    Attributes:
        name: of the engine.
        role: of the graph that the engine is, or is a part of.
        inputs: what the network takes, with the profile's ranges.
        outputs: what the network gives, likewise.
        write_network: writes the network into a folder, as network.onnx with its weights inside or beside it.
            A function, since a network with its weights is large, and no more than one at a time should be in
            memory.
        is_ours: whether ttc made the network: the engine then has exactly these inputs and outputs.
    """

    name: str
    role: str
    inputs: tuple[TensorRecord, ...]
    outputs: tuple[TensorRecord, ...]
    write_network: Callable[[Path], None]
    is_ours: bool = True

    def write(self, folder: Path) -> None:
        """Write the spec and its network into a folder."""
        self.write_network(folder)
        self.write_ranges(folder)

    def write_ranges(self, folder: Path) -> None:
        """Write all but the network, which is in the folder already."""
        content: dict[str, Any] = {"name": self.name, "role": self.role, "is_ours": self.is_ours}
        for key, tensors in (("inputs", self.inputs), ("outputs", self.outputs)):
            content[key] = [dataclasses.asdict(tensor) for tensor in tensors]
        (folder / _SPEC_FILE).write_text(json.dumps(content))

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read what `write` wrote; the network stays where it is."""
        content = parse_json((folder / _SPEC_FILE).read_bytes(), _SPEC_FILE, BundleError)
        fields = Fields(content, _SPEC_FILE, BundleError)
        spec = cls(
            fields.string("name"),
            fields.string("role"),
            _tensors(fields, "inputs"),
            _tensors(fields, "outputs"),
            lambda other: None,
            fields.boolean("is_ours"),
        )
        fields.end()
        return spec


def _tensors(fields: Fields, key: str) -> tuple[TensorRecord, ...]:
    where = f"{_SPEC_FILE}: {key}"
    return tuple(TensorRecord.take(Fields(item, where, BundleError)) for item in fields.items(key))


@dataclass(frozen=True, slots=True)
class BuiltEngine:
    """A serialised engine, which lies in a file.

    Attributes:
        file: with its bytes.
        layers: those of its network.
        phases: "parse" and "build".
        is_fixed: whether the process that built it had its memory at fixed addresses, so that the next one
            gives the same bytes (TensorRT-RTX only).
        is_offline: whether that process was kept off the network.
    """

    file: Path
    layers: tuple[Layer, ...]
    phases: Mapping[str, BuildPhase]
    is_fixed: bool = False
    is_offline: bool = False

    @staticmethod
    def engine_file(folder: Path) -> Path:
        """Return where the engine is to be written, before its description."""
        return folder / _ENGINE_FILE

    def write(self, folder: Path) -> None:
        """Write the description: where that is, the engine is whole."""
        phases = {name: dataclasses.asdict(phase) for name, phase in self.phases.items()}
        result = {"layers": self.layers, "phases": phases, "is_fixed": self.is_fixed}
        result["is_offline"] = self.is_offline
        (folder / _RESULT_FILE).write_text(json.dumps(result))

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """Read what `write` wrote; None where it wrote nothing."""
        if not (folder / _RESULT_FILE).is_file():
            return None
        found = json.loads((folder / _RESULT_FILE).read_bytes())
        phases = {name: BuildPhase(**told) for name, told in found["phases"].items()}
        return cls(
            cls.engine_file(folder), tuple(found["layers"]), phases, found["is_fixed"], found["is_offline"]
        )

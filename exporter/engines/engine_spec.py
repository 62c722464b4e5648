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

__all__ = ["FAILED", "BuiltEngine", "EngineSpec"]

# First word of the line by which the process says that there is no engine, and why.
FAILED = "failed"

_SPEC_FILE, _NETWORK_FILE = "spec.json", "network.onnx"
_RESULT_FILE, _ENGINE_FILE = "result.json", "engine"


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """One engine to build.

    Attributes:
        name: of the engine.
        role: of the graph that the engine is, or is a part of.
        inputs: what the network must take, with the profile's ranges.
        outputs: what the network must give, likewise.
        network: returns the network as serialised ONNX. A function, since a network with its weights is
            large, and no more than one at a time should be in memory.
    """

    name: str
    role: str
    inputs: tuple[TensorRecord, ...]
    outputs: tuple[TensorRecord, ...]
    network: Callable[[], bytes]

    def write(self, folder: Path) -> None:
        """Write the spec and its network into a folder."""
        (folder / _NETWORK_FILE).write_bytes(self.network())
        content: dict[str, Any] = {"name": self.name, "role": self.role}
        for key, tensors in (("inputs", self.inputs), ("outputs", self.outputs)):
            content[key] = [dataclasses.asdict(tensor) for tensor in tensors]
        (folder / _SPEC_FILE).write_text(json.dumps(content))

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read what `write` wrote."""
        content = parse_json((folder / _SPEC_FILE).read_bytes(), _SPEC_FILE, BundleError)
        fields = Fields(content, _SPEC_FILE, BundleError)
        spec = cls(
            fields.string("name"),
            fields.string("role"),
            _tensors(fields, "inputs"),
            _tensors(fields, "outputs"),
            (folder / _NETWORK_FILE).read_bytes,
        )
        fields.end()
        return spec


def _tensors(fields: Fields, key: str) -> tuple[TensorRecord, ...]:
    where = f"{_SPEC_FILE}: {key}"
    return tuple(TensorRecord.take(Fields(item, where, BundleError)) for item in fields.items(key))


@dataclass(frozen=True, slots=True)
class BuiltEngine:
    """A serialised engine.

    Attributes:
        engine: its bytes.
        layers: those of its network, as (type, name).
        phases: "parse" and "build".
    """

    engine: bytes
    layers: tuple[tuple[str, str], ...]
    phases: Mapping[str, BuildPhase]

    def write(self, folder: Path) -> None:
        """Write the engine, then its description: where that is, the engine is whole."""
        (folder / _ENGINE_FILE).write_bytes(self.engine)
        phases = {name: dataclasses.asdict(phase) for name, phase in self.phases.items()}
        (folder / _RESULT_FILE).write_text(json.dumps({"layers": self.layers, "phases": phases}))

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """Read what `write` wrote; None where it wrote nothing."""
        if not (folder / _RESULT_FILE).is_file():
            return None
        found = json.loads((folder / _RESULT_FILE).read_bytes())
        layers = tuple((kind, name) for kind, name in found["layers"])
        phases = {name: BuildPhase(**told) for name, told in found["phases"].items()}
        return cls((folder / _ENGINE_FILE).read_bytes(), layers, phases)

"""What `ttc build` is given: a bundle, one of its graphs as a single file, or an ONNX file of
another exporter.
"""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from ttc.errors import BundleError, InputError
from ttc.exporter.passes.describe import PREFIX
from ttc.exporter.passes.initializers_to_inputs import initializers_to_inputs
from ttc.formats.bundle import graph_digest
from ttc.formats.manifest import GRAPH_ROLES
from ttc.formats.strictjson import parse_json, quoted
from ttc.model.bundle import Bundle
from ttc.model.config import ModelConfig
from ttc.model.rewrites import caches_to_new_kv

__all__ = ["BuildInput", "GraphSource", "read_build_input"]


@dataclass(frozen=True, slots=True)
class GraphSource:
    """One ONNX file to build.

    Attributes:
        role: the graph's role; of a third-party graph the file's name without its ending.
        path: the file.
        sha256: digest of the file and its external data (`ttc.formats.bundle.graph_digest`).
        third_party: whether it was not exported by ttc.
        config: the model that it is a part of; None for a third-party graph.
        compute_dtype: the model's; None for a third-party graph.
    """

    role: str
    path: Path
    sha256: str
    third_party: bool
    config: ModelConfig | None
    compute_dtype: str | None

    def network_model(self, bake: bool) -> ir.Model:
        """Return a fresh copy of the graph as engines are built from it; external data is still on disk.

        Args:
            bake: whether the weights stay inside, as initializers; else they are inputs.
        """
        model = _load(self.path)
        if self.third_party:
            return model
        if not bake:
            initializers_to_inputs(model)
        if self.role == "context":
            caches_to_new_kv(model)
        return model


@dataclass(frozen=True, slots=True)
class BuildInput:
    """All graphs to build.

    Attributes:
        path: the bundle's folder, or the ONNX file.
        graphs: in the order of their roles.
        default_output: where the engines go unless another folder is named.
    """

    path: Path
    graphs: tuple[GraphSource, ...]
    default_output: Path


def read_build_input(path: str | os.PathLike[str]) -> BuildInput:
    """Open a bundle's folder (its digests are checked) or an `.onnx` file.

    Raises:
        BundleError: a damaged bundle.
        InputError: neither a bundle nor an ONNX file that can be read.
    """
    found = Path(path)
    if found.is_dir():
        return _bundle(found)
    if not found.is_file():
        raise InputError(
            f"{found}: no such file or folder; give a bundle made by `ttc export`, or an .onnx file"
        )
    graph = _single(found)
    return BuildInput(found, (graph,), found.with_name(f"{found.stem}.engines"))


def _bundle(folder: Path) -> BuildInput:
    with Bundle.open(folder) as bundle:
        graphs = tuple(
            GraphSource(
                role,
                bundle.graph_path(role),
                _digest(bundle.graph_path(role), _external(_load(bundle.graph_path(role)))),
                False,
                bundle.config,
                bundle.compute_dtype,
            )
            for role in GRAPH_ROLES
            if role in bundle.manifest.graphs
        )
    return BuildInput(folder, graphs, folder / "engines")


def _single(path: Path) -> GraphSource:
    model = _load(path)
    digest = _digest(path, _external(model))
    properties = model.metadata_props
    role = properties.get(f"{PREFIX}role")
    if role is None:
        return GraphSource(path.stem, path, digest, True, None, None)
    text, dtype = properties.get(f"{PREFIX}model", ""), properties.get(f"{PREFIX}compute_dtype")
    if role not in GRAPH_ROLES or dtype is None:
        raise InputError(
            f"{path}: its metadata says role {quoted(role)}, dtype {quoted(dtype)}; export it again"
        )
    where = f"{path}: {PREFIX}model"
    config = ModelConfig.from_dict(parse_json(text.encode(), where, BundleError), where)
    return GraphSource(role, path, digest, False, config, dtype)


def _load(path: Path) -> ir.Model:
    try:
        return ir.load(path)
    except Exception as fault:  # whatever the library finds wrong in a file
        reason = " ".join(str(fault).split())[:200]
        raise InputError(f"{path}: not an ONNX file that can be read ({reason})") from None


def _external(model: ir.Model) -> list[Path]:
    """The files that initializers lie in; `InputError` where one is missing or too short."""
    found: dict[Path, None] = {}
    for name, value in model.graph.initializers.items():
        tensor = value.const_value
        if not isinstance(tensor, ir.ExternalTensor):
            continue
        file = Path(tensor.path)
        end = (tensor.offset or 0) + (tensor.length or tensor.nbytes)
        if not file.is_file() or file.stat().st_size < end:
            raise InputError(
                f"{file}: missing or shorter than the {end} bytes that initializer {quoted(name)} "
                "needs of it; keep the external data beside the .onnx file"
            )
        found[file] = None
    return list(found)


def _digest(path: Path, external: list[Path]) -> str:
    digests = []
    for file in (path, *external):
        with file.open("rb") as content:
            digests.append(hashlib.file_digest(content, "sha256").hexdigest())
    return graph_digest(digests[0], digests[1:])

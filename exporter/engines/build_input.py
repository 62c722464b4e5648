"""What `ttc build` is given: a bundle, one of its graphs as a single file, or an ONNX file of
another exporter.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from ttc.errors import BundleError, InputError
from ttc.exporter.engines.onnx_file import OnnxFile
from ttc.exporter.passes.describe import PREFIX
from ttc.exporter.passes.initializers_to_inputs import initializers_to_inputs
from ttc.formats.manifest import GRAPH_ROLES
from ttc.formats.strictjson import parse_json, quoted
from ttc.model.bundle import Bundle
from ttc.model.config import ModelConfig
from ttc.model.rewrites import caches_to_new_kv

__all__ = ["BuildInput", "GraphSource", "read_build_input"]


@dataclass(frozen=True, slots=True)
class GraphSource:
    """One graph that ttc exported.

    Attributes:
        role: the graph's role.
        path: the file.
        sha256: digest of the file and its external data (`ttc.formats.bundle.graph_digest`).
        config: the model that it is a part of.
        compute_dtype: the model's.
    """

    role: str
    path: Path
    sha256: str
    config: ModelConfig
    compute_dtype: str

    def network_model(self, bake: bool) -> ir.Model:
        """Return a fresh copy of the graph as engines are built from it; external data is still on disk.

        Args:
            bake: whether the weights stay inside, as initializers; else they are inputs.
        """
        model = _load(self.path)
        if not bake:
            initializers_to_inputs(model)
        if self.role == "context":
            caches_to_new_kv(model)
        return model


@dataclass(frozen=True, slots=True)
class BuildInput:
    """Graphs of ours to build.

    Attributes:
        path: the bundle's folder, or the file of one graph.
        graphs: in the order of their roles.
        default_output: where the engines go unless another folder is named.
    """

    path: Path
    graphs: tuple[GraphSource, ...]
    default_output: Path


def read_build_input(
    path: str | os.PathLike[str], checkpoint: str | os.PathLike[str] | None = None
) -> BuildInput | OnnxFile:
    """Open a bundle's folder (its digests are checked) or an `.onnx` file.

    Args:
        path: of the folder or file.
        checkpoint: where the checkpoint of a bundle by reference lies now, if it was moved.

    Returns:
        Our graphs, or the file of another exporter.

    Raises:
        BundleError: a damaged bundle.
        InputError: neither a bundle nor an ONNX file that can be read.
    """
    found = Path(path)
    if found.is_dir():
        return _bundle(found, checkpoint)
    if checkpoint is not None:
        raise InputError(f"{found}: not a bundle; --checkpoint goes with a bundle by reference only")
    if not found.exists():
        raise InputError(
            f"{found}: no such file or folder; give a bundle made by `ttc export`, or an .onnx file"
        )
    file = OnnxFile.open(found)
    properties = {entry.key: entry.value for entry in file.proto.metadata_props}
    if f"{PREFIX}role" not in properties:
        return file
    return BuildInput(found, (_single(file, properties),), found.with_name(f"{found.stem}.engines"))


def _bundle(folder: Path, checkpoint: str | os.PathLike[str] | None) -> BuildInput:
    with Bundle.open(folder, checkpoint) as bundle:
        graphs = tuple(
            GraphSource(
                role,
                bundle.graph_path(role),
                OnnxFile.open(bundle.graph_path(role)).digest(),
                bundle.config,
                bundle.compute_dtype,
            )
            for role in GRAPH_ROLES
            if role in bundle.manifest.graphs
        )
    return BuildInput(folder, graphs, folder / "engines")


def _single(file: OnnxFile, properties: Mapping[str, str]) -> GraphSource:
    role, dtype = properties[f"{PREFIX}role"], properties.get(f"{PREFIX}compute_dtype")
    if role not in GRAPH_ROLES or dtype is None:
        raise InputError(
            f"{file.path}: its metadata says role {quoted(role)}, dtype {quoted(dtype)}; export it again"
        )
    where = f"{file.path}: {PREFIX}model"
    text = properties.get(f"{PREFIX}model", "")
    config = ModelConfig.from_dict(parse_json(text.encode(), where, BundleError), where)
    return GraphSource(role, file.path, file.digest(), config, dtype)


def _load(path: Path) -> ir.Model:
    try:
        return ir.load(path)
    except Exception as fault:  # whatever the library finds wrong in a file
        reason = " ".join(str(fault).split())[:200]
        raise InputError(f"{path}: not an ONNX file that can be read ({reason})") from None

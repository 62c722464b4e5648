"""What `ttc build` is given: a bundle, one of its graphs as a single file, or an ONNX file of
another exporter.
"""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import onnx
import onnx_ir as ir

from ttc.base.files import OpenFile, read_bounded
from ttc.errors import BundleError, InputError
from ttc.exporter.engines.onnx_file import MAX_PROTOBUF_BYTES, OnnxFile
from ttc.exporter.passes.describe import PREFIX
from ttc.exporter.passes.initializers_to_inputs import initializers_to_inputs
from ttc.formats.bundle import graph_digest
from ttc.formats.graph_file import external_bytes, parse_graph
from ttc.formats.manifest import GRAPH_ROLES
from ttc.formats.strictjson import parse_json, quoted
from ttc.model.bundle import Bundle
from ttc.model.config import ModelConfig
from ttc.model.rewrites import caches_to_new_kv

__all__ = ["BuildInput", "GraphSource", "bundle_source", "read_build_input"]


@dataclass(frozen=True, slots=True)
class GraphSource:
    """One graph that ttc exported.

    Attributes:
        role: the graph's role.
        path: the file.
        file_sha256: digest of the file.
        data: location → file and digest of each that its external data lies in.
        config: the model that it is a part of.
        compute_dtype: the model's.
    """

    role: str
    path: Path
    file_sha256: str
    data: Mapping[str, tuple[Path, str]]
    config: ModelConfig
    compute_dtype: str

    @property
    def sha256(self) -> str:
        """Digest of the file and its external data (`ttc.formats.bundle.graph_digest`)."""
        return graph_digest(self.file_sha256, [digest for _, digest in self.data.values()])

    def network_model(self, bake: bool) -> ir.Model:
        """Return a fresh copy of the graph as engines are built from it; external data is still on disk.

        It is parsed from bytes with the digest above, and external data is read from files with theirs.

        Args:
            bake: whether the weights stay inside, as initializers; else they are inputs.

        Raises:
            InputError: a file was changed since its digest was taken.
            BundleError: it is no graph that can be read.
        """
        raw = read_bounded(self.path, MAX_PROTOBUF_BYTES, InputError)
        if hashlib.sha256(raw).hexdigest() != self.file_sha256:
            raise _changed(self.path)
        model = parse_graph(raw, self.path, self.data)
        if not bake:
            initializers_to_inputs(model)
        self._hold_open(model)
        if self.role == "context":
            caches_to_new_kv(model)
        return model

    def _hold_open(self, model: ir.Model) -> None:
        """Read external initializers from files that are held open, not from what has their name later."""
        opened: dict[str, OpenFile] = {}
        for value in model.graph.initializers.values():
            tensor = value.const_value
            if not isinstance(tensor, ir.ExternalTensor):
                continue
            location = str(tensor.location)
            if location not in opened:
                path, digest = self.data[location]
                opened[location] = OpenFile(path, InputError)
                if opened[location].sha256() != digest:
                    raise _changed(path)
            value.const_value = ir.LazyTensor(
                partial(_read_tensor, tensor, opened), tensor.dtype, tensor.shape, name=tensor.name
            )


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
    path: str | os.PathLike[str],
    checkpoint: str | os.PathLike[str] | None = None,
    trust: str | os.PathLike[str] | None = None,
) -> BuildInput | OnnxFile:
    """Open a bundle's folder (its digests are checked) or an `.onnx` file.

    Args:
        path: of the folder or file.
        checkpoint: where the checkpoint of a bundle by reference lies now, if it was moved.
        trust: PEM file of the public key that must have signed the bundle; None: any.

    Returns:
        Our graphs, or the file of another exporter.

    Raises:
        BundleError: a damaged bundle.
        InputError: neither a bundle nor an ONNX file that can be read.
    """
    found = Path(path)
    if found.is_dir():
        return _bundle(found, checkpoint, trust)
    if checkpoint is not None:
        raise InputError(f"{found}: not a bundle; --checkpoint goes with a bundle by reference only")
    if trust is not None:
        raise InputError(f"{found}: not a bundle, and only bundles are signed; leave out --public-key")
    if not found.exists():
        raise InputError(
            f"{found}: no such file or folder; give a bundle made by `ttc export`, or an .onnx file"
        )
    file = OnnxFile.open(found)
    properties = {entry.key: entry.value for entry in file.proto.metadata_props}
    if f"{PREFIX}role" not in properties:
        return file
    return BuildInput(found, (_single(file, properties),), found.with_name(f"{found.stem}.engines"))


def _bundle(
    folder: Path, checkpoint: str | os.PathLike[str] | None, trust: str | os.PathLike[str] | None
) -> BuildInput:
    with Bundle.open(folder, checkpoint, trust) as bundle:
        graphs = tuple(bundle_source(bundle, role) for role in GRAPH_ROLES if role in bundle.manifest.graphs)
    return BuildInput(folder, graphs, folder / "engines")


def bundle_source(bundle: Bundle, role: str) -> GraphSource:
    """Return the graph of an open bundle, with the digests that its manifest has."""
    files, path = bundle.manifest.files, bundle.graph_path(role)
    beside = path.with_name(f"{path.name}.data")
    data = {beside.name: (beside, files[beside.name].sha256)} if beside.name in files else {}
    return GraphSource(role, path, files[path.name].sha256, data, bundle.config, bundle.compute_dtype)


def _single(file: OnnxFile, properties: Mapping[str, str]) -> GraphSource:
    role, dtype = properties[f"{PREFIX}role"], properties.get(f"{PREFIX}compute_dtype")
    if role not in GRAPH_ROLES or dtype is None:
        raise InputError(
            f"{file.path}: its metadata says role {quoted(role)}, dtype {quoted(dtype)}; export it again"
        )
    where = f"{file.path}: {PREFIX}model"
    text = properties.get(f"{PREFIX}model", "")
    config = ModelConfig.from_dict(parse_json(text.encode(), where, BundleError), where)
    data = {name: (file.data_files[name], digest) for name, digest in file.data_digests().items()}
    return GraphSource(role, file.path, file.sha256, data, config, dtype)


def _read_tensor(tensor: ir.ExternalTensor, files: Mapping[str, OpenFile]) -> ir.TensorProtocol:
    content = external_bytes(tensor, files).tobytes()
    return ir.serde.deserialize_tensor(
        onnx.TensorProto(
            name=tensor.name, data_type=tensor.dtype.value, dims=tensor.shape.numpy(), raw_data=content
        )
    )


def _changed(path: Path) -> InputError:
    return InputError(f"{path}: changed while it was being built; build it again")

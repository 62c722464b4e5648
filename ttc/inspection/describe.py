"""What is in a file or folder of ours, as plain data.

Every description is ready for JSON and has `kind` ("bundle", "checkpoint", "safetensors", "onnx", "engines",
"engine", "program", "profile") and `path`.
"""

import dataclasses
import hashlib
import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ttc.base.dtypes import numpy_dtype
from ttc.base.files import read_bounded
from ttc.errors import BundleError, InputError
from ttc.exporter.onnx.checkpoint import Checkpoint
from ttc.formats.bundle import MAX_PARSED_BYTES
from ttc.formats.engines import MANIFEST_FILE as ENGINES_FILE
from ttc.formats.manifest import MANIFEST_FILE
from ttc.formats.shard import Shard
from ttc.formats.signed_folder import signature_of
from ttc.formats.tokenizer import MAX_TOKENIZER_BYTES, open_tokenizer
from ttc.formats.verification import Verification
from ttc.inspection import engines
from ttc.inspection.layers import by_kind, by_layer
from ttc.inspection.quantised import formats, own_tensors, parameter_count
from ttc.model.bundle import Bundle
from ttc.model.config import ModelConfig
from ttc.model.weights import CONTEXT, DENOISER, tower_of
from ttc.profiles.build_profile import build_preset_names, load_build_profile

__all__ = ["describe"]

_PREFIX = "ttc."


def describe(
    path: str | os.PathLike[str],
    checkpoint: str | os.PathLike[str] | None = None,
    trust: str | os.PathLike[str] | None = None,
) -> dict[str, Any]:
    """Describe what `path` is and holds; bundles and checkpoints are checked on the way.

    Args:
        path: of a bundle, a checkpoint folder, a set of engines, or a `.safetensors`, `.onnx`, `.engine`,
            `.program.json` or `.toml` file (a build profile), or the name of a preset of those.
        checkpoint: where the checkpoint of a bundle by reference lies now, if it was moved.
        trust: PEM file of the public key that must have signed it, a bundle or engines, and its record of a
            verification; None: any.

    Raises:
        InputError: none of these.
        BundleError, CheckpointError: one of these, but damaged.
    """
    try:
        return _describe(Path(path), checkpoint, trust)
    except OSError as fault:
        raise InputError(f"{path}: cannot be read ({fault.strerror})") from None


def _describe(
    path: Path, checkpoint: str | os.PathLike[str] | None, trust: str | os.PathLike[str] | None
) -> dict[str, Any]:
    if os.path.lexists(path / MANIFEST_FILE):
        return _bundle(path, checkpoint, trust)
    if checkpoint is not None:
        raise InputError(f"{path}: not a bundle; --checkpoint goes with a bundle by reference only")
    if os.path.lexists(path / ENGINES_FILE):
        return engines.describe_engines(path, trust)
    if trust is not None:
        raise InputError(f"{path}: nothing that is signed; --public-key goes with a bundle or engines")
    if path.is_dir():
        if (path / "config.json").exists():
            return _checkpoint(path)
        raise InputError(
            f"{path}: a folder with neither {MANIFEST_FILE} (a bundle) nor config.json (a checkpoint) "
            f"nor {ENGINES_FILE} (engines)"
        )
    if path.suffix == ".toml" or (not path.exists() and str(path).lower() in build_preset_names()):
        return {"kind": "profile", "path": str(path), "profile": load_build_profile(path).to_dict()}
    if not path.exists():
        raise InputError(f"{path}: no such file or folder")
    if path.suffix == ".safetensors":
        return _safetensors(path)
    if path.suffix == ".onnx":
        return _onnx(path)
    if path.suffix == ".engine":
        return engines.describe_engine(path)
    if path.name.endswith(".program.json"):
        return engines.describe_program(path)
    raise InputError(
        f"{path}: nothing that can be inspected; valid: a bundle, a checkpoint folder, a set of engines, "
        "a .safetensors, .onnx, .engine, .program.json or .toml file"
    )


def _bundle(
    path: Path, checkpoint: str | os.PathLike[str] | None, trust: str | os.PathLike[str] | None
) -> dict[str, Any]:
    with Bundle.open(path, checkpoint, trust) as bundle:
        specs = bundle.manifest.weights.map
        weights = [
            (name, parameter_count(spec), _array_bytes(spec.array_dtype, spec.array_shape))
            for name, spec in specs.items()
        ]
        described = bundle.describe()
        graphs = {
            role: {"file": name, **described["files"][name], **_graph(bundle.read_graph(role))}
            for role, name in described["graphs"].items()
        }
        raw = bundle.read_tokenizer()
        tokens = None if raw is None else _vocabulary(raw, str(bundle.tokenizer_path))
        return described | {
            **_model(bundle.config),
            "parameters": _parameters(weights),
            "bytes_by_dtype": _bytes(
                (spec.dtype, spec.array_dtype, spec.array_shape) for spec in specs.values()
            ),
            **_layers(bundle.config, weights),
            "formats": formats(specs),
            "tokenizer": tokens,
            "graphs": graphs,
            "signed": signature_of(path / MANIFEST_FILE).is_file(),
            "verification": _verification(bundle, trust),
        }


def _checkpoint(path: Path) -> dict[str, Any]:
    with Checkpoint.open(path) as checkpoint:
        stored = {name: checkpoint.info(name) for name in checkpoint.tensors}
        specs = checkpoint.weights
        weights = [
            (name, parameter_count(spec), sum(stored[tensor].nbytes for tensor in own_tensors(spec)))
            for name, spec in specs.items()
        ]
        return {
            "kind": "checkpoint",
            "path": str(path),
            **_model(checkpoint.config),
            "parameters": _parameters(weights),
            "bytes_by_dtype": _bytes((info.dtype, info.dtype, info.shape) for info in stored.values()),
            **_layers(checkpoint.config, weights),
            "formats": formats(specs),
            "notes": list(checkpoint.notes),
            "tensors": len(stored),
            "tokenizer": None
            if checkpoint.tokenizer_path is None
            else _vocabulary(
                read_bounded(checkpoint.tokenizer_path, MAX_TOKENIZER_BYTES, BundleError),
                str(checkpoint.tokenizer_path),
            ),
            "shards": [
                {"file": name, "tensors": len(shard.tensors), "size_bytes": shard.size_bytes}
                | {"header_sha256": shard.header_digest}
                for name, shard in checkpoint.shards.items()
            ],
        }


def _safetensors(path: Path) -> dict[str, Any]:
    with Shard.open(path) as shard:
        tensors = shard.tensors
        return {
            "kind": "safetensors",
            "path": str(path),
            "size_bytes": shard.size_bytes,
            "header_sha256": shard.header_digest,
            "parameters": {"total": sum(math.prod(info.shape) for info in tensors.values())},
            "bytes_by_dtype": _bytes((info.dtype, info.dtype, info.shape) for info in tensors.values()),
            "tensors": [
                {"name": name, "dtype": info.dtype, "shape": list(info.shape)}
                for name, info in tensors.items()
            ],
        }


def _onnx(path: Path) -> dict[str, Any]:
    """One ONNX file."""
    import onnx
    import onnx_ir as ir

    raw = read_bounded(path, MAX_PARSED_BYTES, InputError)
    about = {"size_bytes": len(raw), "sha256": hashlib.sha256(raw).hexdigest()}
    try:
        model = ir.serde.deserialize_model(onnx.ModelProto.FromString(raw))
    except Exception as fault:  # whatever the library finds wrong in a file
        raise InputError(f"{path}: not an ONNX file that can be read ({fault})") from None
    graph = model.graph
    if not len(graph) and not graph.inputs and not graph.outputs:
        raise InputError(f"{path}: not an ONNX file: no graph in it")
    return {"kind": "onnx", "path": str(path), **about, **_graph(model)}


def _graph(model: Any) -> dict[str, Any]:
    """A graph, without its weights' values."""
    import onnx_ir as ir

    graph = model.graph
    inputs = [value for value in graph.inputs if value.name not in graph.initializers]
    fed = [value for value in inputs if value.metadata_props.get(f"{_PREFIX}kind") == "weight"]
    constants = [value.const_value for value in graph.initializers.values() if value.const_value is not None]
    external = sorted({str(c.location) for c in constants if isinstance(c, ir.ExternalTensor)})
    return {
        "ir_version": model.ir_version,
        "opsets": {_text(domain) or "ai.onnx": version for domain, version in model.opset_imports.items()},
        "metadata": _metadata(model.metadata_props),
        "inputs": [_value(value) for value in inputs if value not in fed],
        "outputs": [_value(value) for value in graph.outputs],
        "weights": {
            "initializers": len(constants),
            "inputs": len(fed),
            "bytes_by_dtype": _graph_bytes([*constants, *fed]),
            "external_files": external,
        },
        "ops": dict(Counter(_op(node.domain, node.op_type) for node in graph.all_nodes()).most_common()),
        "functions": [_op(domain, name) for domain, name, _ in model.functions],
    }


def _value(value: Any) -> dict[str, Any]:
    dims = () if value.shape is None else (d if isinstance(d, int) else d.value for d in value.shape)
    shape = [_text(d) if isinstance(d, bytes) else d for d in dims] if value.shape is not None else None
    name = None if value.name is None else _text(value.name)
    return {"name": name, "dtype": _dtype(value.dtype), "shape": shape}


def _dtype(dtype: Any) -> str:
    """Return an ONNX dtype by its usual name; ONNX calls float32 FLOAT, float64 DOUBLE."""
    name = "undefined" if dtype is None else str(dtype.name).lower()
    return {"float": "float32", "double": "float64"}.get(name, name)


def _graph_bytes(weights: Iterable[Any]) -> dict[str, int]:
    """Return the bytes per dtype of ONNX tensors or values; none for what has no fixed size (strings, open
    shapes).
    """
    bits: Counter[str] = Counter()
    for weight in weights:
        if weight.shape is None or weight.dtype is None or weight.dtype.name in ("STRING", "UNDEFINED"):
            continue
        if all(isinstance(length, int) for length in weight.shape):
            bits[_dtype(weight.dtype)] += math.prod(weight.shape) * weight.dtype.bitwidth
    return {dtype: count // 8 for dtype, count in bits.most_common()}


def _op(domain: str | bytes, name: str | bytes) -> str:
    return f"{_text(domain)}::{_text(name)}" if domain else _text(name)


def _text(name: str | bytes) -> str:
    """Return a name of an ONNX file, which the library gives as bytes where it is no UTF-8."""
    return name if isinstance(name, str) else name.decode(errors="backslashreplace")


def _metadata(properties: Mapping[str, str]) -> dict[str, Any]:
    """Return the metadata as written; what `ttc` wrote as JSON is taken apart."""
    found: dict[str, Any] = {_text(key): _text(value) for key, value in properties.items()}
    for key in (f"{_PREFIX}model", f"{_PREFIX}ops"):
        try:
            found[key] = json.loads(found[key])
        except (KeyError, ValueError, RecursionError):
            continue
    return found


def _model(config: ModelConfig) -> dict[str, Any]:
    kinds = Counter(kind.label for kind in config.layers)
    return {"model": config.to_dict(), "layers": {"total": config.num_layers, **kinds}}


def _layers(config: ModelConfig, weights: Sequence[tuple[str, int, int]]) -> dict[str, Any]:
    return {"by_kind": by_kind(config, weights), "by_layer": by_layer(config, weights)}


def _verification(bundle: Bundle, trust: str | os.PathLike[str] | None) -> dict[str, Any] | None:
    """Return what the bundle's record says of each backend; None where there is none that speaks of it as it
    is.
    """
    record = Verification.read(bundle.path, bundle.manifest_sha256, None, trust)
    return None if record is None else {n: dataclasses.asdict(b) for n, b in record.backends.items()}


def _parameters(weights: Iterable[tuple[str, int, int]]) -> dict[str, int]:
    """Return the parameters per tower; the time embedding belongs to the denoiser."""
    counts = {CONTEXT: 0, DENOISER: 0}
    for name, parameters, _ in weights:
        counts[tower_of(name)] += parameters
    return counts | {"total": sum(counts.values())}


def _bytes(tensors: Iterable[tuple[str, str, tuple[int, ...]]]) -> dict[str, int]:
    """Return the bytes per dtype of tensors: what it is called, that of the array, and the array's shape."""
    counts: Counter[str] = Counter()
    for name, dtype, shape in tensors:
        counts[name] += _array_bytes(dtype, shape)
    return dict(counts.most_common())


def _array_bytes(dtype: str, shape: tuple[int, ...]) -> int:
    return math.prod(shape) * numpy_dtype(dtype).itemsize


def _vocabulary(raw: bytes, where: str) -> int:
    """Return how many tokens a tokenizer knows."""
    size: int = open_tokenizer(raw, where, BundleError).get_vocab_size()
    return size

"""What is in a set of engines, one engine of it, or a cut program. No TensorRT is needed or called."""

import dataclasses
import os
from collections import Counter
from pathlib import Path
from typing import Any

from ttc.errors import BundleError, InputError
from ttc.formats.engines import MANIFEST_FILE, SIGNATURE_FILE, EngineFolder, TensorRecord
from ttc.formats.program import ENGINE, Program
from ttc.formats.strictjson import Fields, read_json
from ttc.formats.verification import Verification

__all__ = ["describe_engine", "describe_engines", "describe_program"]

_MAX_JSON_BYTES = 16 * 2**20


def describe_engines(path: Path, trust: str | os.PathLike[str] | None = None) -> dict[str, Any]:
    """Describe a folder that `ttc build` made; every digest is checked, and with `trust`, the PEM file of a
    public key, its signature and that of the record beside it.
    """
    opened = EngineFolder.open(path, trust)
    manifest = opened.manifest
    return {
        "kind": "engines",
        "path": str(path),
        "ttc_version": manifest.ttc_version,
        "backend": manifest.backend,
        "backend_version": manifest.backend_version,
        "form": manifest.form,
        "targets": list(manifest.targets),
        "compute_dtype": manifest.compute_dtype,
        "baked": manifest.baked,
        "fixed_addresses": manifest.fixed_addresses,
        "profile": dict(manifest.profile),
        "sources": dict(manifest.sources),
        "kernels": dict(manifest.kernels),
        "signed": (path / SIGNATURE_FILE).is_file(),
        "verification": _verification(opened, trust),
        "engines": {name: _engine(opened, name) for name in manifest.engines},
        "programs": {role: _program(opened.program(role)) for role in manifest.programs},
    }


def describe_engine(path: Path) -> dict[str, Any]:
    """Describe one `.engine` file, by the manifest beside it; its content is executable code and is not
    loaded.
    """
    if not os.path.lexists(path.parent / MANIFEST_FILE):
        raise InputError(
            f"{path}: no {MANIFEST_FILE} beside it, so nothing is known of it; "
            "inspect an engine where `ttc build` left it"
        )
    whole = describe_engines(path.parent)
    if path.stem not in whole["engines"]:
        raise InputError(f"{path}: not one of the engines that {path.parent / MANIFEST_FILE} lists")
    keys = ("ttc_version", "backend", "backend_version", "form", "targets", "compute_dtype", "baked")
    return {
        "kind": "engine",
        "path": str(path),
        **{key: whole[key] for key in keys},
        **whole["engines"][path.stem],
        "sha256": EngineFolder.open(path.parent).manifest.files[path.name].sha256,
    }


def describe_program(path: Path) -> dict[str, Any]:
    """Describe a `.program.json` file."""
    fields = Fields(read_json(path, _MAX_JSON_BYTES, BundleError), str(path), BundleError)
    return {"kind": "program", "path": str(path), **_program(Program.take(fields, str(path)))}


def _verification(opened: EngineFolder, trust: str | os.PathLike[str] | None) -> dict[str, Any] | None:
    """Return what the record beside the engines says of each backend; None where none speaks of them as they
    are.

    The bundle may lie elsewhere, so whether the record is of the bundle as it is now is not looked at.
    """
    record = Verification.read(opened.path, opened.manifest_sha256, None, trust)
    return None if record is None else {n: dataclasses.asdict(b) for n, b in record.backends.items()}


def _program(program: Program) -> dict[str, Any]:
    launches = Counter(each.name for each in program.instructions if each.kind != ENGINE)
    calls = Counter(each.name for each in program.instructions if each.kind == ENGINE)
    return {
        "steps": len(program.instructions),
        "engine_calls": dict(calls.most_common()),
        "kernel_launches": dict(launches.most_common()),
        "buffers": dict(Counter(buffer.role for buffer in program.buffers.values()).most_common()),
    }


def _engine(opened: EngineFolder, name: str) -> dict[str, Any]:
    record = opened.manifest.engines[name]
    return {
        "role": record.role,
        "layers": record.layers,
        "size_bytes": opened.manifest.files[f"{name}.engine"].size_bytes,
        "weights": sum(tensor.kind == "weight" for tensor in record.inputs),
        "inputs": [_tensor(tensor) for tensor in record.inputs if tensor.kind != "weight"],
        "outputs": [_tensor(tensor) for tensor in record.outputs],
        "layer_list": [list(layer) for layer in opened.layers(name)],
    }


def _tensor(tensor: TensorRecord) -> dict[str, Any]:
    return {
        "name": tensor.name,
        "kind": tensor.kind,
        "dtype": tensor.dtype,
        "shape": list(tensor.shape),
        "min": list(tensor.min),
        "opt": list(tensor.opt),
        "max": list(tensor.max),
    }

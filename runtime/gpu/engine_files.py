"""Engines of a bundle, checked before any of them is used: an engine is executable code.

1. The folder is what was built: digests, and the signature where a key is trusted.
2. It was built by this backend in the installed version.
3. It was built from this bundle: the graphs' digests and the compute dtype.

None of it needs a GPU, a driver or TensorRT.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from ttc.base.tensorrt_package import backend_version
from ttc.errors import BundleError
from ttc.formats.engines import EngineFolder, EngineRecord
from ttc.formats.manifest import REQUIRED_ROLES
from ttc.formats.strictjson import quoted
from ttc.model.bundle import Bundle
from ttc.runtime.interface.backend import Limits

__all__ = ["Engines", "open_engines"]


@dataclass(frozen=True, slots=True)
class Engines:
    """Verified engines of a bundle, and the sizes they were built for."""

    folder: EngineFolder
    limits: Limits

    @property
    def cut(self) -> bool:
        """Whether the graphs are programs of segments and ops."""
        return self.folder.manifest.form == "cut"


def open_engines(
    bundle: Bundle,
    path: str | os.PathLike[str] | None,
    trust: str | os.PathLike[str] | None,
    backend: str,
    manifest_sha256: str | None = None,
) -> Engines:
    """Open and check a set of engines.

    Args:
        path: folder of the engines; None for BUNDLE/engines.
        trust: PEM file of the public key that must have signed them.
        backend: that is to run them.
        manifest_sha256: digest that engines.json must have; None: any.

    Raises:
        BundleError: no engines, damaged, of another bundle, or replaced by others.
        DigestError: a changed file or signature.
        BackendError: built by another backend or version, or the backend is not installed.
    """
    where = bundle.path / "engines" if path is None else path
    folder = EngineFolder.open(where, trust)
    if manifest_sha256 not in (None, folder.manifest_sha256):
        raise BundleError(f"{folder.path}: replaced by other engines a moment ago; start again")
    built = folder.manifest
    if built.backend != backend:
        folder.check_version(backend, "")  # says what is wrong, whatever is installed
    folder.check_version(backend, backend_version(backend))
    _check_bundle(folder, bundle)
    lengths = () if built.form == "cut" else _lengths(built.engines)
    return Engines(folder, _limits(built.profile, f"{folder.path}: profile", lengths))


def _check_bundle(folder: EngineFolder, bundle: Bundle) -> None:
    built = folder.manifest
    for role in REQUIRED_ROLES:
        if role not in built.sources:
            raise BundleError(f"{folder.path}: no engine for {role}; build again from {bundle.path}")
    for role, digest in built.sources.items():
        if role not in bundle.manifest.graphs:
            raise BundleError(f"{folder.path}: built from a graph {quoted(role)} that {bundle.path} has not")
        if digest != bundle.graph_digest(role):
            raise BundleError(
                f"{folder.path}: its {role} was built from another graph than {bundle.graph_path(role)}; "
                f"build again with: ttc build {bundle.path}"
            )
    if built.compute_dtype != bundle.compute_dtype:
        raise BundleError(
            f"{folder.path}: built for {built.compute_dtype}, the bundle computes in {bundle.compute_dtype}; "
            f"build again with: ttc build {bundle.path}"
        )
    if built.form == "cut" and (missing := sorted(built.sources.keys() - built.programs.keys())):
        raise BundleError(f"{folder.path}: no program for {missing[0]}; build again")


def _lengths(engines: Mapping[str, EngineRecord]) -> tuple[int, ...]:
    """The tokens that whole context engines of a fixed length read; empty where one takes a range."""
    ranges = [
        (tensor.min[1], tensor.max[1])
        for engine in engines.values()
        for tensor in engine.inputs
        if engine.role == "context" and tensor.name == "input_ids"
    ]
    return () if any(low != high for low, high in ranges) else tuple(sorted({low for low, _ in ranges}))


def _limits(profile: Mapping[str, object], where: str, lengths: tuple[int, ...]) -> Limits:
    def ends(name: str) -> tuple[int, int]:
        found = profile.get(name)
        if isinstance(found, dict):
            low, high = found.get("min"), found.get("max")
            if isinstance(low, int) and isinstance(high, int) and 1 <= low <= high:
                return low, high
        raise BundleError(f"{where}: {name} is {quoted(found)}, a range with min and max is due; build again")

    block = ends("block")
    return Limits(
        batch=ends("batch"),
        block=block,
        reads=(1, max(block[1], ends("chunk")[1])),
        positions=(1, block[1]),
        capacity=ends("capacity"),
        lengths=lengths,
    )

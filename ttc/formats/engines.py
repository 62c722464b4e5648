"""A set of engines: what `ttc build` writes and the TensorRT backends read. This is the format, version 3.

A folder of plain files:

    engines.json       the manifest, described below
    engines.json.sig   its signature (optional, `ttc.formats.signed_folder`)
    *.engine           serialised engines; each is executable code, so nothing of it is used before its
                       digest is checked
    *.program.json     cut form: `ttc.formats.program` of one graph
    *.layers.json      layers of one network as the parser made them (optional), in the form of `trtexec
                       --exportLayerInfo`: {Layers: [{Name, LayerType, Inputs, Outputs, Metadata}], Bindings}
    verification.json  the last verification of these engines, not listed here (optional,
                       `ttc.formats.verification`), and verification.json.sig

`engines.json` is one object with exactly these keys:

    format, format_version   "ttc-engines", 3 (in 1 engines gave whole caches, in 2 only the block's keys and
                             values; 3 has fixed_addresses and prepared weights)
    ttc_version, backend, backend_version
                             what built it; engines run with the same backend version only
    form                     "whole" or "cut"
    targets                  compute capabilities like "8.9"; empty: what the backend builds for by default
    compute_dtype            of the graphs, null for a third-party graph
    profile                  the ranges they were built for, as `ttc.profiles.build_profile` writes them; an
                             empty object for a third-party graph, whose inputs have ranges of their own
    baked                    whether the weights are inside the engines; else they are inputs, named as in
                             the bundle, or as `ttc.formats.prepared_weights` says
    fixed_addresses          whether all engines were built in memory at fixed addresses; else another build
                             with TensorRT-RTX may have other bytes (`ttc.exporter.engines.isolated`)
    sources                  {role: sha256 of the ONNX file}
    kernels                  {op: sha256} of the kernel sources of the `ttc` ops
    engines                  {name: {role, inputs, outputs, layers}}; every tensor is
                             {name, kind, dtype, shape, min, opt, max}, its kind "weight" or "tensor",
                             dynamic dimensions of its shape texts ("?": one without a name); the file is
                             `name`.engine. An input of the kind "shape" decides shapes by its values, whose
                             ranges min, opt and max are. Of a third-party graph's output an open dimension
                             is -1 in them
    programs                 {role: file}, cut form only
    files                    {file: {sha256, size_bytes}}: all but engines.json and its signature
    manifest_sha256          of the object without this key, keys sorted, no white space
"""

import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

from ttc.base.files import OpenFile, read_bounded
from ttc.errors import BackendError, BundleError, DigestError
from ttc.formats.atomic_folder import FolderKind
from ttc.formats.manifest import FileRecord, checked_path
from ttc.formats.program import Program
from ttc.formats.signed_folder import check_signature, refuse_unlisted
from ttc.formats.strictjson import Fields, json_digest, parse_json, quoted

__all__ = [
    "ENGINES",
    "MANIFEST_FILE",
    "SIGNATURE_FILE",
    "EngineFolder",
    "EngineRecord",
    "EnginesManifest",
    "TensorRecord",
    "engines_digest",
]

MANIFEST_FILE: Final = "engines.json"
SIGNATURE_FILE: Final = "engines.json.sig"
ENGINES: Final = FolderKind(
    "a set of engines",
    MANIFEST_FILE,
    "ttc-engines",
    re.compile(r"(engines|verification)\.json(\.sig)?|.+\.engine|.+\.program\.json|.+\.layers\.json"),
    frozenset((MANIFEST_FILE, SIGNATURE_FILE, "verification.json", "verification.json.sig")),
)
_FORMAT_VERSION = 3
_MAX_JSON_BYTES = 16 * 2**20
_DIGEST_KEY = "manifest_sha256"


@dataclass(frozen=True, slots=True)
class TensorRecord:
    """One input or output of an engine; `min`, `opt` and `max` are its shapes in the optimisation profile."""

    name: str
    kind: str
    dtype: str
    shape: tuple[int | str, ...]
    min: tuple[int, ...]
    opt: tuple[int, ...]
    max: tuple[int, ...]

    @classmethod
    def take(cls, fields: Fields) -> Self:
        """Take the record out of the fields of a JSON object."""
        shape = []
        for dim in fields.items("shape"):
            if not isinstance(dim, int | str) or isinstance(dim, bool):
                fields.refuse("shape", dim, "a number or a text")
            shape.append(dim)
        record = cls(
            fields.string("name"),
            fields.string("kind"),
            fields.string("dtype"),
            tuple(shape),
            *(fields.integers(end, low=-(2**63)) for end in ("min", "opt", "max")),
        )
        fields.end()
        return record


@dataclass(frozen=True, slots=True)
class EngineRecord:
    """One engine: the graph it belongs to, its tensors in order, and how many layers its network had."""

    role: str
    inputs: tuple[TensorRecord, ...]
    outputs: tuple[TensorRecord, ...]
    layers: int

    @classmethod
    def take(cls, fields: Fields, name: str) -> Self:
        """Take the record of the engine `name` out of the fields of a JSON object."""
        inner = fields.fields(name)
        inputs, outputs = (
            tuple(
                TensorRecord.take(Fields(item, f"engine {quoted(name)}: {key}", BundleError))
                for item in inner.items(key)
            )
            for key in ("inputs", "outputs")
        )
        record = cls(inner.string("role"), inputs, outputs, inner.integer("layers"))
        inner.end()
        return record


@dataclass(frozen=True, slots=True)
class EnginesManifest:
    """`engines.json`; the module's text says what it means. The writer leaves `files` empty."""

    ttc_version: str
    backend: str
    backend_version: str
    form: str
    targets: tuple[str, ...]
    compute_dtype: str | None
    profile: Mapping[str, Any]
    baked: bool
    fixed_addresses: bool
    sources: Mapping[str, str]
    kernels: Mapping[str, str]
    engines: Mapping[str, EngineRecord]
    programs: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, FileRecord] = field(default_factory=dict)

    def to_json(self) -> bytes:
        """Return the bytes of `engines.json`."""
        content: dict[str, Any] = {"format": ENGINES.format, "format_version": _FORMAT_VERSION}
        content |= dataclasses.asdict(self)
        plain: dict[str, Any] = json.loads(json.dumps(content, allow_nan=False))
        plain[_DIGEST_KEY] = json_digest(plain)
        return json.dumps(plain, indent=1).encode()

    @classmethod
    def from_json(cls, raw: bytes, where: str) -> Self:
        """Return the manifest in `raw`.

        Args:
            raw: the bytes of the file.
            where: what messages call it.

        Raises:
            DigestError: it was changed since it was written.
            BundleError: something is not as the format says; the key is named.
        """
        content = parse_json(raw, where, BundleError)
        fields = Fields(content, where, BundleError)
        if (name := fields.string("format")) != ENGINES.format:
            fields.refuse("format", name, repr(ENGINES.format))
        if (version := fields.integer("format_version")) != _FORMAT_VERSION:
            fields.refuse("format_version", version, f"{_FORMAT_VERSION} (build again with this ttc)")
        digest = fields.string(_DIGEST_KEY)
        assert isinstance(content, dict)
        if digest != json_digest({key: value for key, value in content.items() if key != _DIGEST_KEY}):
            raise DigestError(
                f"{where}: changed since it was written ({_DIGEST_KEY} does not match); build again"
            )
        profile, dtype = fields.take("profile"), fields.take("compute_dtype")
        if not isinstance(profile, dict):
            fields.refuse("profile", profile, "an object")
        if dtype is not None and not isinstance(dtype, str):
            fields.refuse("compute_dtype", dtype, "a text or null")
        manifest = cls(
            ttc_version=fields.string("ttc_version"),
            backend=fields.string("backend"),
            backend_version=fields.string("backend_version"),
            form=fields.string("form"),
            targets=fields.strings("targets"),
            compute_dtype=dtype,
            profile=profile,
            baked=fields.boolean("baked"),
            fixed_addresses=fields.boolean("fixed_addresses"),
            sources=fields.each("sources", Fields.string),
            kernels=fields.each("kernels", Fields.string),
            engines=fields.each("engines", EngineRecord.take),
            programs=fields.each("programs", Fields.string),
            files=fields.each("files", FileRecord.take),
        )
        fields.end()
        _check(manifest, where)
        return manifest


@dataclass(frozen=True, slots=True)
class EngineFolder:
    """A verified set of engines: every listed file was there with its digest when it was opened.

    Attributes:
        manifest_sha256: digest of the bytes of engines.json as they were read.
    """

    path: Path
    manifest: EnginesManifest
    manifest_sha256: str

    @classmethod
    def open(cls, path: str | os.PathLike[str], trust: str | os.PathLike[str] | None = None) -> Self:
        """Verify a folder and open it. No TensorRT is needed and none is called.

        Args:
            path: the folder.
            trust: PEM file of the public key that must have signed it, in which case it holds nothing
                else; None: any.

        Raises:
            DigestError: a file was changed, or the signature is missing or wrong.
            BundleError: a file is missing or is not as the format says.
        """
        folder = Path(path)
        manifest_file, raw = folder / MANIFEST_FILE, _read_manifest(folder)
        check_signature(raw, manifest_file, trust, "these engines are not signed, build them with --sign")
        manifest = EnginesManifest.from_json(raw, str(manifest_file))
        opened = cls(folder, manifest, hashlib.sha256(raw).hexdigest())
        if trust is not None:
            refuse_unlisted(folder, opened.manifest.files, ENGINES)
        for name in opened.manifest.files:
            opened._verified(name, keep=False)
        return opened

    def engine(self, name: str) -> bytes:
        """Return the bytes of one engine, verified once more as they are read.

        So what is returned is what was checked, whatever happened to the file since the folder was opened.
        """
        return self._verified(f"{name}.engine", keep=True)

    def program(self, role: str) -> Program:
        """Return the program of one graph in cut form, verified once more as it is read."""
        name = self.manifest.programs.get(role)
        if name is None:
            raise BundleError(
                f"{self.path}: no program for {quoted(role)}; built in the form {self.manifest.form!r}"
            )
        where = str(self.path / name)
        content = parse_json(self._verified(name, keep=True), where, BundleError)
        return Program.take(Fields(content, where, BundleError), where)

    def layers(self, name: str) -> tuple[tuple[str, str], ...]:
        """Return kind and name of each layer of one engine's network; none where no list was kept."""
        file = f"{name}.layers.json"
        if file not in self.manifest.files:
            return ()
        where = str(self.path / file)
        listed = parse_json(self._verified(file, keep=True), where, BundleError)
        found = []
        for layer in Fields(listed, where, BundleError).items("Layers"):
            match layer:
                case {"LayerType": str() as kind, "Name": str() as called}:
                    found.append((kind, called))
                case _:
                    raise BundleError(f"{where}: a layer is {quoted(layer)}, its type and its name are due")
        return tuple(found)

    def check_version(self, backend: str, version: str) -> None:
        """Raise `BackendError` unless these engines were built by this backend in this version."""
        built = self.manifest
        if built.backend != backend:
            raise BackendError(
                f"{self.path}: built for {built.backend}, not for {backend}; "
                f"build again with --backend {backend}"
            )
        if built.backend_version != version:
            raise BackendError(
                f"{self.path}: built with {backend} {built.backend_version}, but {version} is installed, "
                f"and engines run with the version that built them; "
                f"build again, or install {backend} {built.backend_version}"
            )

    def _verified(self, name: str, keep: bool) -> bytes:
        path, record = self.path / name, self.manifest.files[name]
        try:
            with OpenFile(path, BundleError, links=False) as file:
                if file.size_bytes != record.size_bytes:
                    raise DigestError(
                        f"{path}: {file.size_bytes} bytes, {record.size_bytes} when it was built; build again"
                    )
                content = file.read(record.size_bytes) if keep else b""
                found = hashlib.sha256(content).hexdigest() if keep else file.sha256()
        except FileNotFoundError:
            raise BundleError(f"{path}: missing; build again") from None
        except OSError as fault:
            raise BundleError(f"{path}: cannot be read ({fault.strerror})") from None
        if found != record.sha256:
            raise DigestError(f"{path}: its content is not what was built; build again")
        return content


def engines_digest(folder: Path) -> str:
    """Return the digest of a folder's engines.json, which `EngineFolder` has where it is still the same."""
    return hashlib.sha256(_read_manifest(folder)).hexdigest()


def _read_manifest(folder: Path) -> bytes:
    path = folder / MANIFEST_FILE
    if not os.path.lexists(path):
        raise BundleError(f"{path}: missing; a set of engines is a folder made by `ttc build`")
    return read_bounded(path, _MAX_JSON_BYTES, BundleError, links=False)


def _check(manifest: EnginesManifest, where: str) -> None:
    for name in manifest.files:
        if (
            len(checked_path(name, where).parts) != 1
            or not ENGINES.own_files.fullmatch(name)
            or name == MANIFEST_FILE
        ):
            raise BundleError(f"{where}: files lists {quoted(name)}, which is no file of a set of engines")
    expected = [*(f"{name}.engine" for name in manifest.engines), *manifest.programs.values()]
    if missing := [name for name in expected if name not in manifest.files]:
        raise BundleError(f"{where}: {quoted(missing[0])} is not among the files")

"""The record of the last `ttc verify`, kept beside what it speaks of. This page is the format, version 1.

`verification.json` lies in the bundle's folder beside `bundle.json`, and for backends that run engines in
the folder of the engines beside `engines.json`. Neither manifest lists it, so writing it invalidates no
digest; it names the manifest it speaks of instead, and with it every digest in there. One object with exactly
these keys:

    format, format_version    "ttc-verification", 1
    ttc_version               what wrote it
    manifest_sha256           of the bytes of the manifest beside it
    bundle_sha256             of the bytes of bundle.json (the same, for a bundle's own record)
    backends                  {name: {passed, device, computes_in, version, finished}}: the last verification
                              of each; finished is UTC, ISO 8601
    shards                    {file: sha256 of its content}: referenced shards read by --weights; else empty
    record_sha256             of the object without this key, keys sorted, no white space

A record that speaks of another manifest counts as none. The digests find accidents; they prove nothing about
who wrote the record. `verification.json.sig`, which `ttc sign` writes, does (`ttc.formats.signed_folder`).
"""

import contextlib
import dataclasses
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

from ttc.base.files import OpenFile, read_bounded, write_whole
from ttc.base.names import ENGINE_BACKENDS
from ttc.errors import BundleError, InputError
from ttc.formats.bundle import BundleFolder
from ttc.formats.engines import engines_digest
from ttc.formats.signed_folder import check_signature, signature_of
from ttc.formats.strictjson import Fields, json_digest, parse_json

__all__ = [
    "RECORD_FILE",
    "BackendRecord",
    "Verification",
    "check_verified",
    "file_digest",
    "runs_digest",
    "runs_from",
]

RECORD_FILE: Final = "verification.json"
_FORMAT, _FORMAT_VERSION = "ttc-verification", 1
_DIGEST_KEY = "record_sha256"
_MAX_BYTES = 4 * 2**20


@dataclass(frozen=True, slots=True)
class BackendRecord:
    """The last verification of one backend; the module's text says what the fields mean."""

    passed: bool
    device: str
    computes_in: str
    version: str
    finished: str


@dataclass(frozen=True, slots=True)
class Verification:
    """`verification.json`."""

    ttc_version: str
    manifest_sha256: str
    bundle_sha256: str
    backends: Mapping[str, BackendRecord]
    shards: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(
        cls,
        folder: Path,
        manifest_sha256: str,
        bundle_sha256: str | None,
        trust: str | os.PathLike[str] | None = None,
    ) -> Self | None:
        """Return the record in a folder; None where there is none, or one of another state.

        The digests are those of what was opened, not of what lies there by now: who uses the one must not
        be told about the other.

        Args:
            folder: of what the backend runs: the bundle, or the engines.
            manifest_sha256: digest of its manifest.
            bundle_sha256: digest of the bundle's manifest; None: whatever bundle it was verified with.
            trust: PEM file of the public key that must have signed the record; None: any.

        Raises:
            DigestError: it was not signed by that key.
            BundleError: the file is no record, or was changed.
        """
        path = folder / RECORD_FILE
        if not os.path.lexists(path):
            return None
        raw = read_bounded(path, _MAX_BYTES, BundleError, links=False)
        how = f"this record is not signed; sign it with `ttc sign {folder} --key KEY`"
        check_signature(raw, path, trust, how)
        record = cls.from_bytes(raw, str(path))
        is_of_it = record.manifest_sha256 == manifest_sha256 and bundle_sha256 in (None, record.bundle_sha256)
        return record if is_of_it else None

    @classmethod
    def from_bytes(cls, raw: bytes, where: str) -> Self:
        """Return the record in `raw`, which messages call `where`; raise `BundleError` where it is none."""
        content = parse_json(raw, where, BundleError)
        fields = Fields(content, where, BundleError)
        if (name := fields.string("format")) != _FORMAT:
            fields.refuse("format", name, repr(_FORMAT))
        if (version := fields.integer("format_version")) != _FORMAT_VERSION:
            fields.refuse("format_version", version, f"{_FORMAT_VERSION} (verify again with this ttc)")
        digest = fields.string(_DIGEST_KEY)
        assert isinstance(content, dict)
        if digest != json_digest({key: value for key, value in content.items() if key != _DIGEST_KEY}):
            raise BundleError(f"{where}: changed since it was written; run `ttc verify` again")
        record = cls(
            ttc_version=fields.string("ttc_version"),
            manifest_sha256=fields.string("manifest_sha256"),
            bundle_sha256=fields.string("bundle_sha256"),
            backends=fields.each("backends", _backend),
            shards=fields.each("shards", Fields.string),
        )
        fields.end()
        return record

    def write(self, folder: Path) -> Path:
        """Write the record into `folder`, whole or not at all, and return its path.

        The signature of an earlier one is removed.

        Raises:
            InputError: it cannot be written.
        """
        content: dict[str, Any] = {"format": _FORMAT, "format_version": _FORMAT_VERSION}
        content |= dataclasses.asdict(self)
        content[_DIGEST_KEY] = json_digest(content)
        path = folder / RECORD_FILE
        if path.is_symlink():
            raise InputError(f"{path}: a symbolic link; a plain file is due: remove it")
        write_whole(path, json.dumps(content, indent=1))
        with contextlib.suppress(OSError):  # it fits no longer, and is refused if it stays
            signature_of(path).unlink()
        return path


def check_verified(
    bundle: BundleFolder,
    backend: str,
    engines: str | os.PathLike[str] | None = None,
    trust: str | os.PathLike[str] | None = None,
) -> str:
    """Return the digest of the manifest of what a backend runs, of which a record says that it passed.

    Engines are opened later, and it is for who opens them to hold them to this digest.

    Args:
        bundle: as it was opened.
        backend: name of the backend that is asked for.
        engines: folder of its engines; None for BUNDLE/engines.
        trust: PEM file of the public key that must have signed the record; None: any.

    Raises:
        BundleError: there is no such record.
    """
    command = f"run `ttc verify {bundle.path} --backend {backend}`"
    folder = runs_from(bundle.path, backend, engines)
    digest = runs_digest(bundle, backend, engines)
    record = Verification.read(folder, digest, bundle.manifest_sha256, trust)
    if record is None:
        raise BundleError(
            f"{folder}: not verified as it is now, and require_verified insists on it; {command}"
        )
    if backend not in record.backends:
        verified = ", ".join(record.backends) or "none"
        raise BundleError(
            f"{folder}: not verified on backend {backend!r} (on: {verified}), "
            f"and require_verified insists on it; {command}"
        )
    if not record.backends[backend].passed:
        raise BundleError(
            f"{folder}: its last verification on backend {backend!r} failed "
            f"({record.backends[backend].finished}); {command} to see where"
        )
    return digest


def runs_from(bundle: Path, backend: str, engines: str | os.PathLike[str] | None) -> Path:
    """Return the folder of what a backend runs: the bundle's, or that of its engines (BUNDLE/engines)."""
    if backend not in ENGINE_BACKENDS:
        return bundle
    return bundle / "engines" if engines is None else Path(engines)


def runs_digest(bundle: BundleFolder, backend: str, engines: str | os.PathLike[str] | None) -> str:
    """Return the digest of the manifest in that folder: the bundle's as it was opened, or the engines' as it
    is there now.
    """
    if backend not in ENGINE_BACKENDS:
        return bundle.manifest_sha256
    return engines_digest(runs_from(bundle.path, backend, engines))


def file_digest(path: Path) -> str:
    """Return the sha256 of a file's content."""
    try:
        with OpenFile(path, BundleError) as file:
            return file.sha256()
    except OSError as fault:
        raise BundleError(f"{path}: cannot be read ({fault.strerror})") from None


def _backend(fields: Fields, name: str) -> BackendRecord:
    inner = fields.fields(name)
    record = BackendRecord(
        inner.boolean("passed"),
        inner.string("device"),
        inner.string("computes_in"),
        inner.string("version"),
        inner.string("finished"),
    )
    inner.end()
    return record

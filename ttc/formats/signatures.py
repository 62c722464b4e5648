"""Signing what is there already: a bundle, and the records of verifications.

Engines are signed while they are built and not later: whoever signed a folder that came out of the cache, or
from somebody else, would vouch for code without knowing who made it.
"""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from ttc.base.files import read_bounded, write_whole
from ttc.errors import BundleError, DigestError, InputError
from ttc.formats.bundle import BundleFolder
from ttc.formats.engines import MANIFEST_FILE as ENGINES_FILE
from ttc.formats.engines import EngineFolder
from ttc.formats.manifest import MANIFEST_FILE
from ttc.formats.signed_folder import signature_of
from ttc.formats.signing import sign
from ttc.formats.verification import RECORD_FILE, Verification

__all__ = ["Signed", "sign_folder"]

# Of a manifest; its reader has a smaller bound.
_MOST_BYTES = 2**28


@dataclass(frozen=True, slots=True)
class Signed:
    """What was signed.

    Attributes:
        files: the signatures that were written.
        backends: name → whether it passed, of the record that was signed; empty where there was none.
        notes: what was not signed, and why.
    """

    files: tuple[Path, ...]
    backends: dict[str, bool]
    notes: tuple[str, ...]


def sign_folder(path: str | os.PathLike[str], key: str | os.PathLike[str]) -> Signed:
    """Sign a bundle and the record of its verification, or the record beside engines that this key signed.

    Args:
        path: folder of a bundle or of engines. All its digests are checked first.
        key: PEM file of an ed25519 private key.

    Raises:
        DigestError: something was changed, or the engines are not signed by this key.
        BundleError: it is damaged, or the record is.
        InputError: neither a bundle nor engines, a key that is none, or the folder cannot be written to.
    """
    folder = Path(path)
    sign(b"", key)  # before the digests are read, which may take long
    if os.path.lexists(folder / MANIFEST_FILE):
        with BundleFolder.open(folder) as bundle:
            raw = read_bounded(folder / MANIFEST_FILE, _MOST_BYTES, BundleError, links=False)
            if hashlib.sha256(raw).hexdigest() != bundle.manifest_sha256:
                raise DigestError(f"{folder / MANIFEST_FILE}: changed while it was read; sign it again")
        return _sign(folder / MANIFEST_FILE, raw, key, True)
    if os.path.lexists(folder / ENGINES_FILE):
        EngineFolder.open(folder)
        manifest = folder / ENGINES_FILE
        raw, signature = read_bounded(manifest, _MOST_BYTES, BundleError, links=False), signature_of(manifest)
        # A signature of ed25519 is always the same for the same content and key.
        if not os.path.lexists(signature) or read_bounded(signature, 64, DigestError, links=False) != sign(
            raw, key
        ):
            raise DigestError(
                f"{manifest}: not signed by this key; engines are signed while they are built: "
                "`ttc build --sign KEY`. Only their verification is signed later"
            )
        return _sign(manifest, raw, key, False)
    raise InputError(
        f"{folder}: nothing to sign; valid: a folder with {MANIFEST_FILE} (a bundle) or {ENGINES_FILE} "
        "(engines)"
    )


def _sign(manifest: Path, raw: bytes, key: str | os.PathLike[str], also_itself: bool) -> Signed:
    """Sign the record beside a manifest whose bytes are given, and the manifest where that is asked for."""
    files, notes, backends = [], [], {}
    if also_itself:
        files.append(signature_of(manifest))
        write_whole(files[-1], sign(raw, key))
    record = manifest.parent / RECORD_FILE
    if not os.path.lexists(record):
        notes.append(f"{record}: not there; `ttc verify` makes one")
    else:
        content = read_bounded(record, _MOST_BYTES, BundleError, links=False)
        found = Verification.from_bytes(content, str(record))
        if found.manifest_sha256 != hashlib.sha256(raw).hexdigest():
            notes.append(f"{record}: not signed, it speaks of an earlier state; run `ttc verify` again")
        else:
            files.append(signature_of(record))
            write_whole(files[-1], sign(content, key))
            backends = {name: told.passed for name, told in found.backends.items()}
    return Signed(tuple(files), backends, tuple(notes))

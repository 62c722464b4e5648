"""Folders of ours that are signed: what a signature is, and what is refused where one is insisted on.

`<manifest>.sig` beside a manifest is the ed25519 signature of the manifest's bytes, 64 bytes. With the
manifest it covers every file that the manifest lists, by its digest. `verification.json`, which no manifest
lists, has a signature of its own. Each of these files says in its first key what it is, so that the signature
of one is of no use for another.
"""

import os
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Final

from ttc.base.files import read_bounded
from ttc.errors import BundleError, DigestError
from ttc.formats.atomic_folder import FolderKind, is_hidden
from ttc.formats.signing import sign, verify

__all__ = ["SIGNATURE_ENDING", "check_signature", "refuse_unlisted", "signature_of", "signer"]

SIGNATURE_ENDING: Final = ".sig"


def signature_of(file: Path) -> Path:
    """Return where the signature of a file lies."""
    return file.with_name(file.name + SIGNATURE_ENDING)


def check_signature(raw: bytes, file: Path, key: str | os.PathLike[str] | None, how: str) -> None:
    """Raise `DigestError` unless a file's content was signed by a key.

    Args:
        raw: the content, as it was read.
        file: the file, beside which its signature lies.
        key: PEM file of the public key; None: anybody may have made it, signed or not.
        how: what to do where there is no signature.
    """
    if key is None:
        return
    signature = signature_of(file)
    if not os.path.lexists(signature):
        raise DigestError(f"{signature}: missing; {how}")
    verify(raw, read_bounded(signature, 64, DigestError, links=False), key, str(file))


def refuse_unlisted(folder: Path, listed: Collection[str], kind: FolderKind) -> None:
    """Raise `DigestError` where a folder holds a file that its signed manifest does not list.

    What writers of ours left under hidden names is let through; nobody reads it.
    """
    try:
        for name in _names(folder, "", kind):
            if name not in listed:
                raise DigestError(
                    f"{folder / name}: not among the files that were signed; remove it, or take {kind.noun} "
                    "from whom you trust again"
                )
    except OSError as fault:
        raise BundleError(f"{folder}: cannot be read ({fault.strerror})") from None


def signer(key: str | os.PathLike[str] | None, kind: FolderKind) -> Callable[[Path], None] | None:
    """Return what signs a folder whose manifest is written; None without a key.

    Raises:
        InputError: the file holds no unencrypted ed25519 private key.
    """
    if key is None:
        return None
    sign(b"", key)  # before the work, not after it

    def write(folder: Path) -> None:
        manifest = folder / kind.manifest_file
        signature_of(manifest).write_bytes(sign(manifest.read_bytes(), key))

    return write


def _names(folder: Path, prefix: str, kind: FolderKind) -> Iterator[str]:
    """Give the relative path of everything that a manifest must list, but folders."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if not prefix and (entry.name in kind.unlisted or is_hidden(entry.name)):
                continue
            if entry.is_dir(follow_symlinks=False):
                yield from _names(folder / entry.name, f"{prefix}{entry.name}/", kind)
            else:
                yield prefix + entry.name

"""The model that comes with the package: a trained miniature, found by its name wherever a bundle or a
checkpoint is taken.

The package holds the miniature's checkpoint (`ttc/miniature`) and, in `ttc/miniature/bundle`, what
`ttc export` writes of it in float32 with weights by reference: graphs and manifest, 170 KB, so that the
weights lie there once. Where the package is installed no export can know, so the bundle is finished at its
first use: the user's cache gets a copy whose manifest says where the weights lie here. That needs no torch.
Whoever can write there could change the model, or put engines beside it, so what may be another user's is not
taken (`ttc.base.ownership`).
`make miniature` writes the folder anew.
"""

import dataclasses
import hashlib
import os
from importlib.resources import files
from pathlib import Path

from ttc.base.files import read_bounded
from ttc.base.ownership import why_foreign, why_foreign_folder
from ttc.base.user_cache import user_cache
from ttc.errors import BundleError, InputError
from ttc.formats.atomic_folder import bundle_writer
from ttc.formats.manifest import MANIFEST_FILE, Manifest

__all__ = [
    "NAME",
    "find_bundle",
    "find_checkpoint",
    "is_shipped",
    "is_shipped_bundle",
    "shipped_bundle",
    "shipped_checkpoint",
]

NAME = "miniature"
_TOKENIZER_FILE = "tokenizer.json"
_MAX_BYTES = 1 << 22


def is_shipped(path: str | os.PathLike[str]) -> bool:
    """Return whether a path is the miniature's name; whatever lies under that name here comes first."""
    return os.fspath(path) == NAME and not os.path.lexists(path)


def find_bundle(path: str | os.PathLike[str]) -> str | os.PathLike[str]:
    """Return the path of a bundle: as it is, or where the miniature's bundle lies."""
    return shipped_bundle() if is_shipped(path) else path


def find_checkpoint(path: str | os.PathLike[str]) -> str | os.PathLike[str]:
    """Return the path of a checkpoint: as it is, or where the miniature's lies."""
    return shipped_checkpoint() if is_shipped(path) else path


def is_shipped_bundle(path: Path) -> bool:
    """Return whether a path is where `shipped_bundle` puts the miniature's bundle; nothing is written."""
    return path.name == f"{NAME}.bundle" and path.parent.parent == user_cache("demo")


def shipped_checkpoint() -> Path:
    """Return the folder of the miniature's checkpoint."""
    return Path(str(files("ttc") / NAME))


def shipped_bundle() -> Path:
    """Return the miniature's bundle in the user's cache; the first time it is written there.

    It has a place for each release and each place of the package.

    Raises:
        InputError: the cache cannot be written to, or may be another user's.
        BundleError: the package is damaged.
    """
    checkpoint = shipped_checkpoint()
    source = checkpoint / "bundle"
    raw = read_bounded(source / MANIFEST_FILE, _MAX_BYTES, BundleError)
    stored = Manifest.from_json(raw, str(source / MANIFEST_FILE))
    shards = {
        name: dataclasses.replace(record, mtime_ns=(checkpoint / name).stat().st_mtime_ns)
        for name, record in stored.weights.shards.items()
    }
    here = dataclasses.replace(stored.weights, root=str(checkpoint.resolve()), shards=shards)
    manifest = dataclasses.replace(stored, weights=here).to_json()
    cache = user_cache("demo")
    place = cache / hashlib.sha256(manifest).hexdigest()[:16] / f"{NAME}.bundle"
    try:
        cache.mkdir(mode=0o700, parents=True, exist_ok=True)
        place.parent.mkdir(mode=0o700, exist_ok=True)
    except OSError as fault:
        raise InputError(
            f"{place.parent}: cannot be made ({fault.strerror}); set XDG_CACHE_HOME to a folder that can"
        ) from None
    _refuse_foreign(cache, why_foreign_folder(cache))
    _refuse_foreign(place.parent, why_foreign(place.parent.lstat()))
    if os.path.lexists(place):
        _refuse_foreign(place, why_foreign(place.lstat()))
    else:
        with bundle_writer(place, force=True) as draft:
            draft.path.chmod(0o700)  # whatever the umask
            for name in stored.files:
                folder = checkpoint if name == _TOKENIZER_FILE else source
                (draft.path / name).write_bytes(read_bounded(folder / name, _MAX_BYTES, BundleError))
            draft.commit_as_is(manifest)
    return place


def _refuse_foreign(folder: Path, reason: str) -> None:
    if reason:
        raise InputError(
            f"{folder}: {reason}, so the miniature is not taken from there; delete it, or set XDG_CACHE_HOME "
            "to a folder that is yours"
        )

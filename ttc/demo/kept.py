"""Where the miniature's bundle is kept between demonstrations, so that only the first one needs torch."""

import hashlib
from pathlib import Path

from ttc import __version__
from ttc.base.user_cache import user_cache

__all__ = ["kept_bundle"]


def kept_bundle(checkpoint: Path) -> Path:
    """Return where the bundle of this checkpoint lies or is to be written: in the user's cache folder, at a
    place that changes with the release and with the checkpoint.
    """
    digest = hashlib.sha256(__version__.encode())
    for file in sorted(checkpoint.iterdir()):
        digest.update(file.name.encode() + file.read_bytes())
    return user_cache("demo") / digest.hexdigest()[:16] / "miniature.bundle"

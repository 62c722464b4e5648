"""Kernels that TensorRT-RTX made for this GPU, kept from one process to the next.

TensorRT-RTX makes an engine's kernels when a context is made of it. Contexts of one set of engines share what
was made (its runtime cache), and so do later processes: it is written into the user's cache folder when the
engine is closed. Which driver, version and GPU it serves the library checks itself; which engines, the name
of the file says.

Such a file is executable code. So it is read only where nobody but this user can have written it, and it is
not looked for elsewhere.
"""

import contextlib
import hashlib
import json
import logging
import os
import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from ttc.base.ownership import why_foreign, why_foreign_folder
from ttc.base.user_cache import user_cache

__all__ = ["KernelFile"]

logger = logging.getLogger(__name__)
_MAX_BYTES: Final = 2**30


class KernelFile:
    """The kernels of one set of engines on one kind of GPU."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._known = b""  # digest of what is in the file

    @classmethod
    def of(cls, engines: Iterable[str], version: str, capability: str) -> "KernelFile":
        """Return the file for these engines.

        Args:
            engines: digests of the engines' files.
            version: of TensorRT-RTX.
            capability: compute capability of the GPU, such as "12.0".
        """
        key = json.dumps([sorted(engines), version, capability]).encode()
        return cls(user_cache("kernels") / f"{hashlib.sha256(key).hexdigest()}.kernels")

    def read(self) -> bytes | None:
        """Return what was kept; None where there is nothing, or others may have written it."""
        try:
            folder, of_file = self.path.parent, why_foreign(self.path.lstat())
            for path, reason in ((folder, why_foreign_folder(folder)), (self.path, of_file)):
                if reason:
                    logger.warning(f"{path}: {reason}, so kept kernels are not used; delete it")
                    return None
            with self.path.open("rb") as file:
                content = file.read(_MAX_BYTES + 1)
        except OSError:
            return None
        if len(content) > _MAX_BYTES:
            return None
        self._known = hashlib.sha256(content).digest()
        return content

    def write(self, content: bytes) -> None:
        """Keep this, whole or not at all, unless it is what is kept already; a failure is logged."""
        digest = hashlib.sha256(content).digest()
        if digest == self._known or not content:
            return
        aside = self.path.with_name(f".{self.path.name}.{secrets.token_hex(4)}")
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            if why_foreign_folder(self.path.parent):
                return  # `read` has said so
            with open(aside, "xb", opener=_private) as file:  # `Path.open` takes no opener
                file.write(content)
            aside.replace(self.path)
            self._known = digest
        except OSError as fault:
            logger.info(f"{self.path}: kernels are not kept ({fault.strerror}); they will be made again")
            with contextlib.suppress(OSError):
                aside.unlink(missing_ok=True)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)

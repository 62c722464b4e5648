"""Digests of the sources that make the kernels of the `ttc` ops, so that a changed kernel is a changed
engine.
"""

import hashlib
from collections.abc import Iterable
from importlib.resources import files
from typing import Final

from ttc.plugins.table import OPS

__all__ = ["builder_digest", "kernel_digests"]

# Reference implementations and costs take no part in a kernel.
_NOT_COMPILED: Final = ("naive.py", "naive_numpy.py", "cost.py", "costs.py")
# The code that decides what a network looks like, and what it shares with those who read what it writes. Ops
# have digests of their own; a profile counts by what it says, not by the code that reads it.
_BUILDER_PACKAGES: Final = (
    "ttc.exporter.engines",
    "ttc.exporter.passes",
    "ttc.model",
    "ttc.formats",
    "ttc.formats.quantised",
    "ttc.base",
)


def kernel_digests() -> dict[str, str]:
    """Return op name → sha256 of the op's folder and of the files that all ops share.

    Files that take no part in a kernel do not count.
    """
    homes = {op.name: op.package for op in OPS}
    shared = _digest("ttc.plugins", _NOT_COMPILED)
    digests = {
        home: _joined([shared.encode(), _digest(home, _NOT_COMPILED).encode()])
        for home in sorted(set(homes.values()))
    }
    return {name: digests[home] for name, home in homes.items()}


def builder_digest() -> str:
    """sha256 of the packages that build."""
    return _joined(_digest(package, ()).encode() for package in _BUILDER_PACKAGES)


def _joined(parts: Iterable[bytes]) -> str:
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def _digest(package: str, leave_out: Iterable[str]) -> str:
    """sha256 of the files of a package; packages inside it do not count."""
    total = hashlib.sha256()
    for file in sorted(files(package).iterdir(), key=lambda entry: entry.name):
        if file.name.endswith(".py") and file.name not in leave_out:
            content = file.read_bytes()
            total.update(f"{file.name}\0{len(content)}\0".encode() + content)
    return total.hexdigest()

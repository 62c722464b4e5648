"""Digests of the sources that make the kernels of the `ttc` ops, so that a changed kernel is a changed
engine.
"""

import hashlib
from collections.abc import Iterable
from importlib.resources import files
from typing import Final

from ttc.plugins.table import OPS

__all__ = ["builder_digest", "kernel_digests"]

_NOT_COMPILED: Final = ("naive.py",)
# The code that decides what a network looks like.
_BUILDER_FILES: Final = ("compile.py", "dims.py", "isolated.py", "jobs.py", "tensorrt_api.py", "worker.py")


def kernel_digests() -> dict[str, str]:
    """Op name → sha256 of the files in its folder, but for the plain twin."""
    homes = {op.name: _HOMES[op.name] for op in OPS}
    digests = {home: _digest(home, _NOT_COMPILED) for home in sorted(set(homes.values()))}
    return {name: digests[home] for name, home in homes.items()}


def builder_digest() -> str:
    """sha256 of the builder's own sources and passes."""
    folder = files("ttc.exporter")
    parts = [folder.joinpath(name).read_bytes() for name in _BUILDER_FILES]
    return hashlib.sha256(b"\0".join([*parts, _digest("ttc.exporter.passes", ()).encode()])).hexdigest()


def _digest(package: str, leave_out: Iterable[str]) -> str:
    total = hashlib.sha256()
    for file in sorted(files(package).iterdir(), key=lambda entry: entry.name):
        if file.name.endswith(".py") and file.name not in leave_out:
            content = file.read_bytes()
            total.update(f"{file.name}\0{len(content)}\0".encode() + content)
    return total.hexdigest()


_HOMES: Final = {
    op: f"ttc.plugins.{home}"
    for home, ops in {
        "moe_routing": ("MoeRouting",),
        "moe_experts": ("MoeExperts", "MoeUp", "MoeDown", "MoeCombine"),
        "mamba_block_scan": ("MambaBlockScan", "MambaConv", "MambaScan"),
        "mamba_advance": ("MambaAdvance",),
        "diffusion_step": ("DiffusionStep", "DiffusionPredict", "DiffusionCommit"),
    }.items()
    for op in ops
}

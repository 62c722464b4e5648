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
# What the ops' kernels and plugins share.
_SHARED_FILES: Final = (
    "counter_rng.py",
    "kernel_math.py",
    "launch.py",
    "ops.py",
    "ptx.py",
    "quick.py",
    "targets.py",
)
# The code that decides what a network looks like.
_BUILDER_FILES: Final = (
    "building_stages.py",
    "compile.py",
    "dims.py",
    "isolated.py",
    "jobs.py",
    "planning.py",
    "sources.py",
    "tensorrt_api.py",
    "worker.py",
)
# What it shares with those who read what it writes.
_COMMON_FILES: Final = ("dims.py", "engines.py", "program.py")


def kernel_digests() -> dict[str, str]:
    """Op name → sha256 of the files in its folder, but for the plain twin, and of those that all share."""
    homes = {op.name: _HOMES[op.name] for op in OPS}
    shared = _joined(files("ttc.plugins").joinpath(name).read_bytes() for name in _SHARED_FILES)
    digests = {
        home: _joined([shared.encode(), _digest(home, _NOT_COMPILED).encode()])
        for home in sorted(set(homes.values()))
    }
    return {name: digests[home] for name, home in homes.items()}


def builder_digest() -> str:
    """sha256 of the builder's own sources and passes."""
    folder = files("ttc.exporter")
    parts = [folder.joinpath(name).read_bytes() for name in _BUILDER_FILES]
    parts += [files("ttc").joinpath(name).read_bytes() for name in _COMMON_FILES]
    return _joined([*parts, _digest("ttc.exporter.passes", ()).encode()])


def _joined(parts: Iterable[bytes]) -> str:
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


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

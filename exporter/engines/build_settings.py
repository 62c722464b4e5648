"""How to build, as it was asked for."""

import dataclasses
import os
from collections.abc import Mapping

from ttc.exporter.engines.engine_spec import CompilerOptions
from ttc.profiles.build_profile import BuildProfile

__all__ = ["BuildSettings"]


@dataclasses.dataclass(frozen=True, slots=True)
class BuildSettings:
    """The options of a build, as `ttc.build` and `ttc build` take them; `make_plan` checks them.

    Attributes:
        backend: "tensorrt-rtx" or "tensorrt".
        form: "whole" or "cut" (`ttc.formats.program`).
        profile: preset, TOML file or profile; None: "latency", fitted to the model.
        shapes: single sizes of the profile replaced: {"batch": {"max": 8}}. Of a foreign ONNX file the sizes
            of its inputs: by input {"x": {"max": (8, 3, 32, 32)}}, or by the name of a dimension.
        targets: compute capabilities like "8.9"; None: the profile's.
        bake: put the weights into the engines.
        cache: look for the engines in the cache, and keep them there.
        check_reproducible: build everything twice and compare.
        layers: also write the layers of every network.
        sign: PEM file of an ed25519 private key; None: no signature.
        timing_cache: file to start from and to update (TensorRT only); None: one beside the cache of engines,
            where that is used.
        plugins: files with plugins of other people: shared libraries and Python modules (TensorRT only).
        tf32: let products of float32 be computed in TF32 (foreign ONNX files only).
        log: file that gets everything that the library says while it builds, without the cache; None: none.
        checkpoint: where the checkpoint of a bundle by reference lies now, if it was moved.
        trust: PEM file of the public key that must have signed the bundle; None: any.
    """

    backend: str = "tensorrt-rtx"
    form: str = "whole"
    profile: str | os.PathLike[str] | BuildProfile | None = None
    shapes: Mapping[str, Mapping[str, int | tuple[int, ...]]] = dataclasses.field(default_factory=dict)
    targets: tuple[str, ...] | None = None
    bake: bool = False
    cache: bool = True
    check_reproducible: bool = False
    layers: bool = False
    sign: str | os.PathLike[str] | None = None
    timing_cache: str | os.PathLike[str] | None = None
    plugins: tuple[str | os.PathLike[str], ...] = ()
    tf32: bool = False
    log: str | os.PathLike[str] | None = None
    checkpoint: str | os.PathLike[str] | None = None
    trust: str | os.PathLike[str] | None = None

    def compiler_options(self, targets: tuple[str, ...]) -> CompilerOptions:
        """Return what the process that builds is told."""
        return CompilerOptions(
            self.backend,
            targets,
            tuple(os.path.abspath(file) for file in self.plugins),
            self.tf32,
            self.log is not None,
            self.timing_cache is not None,
            offline=self.sign is not None or self.trust is not None,
        )

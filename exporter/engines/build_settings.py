"""How to build, as it was asked for."""

import dataclasses
import os
from collections.abc import Mapping

from ttc.profiles.build_profile import BuildProfile

__all__ = ["BuildSettings"]


@dataclasses.dataclass(frozen=True, slots=True)
class BuildSettings:
    """The options of a build, as `ttc.build` and `ttc build` take them; `make_plan` checks them.

    Attributes:
        backend: "tensorrt-rtx" or "tensorrt".
        form: "whole" or "cut" (`ttc.formats.program`).
        profile: preset, TOML file or profile; None: "latency", fitted to the model.
        shapes: single sizes of the profile replaced: {"batch": {"max": 8}}.
        targets: compute capabilities like "8.9"; None: the profile's.
        bake: put the weights into the engines.
        cache: look for the engines in the cache, and keep them there.
        check_reproducible: build everything twice and compare.
        layers: also write the layers of every network.
        sign: PEM file of an ed25519 private key; None: no signature.
        timing_cache: file to start from and to update (TensorRT only); None: neither.
    """

    backend: str = "tensorrt-rtx"
    form: str = "whole"
    profile: str | os.PathLike[str] | BuildProfile | None = None
    shapes: Mapping[str, Mapping[str, int]] = dataclasses.field(default_factory=dict)
    targets: tuple[str, ...] | None = None
    bake: bool = False
    cache: bool = True
    check_reproducible: bool = False
    layers: bool = False
    sign: str | os.PathLike[str] | None = None
    timing_cache: str | os.PathLike[str] | None = None

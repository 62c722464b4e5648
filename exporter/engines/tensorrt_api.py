"""One interface to TensorRT and TensorRT-RTX. Their Python APIs are nearly the same; this file holds the
differences.

                        TensorRT-RTX                       TensorRT
    package             tensorrt_rtx                       tensorrt
    needs a GPU         only to run engines                to build them too
    targets             any list of `TARGETS`              the GPU of the machine, which is then not named
    plugins             none: ops are inlined or cut out   by `plugin_namespace`, registered first
    timing cache        none: kernels are made at run time yes

What is written here for TensorRT has not been run yet; the calls that both share are exercised through
TensorRT-RTX.
"""

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ttc.base.distribution import install
from ttc.base.names import BACKEND_PACKAGES
from ttc.base.tensorrt_package import find_backend
from ttc.errors import BackendError, InputError

__all__ = ["TARGETS", "TensorRT", "check_targets"]

# What TensorRT-RTX 1.7 can build for. 8.0 builds, though the support matrix starts at 7.5, 8.6.
TARGETS = ("7.5", "8.0", "8.6", "8.9", "12.0", "12.1")
_NO_BFLOAT16 = ("7.5",)
_DATA_CENTRE = ("9.0", "10.0", "10.3", "11.0")


def check_targets(backend: str, targets: Sequence[str], dtype: str | None) -> None:
    """Raise `InputError` for a target that this backend cannot build for, saying which can."""
    if backend == "tensorrt" and len(targets) > 1:
        raise InputError(
            f"targets {', '.join(targets)}: TensorRT builds for one GPU, that of the machine; name only that"
        )
    for target in targets:
        if backend == "tensorrt":
            # Whether the machine's GPU is that target shows only when the builder starts.
            if target not in (*TARGETS, *_DATA_CENTRE):
                raise InputError(
                    f"target {target!r} is unknown; valid: {', '.join((*TARGETS, *_DATA_CENTRE))}"
                )
        elif target in _DATA_CENTRE:
            raise InputError(
                f"target {target} (a data-centre GPU) is none that TensorRT-RTX can build for; "
                "use --backend tensorrt on a machine with that GPU"
            )
        elif target not in TARGETS:
            raise InputError(f"target {target!r} is unknown; TensorRT-RTX builds for {', '.join(TARGETS)}")
        elif dtype == "bfloat16" and target in _NO_BFLOAT16:
            raise InputError(
                f"target {target} has no bfloat16; export with --dtype float16, or leave out the target"
            )


@dataclass(frozen=True, slots=True)
class TensorRT:
    """An imported backend. `api` is its Python module."""

    backend: str
    api: Any

    @classmethod
    def load(cls, backend: str) -> "TensorRT":
        """Import the backend.

        Raises:
            MissingDependencyError: it is not installed.
            BackendError: it is installed, but cannot be loaded.
        """
        find_backend(backend)
        try:
            return cls(backend, importlib.import_module(BACKEND_PACKAGES[backend]))
        except (ImportError, OSError) as fault:
            raise BackendError(
                f"{backend} is installed, but its library cannot be loaded ({fault}); "
                f"install it again with: {install(backend, options='--force-reinstall')}"
            ) from None

    def register_plugins(self, targets: Sequence[str]) -> None:
        """Make the `ttc` plugins known to TensorRT's parser, before a network is parsed; once a process.

        Their kernels are compiled for the one target, or for the machine's GPU where none is named.
        TensorRT-RTX has no plugins.

        Raises:
            BackendError: no target is named, and the machine has no GPU.
        """
        if self.backend == "tensorrt-rtx":
            return
        from ttc.plugins.registration import register_all

        register_all(
            importlib.import_module(f"{BACKEND_PACKAGES[self.backend]}.plugin"),
            lambda: targets[0] if targets else _target_of_machine(),
        )

    @property
    def version(self) -> str:
        """Version of the library."""
        return str(self.api.__version__)

    def logger(self, say: Callable[[str, str], None]) -> Any:
        """Return a logger that calls `say(severity, text)`; severities are "error", "warning", "info"."""
        base: Any = self.api.ILogger
        names = {
            base.INTERNAL_ERROR: "error",
            base.ERROR: "error",
            base.WARNING: "warning",
            base.INFO: "info",
        }

        class Logger(base):  # type: ignore[misc]  # its base is only known at run time
            def log(self, severity: Any, message: str) -> None:
                if severity in names:
                    say(names[severity], message)

        return Logger()

    def progress_monitor(self, step: Callable[[str, int, int], bool]) -> Any:
        """Return a progress monitor that calls `step(phase, done, total)`, which returns whether to go on."""
        base: Any = self.api.IProgressMonitor

        class Monitor(base):  # type: ignore[misc]  # as above
            def __init__(self) -> None:
                base.__init__(self)
                self.totals: dict[str, int] = {}

            def phase_start(self, name: str, parent: str | None, steps: int) -> None:
                self.totals[name] = steps
                step(name, 0, steps)

            def step_complete(self, name: str, done: int) -> bool:
                return step(name, done + 1, self.totals.get(name, 0))

            def phase_finish(self, name: str) -> None:
                total = self.totals.pop(name, 0)
                step(name, total, total)

        return Monitor()

    def network(self, builder: Any) -> Any:
        """Return an empty network, typed as the graph is typed."""
        flag = self.api.NetworkDefinitionCreationFlag.STRONGLY_TYPED
        return builder.create_network(1 << int(flag))

    def config(self, builder: Any, targets: Sequence[str]) -> Any:
        """Return builder settings for these targets."""
        config = builder.create_builder_config()
        # Float32 means float32 here: near-ties decide the routing, and the scan sums over long blocks.
        config.clear_flag(self.api.BuilderFlag.TF32)
        if self.backend == "tensorrt-rtx":
            # Needed to capture the engine into a CUDA graph of one's own.
            config.set_flag(self.api.BuilderFlag.REQUIRE_USER_ALLOCATION)
            if targets:
                config.num_compute_capabilities = len(targets)
                for i, target in enumerate(targets):
                    capability = getattr(self.api.ComputeCapability, f"SM{target.replace('.', '')}")
                    config.set_compute_capability(capability, i)
        return config

    def use_timing_cache(self, config: Any, content: bytes) -> None:
        """Start from the timing cache of an earlier build (empty: from nothing).

        Raises:
            BackendError: the cache belongs to another GPU or version.
        """
        if not config.set_timing_cache(config.create_timing_cache(content), False):
            raise BackendError("the timing cache belongs to another GPU or TensorRT version; name a new file")

    def timing_cache(self, config: Any) -> bytes:
        """Return the timing cache after a build."""
        return bytes(config.get_timing_cache().serialize())


def _target_of_machine() -> str:
    """Return the compute capability of the first GPU, such as "9.0"."""
    try:
        from cuda.core import Device

        major, minor = Device().compute_capability
    except Exception as fault:  # no package, no driver or no GPU: each has an exception of its own
        raise BackendError(
            f"cannot tell the compute capability of this machine's GPU ({fault}); name it with --sm"
        ) from None
    return f"{major}.{minor}"

"""One interface to TensorRT and TensorRT-RTX. Their Python APIs are nearly the same; this file holds the
differences.

                        TensorRT-RTX                       TensorRT
    package             tensorrt_rtx                       tensorrt
    needs a GPU         only to run engines                to build them too
    targets             any list of `TARGETS`              the GPU of the machine, which is then not named
    plugins             none: ops are inlined or cut out   by `plugin_namespace`, registered first
    timing cache        none: kernels are made at run time yes
    threads             one, for the same bytes again      one for each core

What is written here for TensorRT has not been run yet; the calls that both share are exercised through
TensorRT-RTX.
"""

import importlib
import importlib.util
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

from ttc.base.distribution import install
from ttc.base.machine import usable_cores
from ttc.base.names import BACKEND_PACKAGES
from ttc.base.tensorrt_package import find_backend
from ttc.errors import BackendError, InputError
from ttc.exporter.engines.engine_spec import CompilerOptions

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

    def load_plugins(self, logger: Any, files: Sequence[str]) -> None:
        """Make TensorRT's own plugins known, and those in files: shared libraries and Python modules.

        Raises:
            BackendError: a file cannot be loaded.
        """
        if self.backend == "tensorrt-rtx":
            return
        self.api.init_libnvinfer_plugins(logger, "")
        for i, file in enumerate(files):
            try:
                if file.endswith(".py"):
                    _run_module(f"ttc_plugins_{i}", file)
                elif self.api.get_plugin_registry().load_library(file) is None:
                    raise BackendError(f"{file}: no shared library with plugins")
            except BackendError:
                raise
            except Exception as fault:  # whatever the module or the library raises
                raise BackendError(f"{file}: cannot be loaded ({type(fault).__name__}: {fault})") from None

    def logger(self, say: Callable[[str, str], None], verbose: bool = False) -> Any:
        """Return a logger that calls `say(severity, text)`.

        Severities are "error", "warning", "info" and, if wanted, "verbose".
        """
        base: Any = self.api.ILogger
        names = {
            base.INTERNAL_ERROR: "error",
            base.ERROR: "error",
            base.WARNING: "warning",
            base.INFO: "info",
        } | ({base.VERBOSE: "verbose"} if verbose else {})

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

    def builder(self, logger: Any) -> Any:
        """Return a builder."""
        builder = self.api.Builder(logger)
        builder.max_threads = 1 if self.backend == "tensorrt-rtx" else usable_cores()
        return builder

    def build(self, builder: Any, network: Any, config: Any, file: BinaryIO) -> bool:
        """Build a network into an open file; return whether the library did. The engine is never in memory
        twice.
        """
        base: Any = self.api.IStreamWriter

        class Writer(base):  # type: ignore[misc]  # as below
            def __init__(self) -> None:
                base.__init__(self)

            def write(self, data: bytes) -> int:
                return file.write(data)

        return bool(builder.build_serialized_network_to_stream(network, config, Writer()))

    def network(self, builder: Any) -> Any:
        """Return an empty network, typed as the graph is typed."""
        flag = self.api.NetworkDefinitionCreationFlag.STRONGLY_TYPED
        return builder.create_network(1 << int(flag))

    def config(self, builder: Any, options: CompilerOptions) -> Any:
        """Return the library's settings for these options."""
        config, targets = builder.create_builder_config(), options.targets
        if not options.tf32:
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

    def use_timing_cache(self, config: Any, content: bytes, is_named: bool) -> None:
        """Start from the timing cache of an earlier build (empty: from nothing).

        Args:
            config: the library's settings.
            content: of the cache.
            is_named: whether the user named it; else one of another GPU is left aside.

        Raises:
            BackendError: the cache belongs to another GPU or version.
        """
        if config.set_timing_cache(config.create_timing_cache(content), False):
            return
        if is_named:
            raise BackendError("the timing cache belongs to another GPU or TensorRT version; name a new file")
        config.set_timing_cache(config.create_timing_cache(b""), False)

    def timing_cache(self, config: Any) -> bytes:
        """Return the timing cache after a build."""
        return bytes(config.get_timing_cache().serialize())


def _run_module(name: str, file: str) -> None:
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise BackendError(f"{file}: no Python module")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)


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

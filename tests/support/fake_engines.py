"""Sets of engines whose engines are ONNX files, and a TensorRT that runs those on ONNX Runtime.

Manifest, digests, programs and tensor records are what `ttc build` writes; only the engines' content is not
what TensorRT would make of it. So all of the run time but TensorRT itself can be run on the CPU.
"""

import hashlib
import importlib.machinery
import json
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from tests.support.fake_device import FakeDevice, no_compiler
from tests.support.partitioned import naive_binder
from ttc import __version__
from ttc.exporter.engines.build_settings import BuildSettings
from ttc.exporter.engines.lower_graph import engine_specs
from ttc.exporter.engines.onnx_file import NETWORK_FILE
from ttc.exporter.engines.planning import BuildPlan, make_plan
from ttc.formats.engines import MANIFEST_FILE, EngineRecord, EnginesManifest
from ttc.formats.manifest import FileRecord
from ttc.profiles.build_profile import BuildProfile, Range
from ttc.runtime.gpu import backend as backend_module
from ttc.runtime.gpu import load_engines as loading

PROFILE = BuildProfile(
    "test", batch=Range(1, 1, 4), block=Range(1, 8, 16), chunk=Range(1, 8, 16), capacity=Range(16, 64, 128)
)


def write_engines(
    bundle: Path, folder: Path, form: str, profile: BuildProfile = PROFILE, plugins: bool = False
) -> Path:
    """Write a set of engines for a bundle; `plugins`: of the networks that TensorRT gets."""
    folder.mkdir(parents=True)
    plan = make_plan(bundle, None, BuildSettings(form=form, profile=profile))
    assert isinstance(plan, BuildPlan)
    files, engines, programs = {}, {}, {}
    for planned in plan.graphs:
        graph = planned.source
        specs, program = engine_specs(graph, form, planned.variants, False, plugins)
        for spec in specs:
            spec.write_network(folder)
            files[f"{spec.name}.engine"] = (folder / NETWORK_FILE).read_bytes()
            (folder / NETWORK_FILE).unlink()
            engines[spec.name] = EngineRecord(spec.role, spec.inputs, spec.outputs, 1)
        if program is not None:
            programs[graph.role] = f"{graph.role}.program.json"
            files[programs[graph.role]] = json.dumps(program.to_dict()).encode()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    fields: dict[str, Any] = {
        "ttc_version": __version__,
        "backend": "tensorrt-rtx",
        "backend_version": "1.7.0.1",
        "form": form,
        "targets": (),
        "compute_dtype": plan.graphs[0].source.compute_dtype,
        "profile": profile.to_dict(),
        "baked": False,
        "fixed_addresses": True,
        "sources": {planned.source.role: planned.source.sha256 for planned in plan.graphs},
        "kernels": {},
        "engines": engines,
        "programs": programs,
        "files": {n: FileRecord(hashlib.sha256(c).hexdigest(), len(c)) for n, c in files.items()},
    }
    manifest = EnginesManifest(**fields)
    (folder / MANIFEST_FILE).write_bytes(manifest.to_json())
    return folder


def changed_engines(folder: Path, tmp_path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """Copy a set of engines, change its manifest, and give that its own digest again."""
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    content = json.loads((copy / MANIFEST_FILE).read_text())
    change(content)
    content.pop("manifest_sha256")
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    content["manifest_sha256"] = hashlib.sha256(text.encode()).hexdigest()
    (copy / MANIFEST_FILE).write_text(json.dumps(content))
    EnginesManifest.from_json((copy / MANIFEST_FILE).read_bytes(), "test")
    return copy


def install(monkeypatch: pytest.MonkeyPatch) -> "FakeTensorRT":
    """A fake TensorRT-RTX of version 1.7.0.1, as what is installed, without a folder to keep kernels in."""
    monkeypatch.setenv("XDG_CACHE_HOME", os.devnull)
    fake = FakeTensorRT()
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", fake)
    monkeypatch.setattr("ttc.runtime.gpu.engine_files.backend_version", lambda backend: "1.7.0.1")
    return fake


def load_onto(monkeypatch: pytest.MonkeyPatch, devices: Sequence[FakeDevice]) -> None:
    """Let engines be loaded onto these devices; ops are the naive ops."""
    monkeypatch.setattr(loading, "CudaDevice", lambda index, backend: devices[index])
    monkeypatch.setattr(loading, "PtxOps", lambda device, dtype: naive_binder(device))
    made = backend_module.DeviceBackend
    monkeypatch.setattr(loading, "DeviceBackend", lambda c, d, e, level: made(c, d, e, level, [no_compiler]))


class FakeTensorRT:
    """What `ttc.runtime.gpu.tensorrt` uses of the module tensorrt_rtx. `calls`: what was called, in order."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.detailed = True  # whether engines were built with detailed verbosity
        self.made_on: list[str | None] = []  # the current GPU, for every engine and context made
        self.refuse: str | None = None  # name of a method that answers as TensorRT does when it fails
        outer = self

        class ILogger:
            INTERNAL_ERROR, ERROR, WARNING, INFO = range(4)

        class Runtime:
            def __init__(self, logger: Any) -> None:
                self.logger = logger

            def deserialize_cuda_engine(self, content: bytes) -> Any:
                outer.calls.append("deserialize")
                outer.made_on.append(FakeDevice.current)
                if outer.refuse == "deserialize":
                    self.logger.log(ILogger.ERROR, "this engine is for another GPU")
                    return None
                return FakeEngine(outer, content)

        class _Names:
            def __getattr__(self, name: str) -> str:
                return name

        class IProfiler:
            pass

        class LayerInformationFormat:
            JSON = "json"

        self.ILogger, self.Runtime, self.IProfiler = ILogger, Runtime, IProfiler
        self.LayerInformationFormat = LayerInformationFormat
        self.ExecutionContextAllocationStrategy = self.CudaGraphStrategy = _Names()
        self.DynamicShapesKernelSpecializationStrategy = _Names()
        self.__name__ = "tensorrt_rtx"
        self.__spec__ = importlib.machinery.ModuleSpec("tensorrt_rtx", None)


class FakeEngine:
    device_memory_size_v2 = 1000

    def __init__(self, api: FakeTensorRT, content: bytes) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        self.api, self.made_on = api, FakeDevice.current
        self.name = hashlib.sha256(content).hexdigest()
        nodes = [node.name for node in onnx.load_from_string(content).graph.node]
        # Three nodes a layer; layers in one way of TensorRT's, or in the other.
        self.layers = [
            (f"__myl_{k}", "\x1e".join(f"[ONNX Layer: {n}]" for n in fused))
            if k % 6 and api.detailed
            else (" + ".join(fused), "")
            for k in range(0, len(nodes), 3)
            if (fused := nodes[k : k + 3])
        ]

    def create_engine_inspector(self) -> Any:
        names = [name for name, _ in self.layers]
        told = [{"Name": name, "LayerType": "kgen", "Metadata": data} for name, data in self.layers]
        text = json.dumps({"Layers": told if self.api.detailed else names, "Bindings": []})
        return SimpleNamespace(get_engine_information=lambda form: text)

    def create_runtime_config(self) -> Any:
        class Config:
            cache: Any = None

            def set_execution_context_allocation_strategy(self, strategy: str) -> None:
                assert strategy == "USER_MANAGED"

            def create_runtime_cache(_) -> "FakeRuntimeCache":
                self.api.calls.append("cache")
                return FakeRuntimeCache(self.api)

            def set_runtime_cache(self, cache: "FakeRuntimeCache") -> bool:
                self.cache = cache
                return True

        return Config()

    def create_execution_context(self, config: Any) -> Any:
        assert config.cuda_graph_strategy == "DISABLED"
        assert config.dynamic_shapes_kernel_specialization_strategy == "EAGER"
        if self.name not in config.cache.made:
            self.api.calls.append("kernels")
            config.cache.made.add(self.name)
        self.api.calls.append("context")
        assert FakeDevice.current == self.made_on, "made on the GPU that its engine is on"
        return FakeContext(self)


class FakeRuntimeCache:
    """Holds the engines that have their kernels."""

    def __init__(self, api: FakeTensorRT) -> None:
        self.api, self.made = api, set[str]()

    def deserialize(self, blob: bytes) -> bool:
        if self.api.refuse == "deserialize kernels":
            return False
        self.made = set(json.loads(blob))
        return True

    def serialize(self) -> bytes:
        return json.dumps(sorted(self.made)).encode()


class FakeContext:
    def __init__(self, engine: FakeEngine) -> None:
        self.engine, self.api = engine, engine.api
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}
        self.memory: tuple[int, int] | None = None
        self.profiler: Any = None
        self.enqueue_emits_profile = True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shapes[name] = shape
        return self.api.refuse != "set_input_shape"

    def set_device_memory(self, memory: int, size: int) -> None:
        assert size >= self.engine.device_memory_size_v2
        self.memory = (memory, size)

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self.addresses[name] = memory
        return True

    def is_stream_capturable(self, stream: int) -> bool:
        self.api.calls.append("is_stream_capturable")
        return self.api.refuse != "is_stream_capturable"

    def execute_async_v3(self, stream: int) -> bool:
        self.api.calls.append("execute")
        if self.api.refuse == "execute":
            return False
        assert self.memory is not None, "no scratch memory was given"
        session = self.engine.session
        binding = session.io_binding()
        made: dict[str, int] = {}
        for value in session.get_inputs():
            shape = self.shapes.get(value.name) or tuple(value.shape)
            made.update({str(d): n for d, n in zip(value.shape, shape, strict=True)})
            dtype = _DTYPES[value.type]
            binding.bind_input(value.name, "cpu", 0, dtype, shape, self.addresses[value.name])
        for value in session.get_outputs():
            binding.bind_output(value.name, "cpu")
        session.run_with_iobinding(binding)
        for value, array in zip(session.get_outputs(), binding.copy_outputs_to_cpu(), strict=True):
            _write(self.addresses[value.name], array)
        if self.profiler is not None and self.enqueue_emits_profile:
            for name, _ in self.engine.layers:
                self.profiler.report_layer_time(name, LAYER_MILLISECONDS)
        return True


# What every layer of a fake engine takes.
LAYER_MILLISECONDS = 0.25
_DTYPES = {
    "tensor(float)": np.float32,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
    "tensor(bool)": np.bool_,
}


def _write(address: int, array: Any) -> None:
    import ctypes

    flat = np.ascontiguousarray(array)
    ctypes.memmove(address, flat.ctypes.data, flat.nbytes)

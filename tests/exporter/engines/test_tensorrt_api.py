"""What the builder calls, against NVIDIA's own Python API of TensorRT 11.4 (its libraries are stubs)."""

import pytest

from tests.support.tensorrt_stubs import make_stubs, run_with_tensorrt
from ttc.base.dtypes import tensorrt_name
from ttc.errors import BackendError, InputError
from ttc.exporter.engines import tensorrt_api
from ttc.exporter.engines.tensorrt_api import check_targets

DTYPES = ("float32", "float16", "bfloat16", "int64", "int32", "int8", "uint8", "bool")
# Class → what `ttc.exporter.engines.compile` and `ttc.exporter.engines.tensorrt_api` use of it.
USED = {
    "Builder": (
        "build_serialized_network_to_stream",
        "create_builder_config",
        "create_network",
        "create_optimization_profile",
        "max_threads",
    ),
    "IBuilderConfig": (
        "add_optimization_profile",
        "clear_flag",
        "create_timing_cache",
        "get_timing_cache",
        "progress_monitor",
        "set_timing_cache",
    ),
    "INetworkDefinition": ("get_input", "get_layer", "get_output", "num_inputs", "num_layers", "num_outputs"),
    "IOptimizationProfile": ("get_shape", "get_shape_input", "set_shape", "set_shape_input"),
    "ILayer": ("get_input", "get_output", "metadata", "name", "num_inputs", "num_outputs", "type"),
    "ITensor": ("dtype", "get_dimension_name", "is_shape_tensor", "name", "shape"),
    "ITimingCache": ("serialize",),
    "IPluginRegistry": ("load_library",),
    "IStreamWriter": ("write",),
    "OnnxParser": ("get_error", "num_errors", "parse", "parse_from_file"),
    "ParserError": ("desc", "node", "node_name", "node_operator"),
    "BuilderFlag": ("TF32",),
    "NetworkDefinitionCreationFlag": ("STRONGLY_TYPED",),
    "DataType": tuple(map(tensorrt_name, DTYPES)),
}

CODE = """
import json, sys
from ttc.exporter.engines.engine_spec import CompilerOptions
from ttc.exporter.engines.tensorrt_api import TensorRT
from ttc.base.tensorrt_package import backend_version
from ttc.errors import BackendError
used = json.load(sys.stdin)
backend = TensorRT.load("tensorrt")
missing = [f"{kind}.{name}" for kind, names in used.items() for name in names
           if not hasattr(getattr(backend.api, kind, None), name)]
said, steps = [], []
logger = backend.logger(lambda severity, text: said.append([severity, text]))
for severity in ("INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE"):
    logger.log(getattr(backend.api.ILogger, severity), severity.lower())
monitor = backend.progress_monitor(lambda *step: steps.append(step) is None)
monitor.phase_start("compile", None, 2)
assert monitor.step_complete("compile", 0) is True
monitor.phase_finish("compile")

class Builder:
    def create_network(self, flags):
        return flags
    def create_builder_config(self):
        return Config()

class Config:
    cleared = ()
    def clear_flag(self, flag):
        assert isinstance(flag, backend.api.BuilderFlag)
        self.cleared += (flag.name,)

from tests.support.tensorrt_plugins import replace_libraries

replace_libraries()
backend.register_plugins(["9.0"])
plugins = [name for name in dir(backend.api.plugin.op.ttc) if name[0].isupper()]
import pathlib, tempfile
with tempfile.TemporaryDirectory() as folder:
    good, bad = pathlib.Path(folder, "good.py"), pathlib.Path(folder, "bad.py")
    good.write_text("import builtins; builtins.plugins_ran = True")
    bad.write_text("1 / 0")
    backend.load_plugins(logger, [str(good)])
    try:
        backend.load_plugins(logger, [str(bad)])
        refused = ""
    except BackendError as fault:
        refused = str(fault)
import builtins
typed = 1 << int(backend.api.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
print(json.dumps({
    "version": backend_version("tensorrt"),
    "missing": missing,
    "said": said,
    "steps": steps,
    "typed": backend.network(Builder()) == typed,
    "cleared": backend.config(Builder(), CompilerOptions("tensorrt", ("9.0",))).cleared,
    "kept": backend.config(Builder(), CompilerOptions("tensorrt", tf32=True)).cleared,
    "plugins": sorted(plugins),
    "loaded": getattr(builtins, "plugins_ran", False),
    "refused": refused,
}))
"""


@pytest.fixture(scope="module")
def nvidia(tmp_path_factory):
    return run_with_tensorrt(make_stubs(tmp_path_factory.mktemp("stubs")), CODE, USED)


def test_everything_that_is_called_exists(nvidia):
    assert nvidia["version"].startswith("11.4")
    assert nvidia["missing"] == []


def test_logger_and_monitor_are_accepted(nvidia):
    severities = ["error", "error", "warning", "info"]
    assert nvidia["said"] == [
        [severity, text]
        for severity, text in zip(severities, ("internal_error", "error", "warning", "info"), strict=True)
    ]
    assert nvidia["steps"] == [["compile", 0, 2], ["compile", 1, 2], ["compile", 2, 2]]


def test_networks_are_typed_and_float32_stays_float32(nvidia):
    assert nvidia["typed"] is True
    assert nvidia["cleared"] == ["TF32"]
    assert nvidia["kept"] == []


def test_plugins_are_registered_before_a_network_is_parsed(nvidia):
    from ttc.plugins.table import LAUNCHED_OPS

    assert nvidia["plugins"] == sorted(op.name for op in LAUNCHED_OPS if not op.in_place)


def test_plugins_of_other_people_are_loaded_and_their_faults_told(nvidia):
    assert nvidia["loaded"] is True
    assert nvidia["refused"].endswith("bad.py: cannot be loaded (ZeroDivisionError: division by zero)")


def test_tensorrt_takes_one_target() -> None:
    check_targets("tensorrt", ["9.0"], "bfloat16")
    with pytest.raises(InputError, match=r"9.0, 10.0: TensorRT builds for one GPU"):
        check_targets("tensorrt", ["9.0", "10.0"], "bfloat16")


def test_a_machine_without_a_gpu_says_how_to_name_the_target(monkeypatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "cuda.core", None)
    with pytest.raises(BackendError, match="name it with --sm"):
        tensorrt_api._target_of_machine()

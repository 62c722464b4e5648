"""NVIDIA's TensorRT Python API without TensorRT's libraries.

The package tensorrt_cu13_bindings holds the whole Python API, the module `tensorrt.plugin` and its checks
included; it wants three shared libraries, of which it needs nine functions to be there. Stubs give it those,
returning null. What only Python does can then be tested anywhere; networks, parsers and engines do not exist.

The stubs have to be on the loader's path before the process starts, so whatever uses them runs in a process
of its own: `run_with_tensorrt`.
"""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
_FUNCTIONS = {
    "libnvinfer.so.11": (
        "createInferBuilder_INTERNAL",
        "createInferRefitter_INTERNAL",
        "createInferRuntime_INTERNAL",
        "getBuilderPluginRegistry",
        "getPluginRegistry",
    ),
    "libnvonnxparser.so.11": (
        "createNvOnnxParser_INTERNAL",
        "createNvOnnxParserRefitter_INTERNAL",
        "getNvOnnxParserVersion",
    ),
    "libnvinfer_plugin.so.11": ("initLibNvInferPlugins",),
}
# Makes `import tensorrt` give the real API, whose package has another name.
PRELUDE = """
import sys
import tensorrt_bindings
sys.modules["tensorrt"] = tensorrt_bindings
import tensorrt_bindings.plugin
sys.modules["tensorrt.plugin"] = tensorrt_bindings.plugin
"""


def make_stubs(folder: Path) -> Path:
    """Compile the stubs into a folder; a visible skip where the bindings or a C compiler are missing."""
    if importlib.util.find_spec("tensorrt_bindings") is None:
        pytest.skip("tensorrt_cu13_bindings is not installed")
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler `cc` to build stubs of TensorRT's libraries with")
    for library, functions in _FUNCTIONS.items():
        source = folder / f"{library}.c"
        source.write_text("".join(f"void *{name}(void) {{ return 0; }}\n" for name in functions))
        command = [compiler, "-shared", "-fPIC", f"-Wl,-soname,{library}", "-o", str(folder / library)]
        subprocess.run([*command, str(source)], check=True)
    return folder


def run_with_tensorrt(stubs: Path, code: str, task: Any = None) -> Any:
    """Run Python code in a fresh process in which `import tensorrt` works.

    The code finds the task, as JSON, on its standard input; the last line it prints is JSON and the result.
    """
    paths = [str(stubs), *filter(None, [os.environ.get("LD_LIBRARY_PATH")])]
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + code],
        input=json.dumps(task),
        env={**environment, "LD_LIBRARY_PATH": os.pathsep.join(paths), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])

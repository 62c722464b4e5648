"""`ttc doctor`: on this machine, and on machines made up."""

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest
from click.testing import CliRunner

import ttc
from ttc import doctor
from ttc.cli import program

ROOT = Path(__file__).parents[1]


def words() -> str:
    done = CliRunner().invoke(program, ["doctor"])
    assert done.exit_code == 0, done.output
    assert done.stderr == ""
    return done.stdout


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """`machine(versions, …)`: what doctor says where these distributions, GPUs and providers are."""

    def examine(
        versions: dict[str, str],
        smi: str | None = None,
        providers: tuple[str, ...] = (),
        cuda: str | None = None,
        broken: tuple[str, ...] = (),
    ) -> dict[str, Any]:
        def version(name: str) -> str:
            if name not in versions:
                raise PackageNotFoundError(name)
            return versions[name]

        def import_module(name: str) -> Any:
            if name in broken:
                raise OSError(f"lib{name}.so:\n cannot open")
            if name == "onnxruntime":
                return SimpleNamespace(get_available_providers=lambda: list(providers))
            there = SimpleNamespace(is_available=lambda: cuda is not None)
            return SimpleNamespace(version=SimpleNamespace(cuda=cuda), cuda=there)

        def run(command: list[str], **_: object) -> Any:
            if smi is None:
                raise FileNotFoundError(command[0])
            return SimpleNamespace(stdout=smi)

        modules = {p.module for p in doctor.PACKAGES if any(name in versions for name in p.names)}
        monkeypatch.setattr(doctor, "version", version)
        monkeypatch.setattr(doctor, "find_spec", lambda name: object() if name in modules else None)
        monkeypatch.setattr(doctor, "import_module", import_module)
        monkeypatch.setattr(subprocess, "run", run)
        found = doctor.examine()
        assert json.loads(json.dumps(found)) == found
        return found

    return examine


def abilities(found: dict[str, Any]) -> dict[str, bool]:
    return {ability["what"]: ability["works"] for ability in found["abilities"]}


def test_this_machine() -> None:
    found = json.loads(CliRunner().invoke(program, ["doctor", "--json"]).stdout)
    assert found["ttc"] == ttc.__version__
    assert found["packages"]["onnxruntime"]["version"] == onnxruntime.__version__
    assert found["onnxruntime_providers"] == onnxruntime.get_available_providers()
    assert abilities(found)["generate on the CPU"]
    assert found["memory_bytes"] > 2**28
    assert 1 <= found["cpu"]["usable_cores"] <= found["cpu"]["cores"]
    shown = words()
    assert onnxruntime.__version__ in shown
    assert re.search(r"^yes +generate on the CPU +onnxruntime$", shown, re.MULTILINE)
    assert np.__version__ not in found["packages"]


def test_the_extras_it_names_exist() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    commands = [package.install for package in doctor.PACKAGES] + list(doctor._CUDA_STEPS)
    named = {extra for command in commands for extra in re.findall(r"ttc\[([\w-]+)\]", command)}
    assert named >= {"torch", "export", "tensorrt", "tensorrt-rtx", "kernels", "cuda"}
    assert named <= set(project["optional-dependencies"])


def test_a_bare_run_time(machine: Callable[..., dict[str, Any]]) -> None:
    found = machine({"onnxruntime": "1.22.0"}, providers=("CPUExecutionProvider",))
    assert abilities(found) == {
        "generate on the CPU": True,
        "generate on the CPU, --backend torch": False,
        "export": False,
        "generate on a GPU": False,
    }
    shown = words()
    assert "pip install 'ttc[export]'" in shown
    assert "pip install 'ttc[torch]'" in shown
    assert shown.count("pip install 'ttc[torch]'") == 1


def test_torch_alone_does_not_export(machine: Callable[..., dict[str, Any]]) -> None:
    found = machine({"torch": "2.13.0"})
    assert not abilities(found)["export"]
    assert abilities(found)["generate on the CPU, --backend torch"]
    assert not abilities(found)["generate on the CPU"]
    assert abilities(machine({"torch": "2.13.0", "onnxscript": "0.7"}))["export"]


def test_a_gpu(machine: Callable[..., dict[str, Any]]) -> None:
    smi = "NVIDIA H200, 580.1, 143771, 9.0\nNVIDIA L40S, 580.1, 46068, 8.9\n"
    versions = {"onnxruntime-gpu": "1.32", "torch": "2.13.0+cu130"}
    found = machine(versions, smi, ("CUDAExecutionProvider", "CPUExecutionProvider"), cuda="13.0")
    assert found["gpu"]["driver"] == "580.1"
    assert [device["name"] for device in found["gpu"]["devices"]] == ["NVIDIA H200", "NVIDIA L40S"]
    assert abilities(found)["generate on a GPU"]
    assert abilities(found)["generate on a GPU, --backend torch"]
    assert "NVIDIA L40S, 46068 MiB, compute capability 8.9" in words()


def test_a_gpu_that_nothing_can_use(machine: Callable[..., dict[str, Any]]) -> None:
    smi = "NVIDIA H200, 580.1, 143771, 9.0\n"
    found = machine({"onnxruntime": "1.32", "torch": "2.13.0+cpu"}, smi, ("CPUExecutionProvider",))
    assert not abilities(found)["generate on a GPU"]
    shown = words()
    for step in doctor._CUDA_STEPS:
        assert step in shown


@pytest.mark.parametrize("smi", ["", "No devices were found\n", "a, b\n"])
def test_nvidia_smi_that_names_nothing(machine: Callable[..., dict[str, Any]], smi: str) -> None:
    assert machine({}, smi)["gpu"] is None


def test_both_onnx_runtimes(machine: Callable[..., dict[str, Any]]) -> None:
    found = machine({"onnxruntime": "1.32", "onnxruntime-gpu": "1.31"})
    (warning,) = found["warnings"]
    assert "onnxruntime 1.32 and onnxruntime-gpu 1.31 are both installed" in warning
    assert f"warning: {warning}" in words()
    assert machine({"onnxruntime": "1.32"})["warnings"] == []


def test_broken_installations(machine: Callable[..., dict[str, Any]]) -> None:
    found = machine({"onnxruntime": "1.32", "torch": "2.13"}, broken=("onnxruntime", "torch"))
    assert not any(abilities(found).values())
    assert found["packages"]["torch"]["fault"] == "OSError: libtorch.so: cannot open"
    assert "torch is broken: OSError: libtorch.so: cannot open" in words()


def test_importing_it_loads_nothing_heavy() -> None:
    code = "import sys; import ttc.doctor; assert not {'torch', 'onnxruntime'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)

"""`ttc doctor`: on this machine, and on machines made up."""

import json
import re
import subprocess
import sys
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
from ttc.cli import program
from ttc.doctor import abilities as doctor
from ttc.doctor.cuda_driver import examine_driver

ROOT = Path(__file__).parents[2]


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
        driver: dict[str, Any] | None = None,
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
            if name == "cuda.bindings.nvrtc":
                return SimpleNamespace(nvrtcVersion=lambda: (0, 13, 0))
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
        monkeypatch.setattr(doctor, "examine_driver", lambda: driver)
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


def test_a_bare_run_time(machine: Callable[..., dict[str, Any]]) -> None:
    found = machine({"onnxruntime": "1.22.0"}, providers=("CPUExecutionProvider",))
    assert abilities(found) == {
        "generate on the CPU": True,
        "generate on the CPU, --backend torch": False,
        "export": False,
        "generate on a GPU": False,
        "verify": False,
        "profile": True,
        "polygraphy run --ttc": False,
        "polygraphy debug reduce": False,
        "build, TensorRT-RTX": False,
        "build --backend tensorrt": False,
    }
    shown = words()
    assert "pip install 'twotower-compiler[export]'" in shown
    assert "pip install 'twotower-compiler[torch]'" in shown
    assert (
        len(
            re.findall(
                r"^  pip install 'twotower-compiler\[torch\]' +generate on the CPU", shown, re.MULTILINE
            )
        )
        == 1
    )


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


def test_what_tools_and_builders_need(machine: Callable[..., dict[str, Any]]) -> None:
    versions = {"onnxruntime": "1.32", "torch": "2.13", "polygraphy": "0.53", "tensorrt_rtx": "1.7"}
    found = abilities(machine(versions, providers=("CPUExecutionProvider",)))
    assert found["verify"]
    assert found["polygraphy run --ttc"]
    assert not found["polygraphy debug reduce"]
    assert found["build, TensorRT-RTX"]
    assert not found["build --backend tensorrt"]
    smi = "NVIDIA H200, 580.1, 143771, 9.0\n"
    assert abilities(machine({"tensorrt": "11.4"}, smi))["build --backend tensorrt"]


def test_what_cuda_graphs_need(machine: Callable[..., dict[str, Any]]) -> None:
    smi = "NVIDIA H200, 580.1, 143771, 9.0\n"
    step, block = "CUDA graphs of a step", "CUDA graphs of a block"

    def found(*rest: Any, **settings: Any) -> tuple[bool, bool]:
        what = abilities(machine(*rest, **settings))
        return what[step], what[block]

    driver = {"cuda": "12.4", "devices": [], "peers": []}
    here = {"cuda-core": "1.2"}
    assert found(here, smi, driver=driver) == (True, True)
    assert found(here, smi, driver=driver | {"cuda": "12.3"}) == (True, False)
    assert found(here, smi, driver=driver, broken=("cuda.bindings.nvrtc",)) == (True, False)
    assert found({}, smi, driver=driver) == (False, False)
    report = machine(here, smi, driver=driver, broken=("cuda.bindings.nvrtc",))
    assert any(
        "engines, and a tower on each of two GPUs, run without" in a["why"] for a in report["abilities"]
    )
    assert block not in abilities(machine(here))


def test_peer_access(machine: Callable[..., dict[str, Any]]) -> None:
    def two(reach: int) -> dict[str, Any]:
        found = examine_driver(lambda _: Driver(["NVIDIA A", "NVIDIA B"], reach))
        assert found is not None
        return found

    assert two(1) == {
        "cuda": "13.0",
        "devices": [{"name": "NVIDIA A", "memory_bytes": 80}, {"name": "NVIDIA B", "memory_bytes": 80}],
        "peers": [[True, True], [True, True]],
    }
    what = "peer access between GPUs"
    assert abilities(machine({}, driver=two(1)))[what]
    assert not abilities(machine({}, driver=two(0)))[what]
    assert "not between 0–1, 1–0; copies go through the host there" in words()
    assert "13.0 (the highest that the driver takes)" in words()


def test_a_driver_without_gpus_and_no_driver() -> None:
    def nothing(name: str) -> Any:
        raise OSError(f"{name}: cannot open shared object file")

    assert examine_driver(nothing) is None
    assert examine_driver(lambda _: Driver([], 0)) is None


class Driver:
    """The driver's library with these GPUs, each of 80 bytes; `reach`: whether they see each other."""

    def __init__(self, names: list[str], reach: int) -> None:
        self.names, self.reach = names, reach

    def cuInit(self, flags: int) -> int:
        return 0 if self.names else 100

    def cuDriverGetVersion(self, version: Any) -> int:
        version._obj.value = 13000
        return 0

    def cuDeviceGetCount(self, count: Any) -> int:
        count._obj.value = len(self.names)
        return 0

    def cuDeviceGetName(self, name: Any, size: int, number: int) -> int:
        name.value = self.names[number].encode()
        return 0

    def cuDeviceTotalMem_v2(self, memory: Any, number: int) -> int:
        memory._obj.value = 80
        return 0

    def cuDeviceCanAccessPeer(self, can: Any, a: int, b: int) -> int:
        can._obj.value = self.reach
        return 0


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
    code = "import sys; import ttc.doctor.abilities; assert not {'torch', 'onnxruntime'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_gpus_and_formats_of_experts(monkeypatch: pytest.MonkeyPatch) -> None:
    cards = "NVIDIA H100, 570.0, 81559, 9.0\nNVIDIA GB10, 570.0, [N/A], 12.1\n"
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: SimpleNamespace(stdout=cards))
    done = CliRunner().invoke(program, ["doctor", "--json"])
    (card,) = json.loads(done.stdout)["expert_formats"]  # no memory is told of the other
    assert card["gpu"] == "NVIDIA H100"
    assert {one["format"]: one["holds"] for one in card["formats"]}["int8"] == "both"
    lines = words().splitlines()
    assert any(line.split()[:2] == ["plain", "as"] and "two such GPUs hold both" in line for line in lines)
    assert any(line.startswith("nvfp4") and "bit by bit" in line and "fit, " in line for line in lines)

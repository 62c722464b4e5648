"""What the process that builds an engine may not do, and what is said when it fails."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from ttc.errors import BackendError
from ttc.exporter.engines.engine_spec import CompilerOptions, EngineSpec
from ttc.exporter.engines.isolated import IsolatedCompiler

ROOT = Path(__file__).parents[3]
RTX = CompilerOptions("tensorrt-rtx")
LIMITED = """
import resource, socket
from ttc.exporter.engines.worker_limits import forbid_network, limit_resources
limit_resources()
forbid_network()
for family in (socket.AF_INET, socket.AF_INET6):
    try:
        socket.socket(family)
    except PermissionError:
        print("refused")
socket.socket(socket.AF_UNIX).close()
print(*(resource.getrlimit(which)[0] for which in (resource.RLIMIT_FSIZE, resource.RLIMIT_CORE)))
print(resource.getrlimit(resource.RLIMIT_DATA)[0] > 0)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs seccomp")
def test_no_network_and_bounded_files() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LIMITED], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["refused", "refused", str(2**38), "0", "True"]


def spec_of(step: Path) -> EngineSpec:
    from ttc.exporter.engines.build_settings import BuildSettings
    from ttc.exporter.engines.lower_graph import engine_specs
    from ttc.exporter.engines.planning import make_plan

    (graph,) = make_plan(step, None, BuildSettings(cache=False)).graphs
    (spec,), _ = engine_specs(graph.source, "whole", graph.variants, False, plugins=False)
    return spec


def test_a_full_disk_is_given_as_the_reason(step: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")
    spec_of(step).write(tmp_path)

    def no_more_space() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (512, 512))

    with (tmp_path / "said").open("wb") as said:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "ttc.exporter.engines.worker", RTX.to_json()],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=said,
            preexec_fn=no_more_space,
            check=False,
        )
    word, kind, message = done.stdout.decode().splitlines()[-1].split("\t")
    assert (word, kind) == ("failed", "BackendError")
    assert "File too large" in json.loads(message)


def test_a_build_that_takes_too_long_is_ended(step: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")
    compiler = IsolatedCompiler(RTX, tmp_path / "work", lambda *_: True, most_seconds=0.05)
    with pytest.raises(BackendError, match=r"took longer than 0\.05 s"):
        compiler.build(spec_of(step), tmp_path / "step.engine")
    assert not (tmp_path / "work").exists()

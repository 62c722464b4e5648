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
# Runs a program that builds, with what it does after it has bound itself replaced by looking at the bounds.
LIMITED = """
import contextlib, json, resource, socket, sys
from importlib import import_module
from ttc.exporter.engines.engine_spec import CompilerOptions

program = import_module(sys.argv[1])


def look(*_):
    refused = []
    for family in ("AF_INET", "AF_INET6", "AF_UNIX"):
        try:
            socket.socket(getattr(socket, family)).close()
        except PermissionError:
            refused.append(family)
    names = ("FSIZE", "CORE", "DATA", "NOFILE")
    found = {name: resource.getrlimit(getattr(resource, f"RLIMIT_{name}"))[0] for name in names}
    print(json.dumps(found | {"refused": refused}))
    raise SystemExit


look.load = look  # of `TensorRT`
setattr(program, sys.argv[2], look)
program.main(CompilerOptions("tensorrt-rtx"))
"""


def with_cores() -> None:
    """Let a process dump its core, so that a limit on that shows."""
    hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
    resource.setrlimit(resource.RLIMIT_CORE, (hard, hard) if os.geteuid() else (2**20, 2**20))


@pytest.mark.skipif(sys.platform != "linux", reason="needs seccomp")
@pytest.mark.parametrize(("program", "work"), [("worker", "_build"), ("trial_worker", "TensorRT")])
def test_no_network_and_bounded_files(program: str, work: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, f"ttc.exporter.engines.{program}", work],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        input="{}\n",
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=with_cores,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found.pop("refused") == ["AF_INET", "AF_INET6"]
    assert 2**20 < found.pop("DATA") < 2**62
    most_files = min(1024, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    assert found == {"FSIZE": 2**38, "CORE": 0, "NOFILE": most_files}


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

"""Killed or interrupted midway, nothing is left; and a worker's memory is bounded."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.command_line import ROOT, ask, refused, run, start
from ttc.base.quantised import WRITTEN_FORMATS
from ttc.quantize.plan import stored_tensors
from ttc.quantize.work import Job, Place

MINIATURE = ROOT / "ttc" / "miniature"


def begun(process: "subprocess.Popen[str]", folder: Path) -> bool:
    """Wait until a draft is being written beside `folder`."""
    while process.poll() is None:
        if list(folder.parent.glob(f".{folder.name}.ttc-tmp-*/model.safetensors")):
            return True
        time.sleep(0.002)
    return False


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_ended_midway_it_leaves_nothing(tmp_path: Path, how: signal.Signals) -> None:
    out = tmp_path / "out"
    process = start("quantize", MINIATURE, "-o", out, "--experts", "nvfp4", "--jobs", "2")
    assert begun(process, out)
    process.send_signal(how)
    process.communicate(timeout=60)
    assert process.returncode == (-how if how == signal.SIGKILL else 128 + how)
    assert not out.exists()
    left = list(tmp_path.iterdir())
    assert bool(left) == (how == signal.SIGKILL)
    # The next one sweeps what a killed one left.
    assert run("quantize", MINIATURE, "-o", out, "--experts", "int8", "--jobs", "1").exit_code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_worker_takes_little_memory(tmp_path: Path) -> None:
    """Matrices of the released model's size in every format, and a large tensor, out of a sparse file."""
    outputs, inputs, copied = 1856, 2688, 5 * 10**8
    matrix = 2 * outputs * inputs
    source, target = tmp_path / "source", tmp_path / "target"
    for path in (source, target):
        with path.open("wb") as file:
            file.truncate(2 * 10**9)
    jobs = []
    for word in WRITTEN_FORMATS:
        at, places = 0, {}
        for suffix, tensor in stored_tensors(word, "m", outputs, inputs).items():
            places[suffix] = Place(str(target), at, tensor.nbytes)
            at += tensor.nbytes
        jobs.append(Job("m", word, True, (outputs, inputs), "bfloat16", str(source), 8, matrix, places))
    place = Place(str(target), 10**9, copied)
    jobs.append(Job("e", "plain", True, (), "bfloat16", str(source), matrix, copied, {"": place}))
    # Its own peak; getrusage counts what the process that started it had, too.
    code = "from ttc.quantize.worker import main; main(); "
    code += "print(*[line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        input="".join(json.dumps(job.to_dict()) + "\n" for job in jobs),
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=True,
    )
    *answers, peak = done.stdout.splitlines()
    assert [json.loads(answer)["error"] for answer in answers] == [0.0] * len(jobs)
    assert int(peak) * 1024 < 400e6


def test_the_command(tmp_path: Path) -> None:
    out = tmp_path / "out"
    found = ask("quantize", MINIATURE, "-o", out, "--experts", "int8", "--denoiser-experts", "nvfp4")
    assert found["experts"] == {"context": "int8", "denoiser": "nvfp4", "four_over_six": True}
    assert found["size_bytes"] == sum(path.stat().st_size for path in out.iterdir())
    assert "exists already" in refused("quantize", MINIATURE, "-o", out, "--experts", "fp8")
    again = run("quantize", MINIATURE, "-o", out, "--experts", "fp8", "--force", "--jobs", "1")
    assert again.exit_code == 0, again.stderr
    assert "context_tower.layers.1.mixer.experts.up_proj" in again.stdout
    assert "100 % of" in again.stderr
    (out / "mine.bin").touch()
    assert "no part of a quantised checkpoint" in refused(
        "quantize", MINIATURE, "-o", out, "--experts", "fp8", "--force"
    )


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    found = ask("quantize", MINIATURE, "--experts", "nvfp4", "--dry-run")
    assert {one["holds"] for one in found["machines"]} == {"both"}
    shown = run("quantize", MINIATURE, "-o", tmp_path / "out", "--experts", "nvfp4", "--dry-run")
    assert f"{found['matrices']} quantised" in shown.stdout
    assert "both towers on one: h100" in shown.stdout
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["-o", "x"], "--experts is missing"),
        (["-o", "x", "--context-experts", "int8"], "or --denoiser-experts"),
        (["--experts", "int8"], "Missing option '-o'"),
        (["-o", "x", "--experts", "mxfp4"], "'mxfp4' is not one of"),
        (["-o", "x", "--experts", "int8", "--plain-nvfp4"], "--plain-nvfp4 goes with nvfp4 only"),
    ],
)
def test_wrong_usage(arguments: list[str], complaint: str) -> None:
    done = run("quantize", MINIATURE, *arguments)
    assert done.exit_code == 2
    assert complaint in done.stderr

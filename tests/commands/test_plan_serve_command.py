"""`ttc plan --serve`: what it says, and what it refuses."""

import json
import os

import pytest
from click.testing import CliRunner

from ttc.cli import program

SHORT = ["plan", "--serve", "--minutes", "0.1", "--rows", "4", "--answer-tokens", "8-40"]


def run(*more: str):
    return CliRunner().invoke(program, [*SHORT, *more])


def test_json() -> None:
    done = run("--rate", "5", "--modes", "ar,diffusion", "--p95", "9", "--json", "--experts", "nvfp4")
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["asked"]["rate"] == 5
    assert found["experts"] == {"context": "nvfp4", "denoiser": "nvfp4"}
    assert list(found["modes"]) == ["ar", "diffusion"]
    assert found["requests"] == found["modes"]["ar"]["figures"]["requests"] > 10
    assert found["modes"]["diffusion"]["held"]["whole_p95"] <= 9
    assert list(found["by_clients"]) == ["1", "2", "4"]
    assert [one["mode"] for one in found["crossings"]] == ["diffusion"]


def test_a_replica_may_be_two_gpus() -> None:
    done = run("--gpu", "h100", "--rate", "5", "--modes", "ar")
    assert done.exit_code == 0, done.stderr
    assert "1 × 2 GPUs (NVIDIA H100" in done.stdout
    assert "clients" not in done.stdout, "one mode crosses nothing"


def test_quantised_experts_and_slower_kernels() -> None:
    speeds = [
        json.loads(run("--clients", "4", "--modes", "diffusion", "--json", *more).stdout)
        for more in ([], ["--experts", "nvfp4"], ["--efficiency", "0.5"], ["--tick-us", "5000"])
    ]
    plain, small, slow, hosted = (one["modes"]["diffusion"]["figures"]["tokens_per_second"] for one in speeds)
    assert slow < hosted < plain < small


def test_a_trace(tmp_path) -> None:
    trace = tmp_path / "trace.jsonl"
    lines = [{"at_seconds": 0.1 * i, "prompt_tokens": 50 + i, "answer_tokens": 9} for i in range(7)]
    trace.write_text("\n".join(map(json.dumps, lines)))
    done = run("--trace", str(trace), "--modes", "diffusion")
    assert done.exit_code == 0, done.stderr
    assert "7 requests" in done.stdout


def test_processes_find_the_same_as_one(monkeypatch) -> None:
    """So many requests that every mode is simulated by a process of its own."""
    much = [
        "--rate",
        "400",
        "--minutes",
        "0.05",
        "--answer-tokens",
        "1-9",
        "--modes",
        "ar,diffusion",
        "--json",
    ]
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    beside = run(*much)
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    assert json.loads(beside.stdout) == json.loads(run(*much).stdout)
    assert json.loads(beside.stdout)["requests"] > 1000


def test_an_overloaded_service_says_so() -> None:
    done = run("--rate", "400", "--minutes", "0.002", "--modes", "diffusion", "--p95", "0.01")
    assert "requests waited when the last came: overloaded" in done.stdout
    assert "no number of replicas answers 95 % within 0.01 s" in done.stdout


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--batch", "4"], "--batch goes without --serve"),
        (["--tokens-per-nfe", "2,3"], "one number with --serve"),
        (["--tokens-per-nfe", "12"], "valid for the published steps"),
        (["--rate", "2", "--clients", "2"], "give one of them"),
        (["--clients", "2", "--p95", "3"], "asked of a rate or a trace"),
        (["--modes", "prompt-lookup"], "valid: ar, diffusion"),
        (["--rate", "-1"], "rate is -1"),
        (["--rate", "1e-9"], "no request comes"),
        (["--rows", "2000"], "take fewer rows"),
        (["--gpu", "rtx-5090"], "does not fit NVIDIA GeForce RTX 5090"),
        (["--max-new-tokens", "5000"], "below what a row may hold, 4096"),
        (["--draft-steps", "1.5"], "an integer from 1 to 16"),
        (["--prompt-tokens", "many"], "valid: N, A-B"),
    ],
)
def test_refusals(given: list[str], said: str) -> None:
    done = run(*given)
    assert done.exit_code != 0
    assert said in " ".join(done.stderr.split())


def test_its_options_need_it() -> None:
    done = CliRunner().invoke(program, ["plan", "--rate", "3"])
    assert done.exit_code == 2
    assert "--rate needs --serve" in done.stderr
